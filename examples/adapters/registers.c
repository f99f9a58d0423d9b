/*
 * A conformance adapter in C: registers that hold what was written, and nothing behind them.
 *
 * It speaks the protocol, so that every case ends with a verdict; most verdicts are fail.
 *
 *   cc -o registers examples/adapters/registers.c
 *   pvpmu conform run --target adapter:./registers
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST (1 << 16)
#define REGISTERS 64
#define A_PMC0 0x4c1 /* another name of IA32_PMC0 */
#define PMC0 0xc1
#define FIXED_CTR0 0x309
#define RDPMC_FIXED (UINT64_C(1) << 30)
#define LVTPC 0x834

static struct { uint64_t address, value; } registers[REGISTERS];
static uint64_t used, leaf_eax, leaf_edx;

/* What follows "name": in a line, NULL if it has no such field. The kit sends no spaces. */
static const char *field(const char *line, const char *name)
{
	char key[32];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\":", name);
	at = strstr(line, key);
	return at ? at + strlen(key) : NULL;
}

/* An integer: a hex string, or a plain number. */
static uint64_t number(const char *line, const char *name)
{
	const char *at = field(line, name);
	return at ? strtoull(at + (*at == '"'), NULL, 0) : 0;
}

static int is(const char *text, const char *word)
{
	return text && !strncmp(text + 1, word, strlen(word)) && text[1 + strlen(word)] == '"';
}

static uint64_t *value_of(uint64_t address)
{
	uint64_t i;

	if (address >= A_PMC0 && address < A_PMC0 + 8)
		address += PMC0 - A_PMC0;
	for (i = 0; i < used; i++)
		if (registers[i].address == address)
			return &registers[i].value;
	if (used == REGISTERS)
		return NULL;
	registers[used].address = address;
	registers[used].value = 0;
	return &registers[used++].value;
}

static void reset(const char *line)
{
	used = 0;
	leaf_eax = number(line, "version") | number(line, "gp") << 8 | number(line, "gp_width") << 16;
	leaf_edx = number(line, "fixed") | number(line, "fixed_width") << 5;
	puts("{}");
}

static void access(const char *line, uint64_t address)
{
	uint64_t *value = value_of(address);
	if (!value)
		puts("{\"error\":\"out of registers\"}");
	else if (field(line, "value")) {
		*value = number(line, "value");
		puts("{}");
	} else
		printf("{\"value\":\"0x%" PRIx64 "\"}\n", *value);
}

static void operation(const char *line)
{
	const char *op = field(line, "op"), *part = field(line, "register");
	uint64_t index = number(line, "index");

	if (is(op, "wr") || is(op, "rd"))
		access(line, number(line, "msr"));
	else if (is(op, "lvtpc"))
		access(line, LVTPC);
	else if (is(op, "rdpmc"))
		access(line, (index & RDPMC_FIXED ? FIXED_CTR0 : PMC0) + (index & 0xff));
	else if (is(op, "cpuid"))
		printf("{\"value\":\"0x%" PRIx64 "\"}\n",
		       is(part, "eax") ? leaf_eax : is(part, "edx") ? leaf_edx : 0);
	else if (is(op, "run") || is(op, "mark"))
		puts("{}"); /* nothing counts */
	else
		puts("{\"unsupported\":\"registers only\"}");
}

int main(void)
{
	static char line[LONGEST];

	setvbuf(stdout, NULL, _IOLBF, 0); /* the kit waits for each line */
	while (fgets(line, sizeof(line), stdin)) {
		if (field(line, "hello"))
			puts("{\"hello\":{\"name\":\"registers\",\"version\":\"1\",\"protocol\":1,"
			     "\"features\":[],\"profiles\":[\"kvm-5.14\"]}}");
		else if (field(line, "reset"))
			reset(line);
		else
			operation(line);
	}
	return 0;
}
