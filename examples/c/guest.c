/* A guest of pvpmu-host: a small PMU driver in the manner of Linux, and a program to sample.
 *
 * usage: pvpmu-c-guest NAME [PMIS [WAIT_S]]
 *
 * Branches at CPL 3 are sampled on GP counter 0, cycles on fixed counter 1; fixed counter 0 counts
 * instructions. The program is the same on every machine, so the samples are, too.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "binding.h"
#include "pvpmu_guest.h"

enum { BRANCHES, CYCLES, INSTRUCTIONS, EVENTS };

static struct event {
    const char *name;
    uint64_t msr, index, kind, period; /* period 0: counts only */
    uint64_t previous, count, samples, truth;
} events[EVENTS] = {
    {.name = "branches", .msr = PVPMU_MSR_ARCH_PERFMON_PERFCTR0, .index = 0,
     .kind = PVPMU_KIND_BRANCH_INSTRUCTIONS, .period = 10007},
    {.name = "cycles", .msr = PVPMU_MSR_CORE_PERF_FIXED_CTR1, .index = 33,
     .kind = PVPMU_KIND_CPU_CYCLES, .period = 65536},
    {.name = "instructions", .msr = PVPMU_MSR_CORE_PERF_FIXED_CTR0, .index = 32,
     .kind = PVPMU_KIND_INSTRUCTIONS},
};
static const uint64_t all = 1 | 1ull << 32 | 1ull << 33;
static uint64_t now, pmis, empty, digest = 0xcbf29ce484222325, widths[2]; /* now: cycles */
static uint64_t losses, refusals;
static int enabled; /* as the driver last meant GLOBAL_CTRL to be */

static uint64_t rd(struct pvpmu_guest *g, uint64_t msr)
{
    uint64_t value;

    if (pvpmu_rdmsr(g, msr, &value))
        die("#GP at RDMSR 0x%" PRIx64, msr);
    return value;
}

static void wr(struct pvpmu_guest *g, uint64_t msr, uint64_t value)
{
    int fault = pvpmu_wrmsr(g, msr, value);

    if (fault && g->page && g->page->rejected) { /* CMT-7: the word is right again */
        refusals++;
        fault = pvpmu_wrmsr(g, msr, value);
    }
    if (fault)
        die("#GP at WRMSR 0x%" PRIx64 ", value 0x%" PRIx64, msr, value);
}

static void update(struct pvpmu_guest *g, struct event *e) /* x86_perf_event_update() */
{
    uint64_t value, ecx = e->index < 32 ? e->index : PVPMU_RDPMC_FIXED | (e->index - 32);

    if (pvpmu_rdpmc(g, ecx, &value))
        die("#GP at RDPMC 0x%" PRIx64, ecx);
    e->count += (value - e->previous) & widths[e->index >= 32];
    e->previous = value;
}

static void arm(struct pvpmu_guest *g, struct event *e) /* x86_perf_event_set_period() */
{
    /* What it has counted beyond its overflow belongs to the next period. */
    uint64_t beyond = e->period ? e->previous % e->period : 0;

    e->previous = (beyond - e->period) & widths[e->index >= 32];
    /* A legacy counter is written sign-extended; the others at their width. */
    wr(g, e->msr, e->index < 32 ? e->previous | ~widths[0] : e->previous);
}

static void program(struct pvpmu_guest *g)
{
    int i;

    enabled = 0;
    wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, 0);
    wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, all);
    wr(g, PVPMU_MSR_APIC_LVTPC, PVPMU_LVT_NMI);
    for (i = 0; i < EVENTS; i++) {
        events[i].previous = 0;
        arm(g, &events[i]);
    }
    wr(g, PVPMU_MSR_ARCH_PERFMON_EVENTSEL0, PVPMU_SELECTOR_BRANCH_INSTRUCTIONS |
       PVPMU_EVTSEL_USR | PVPMU_EVTSEL_INT | PVPMU_EVTSEL_EN);
    wr(g, PVPMU_MSR_CORE_PERF_FIXED_CTR_CTRL, (PVPMU_FIXED_OS | PVPMU_FIXED_USR) |
       (PVPMU_FIXED_OS | PVPMU_FIXED_USR | PVPMU_FIXED_PMI) << 4);
    enabled = 1;
    wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, all);
    losses = g->losses;
}

static void on_nmi(struct pvpmu_guest *g) /* intel_pmu_handle_irq() */
{
    int was_enabled = enabled, i;
    uint64_t status;

    enabled = 0;
    wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, 0);
    status = rd(g, PVPMU_MSR_CORE_PERF_GLOBAL_STATUS);
    *(status ? &pmis : &empty) += 1;
    while (status) {
        wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, status);
        for (i = 0; i < EVENTS; i++) {
            if (!(status >> events[i].index & 1))
                continue;
            update(g, &events[i]);
            arm(g, &events[i]);
            events[i].samples++;
            digest = ((digest ^ (now << 8 | events[i].index)) * 0x100000001b3);
        }
        status = rd(g, PVPMU_MSR_CORE_PERF_GLOBAL_STATUS);
    }
    enabled = was_enabled;
    if (was_enabled)
        wr(g, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, all);
    wr(g, PVPMU_MSR_APIC_LVTPC, PVPMU_LVT_NMI);
}

static void step(struct pvpmu_guest *g) /* one cycle of the program: every ninth 1000 at CPL 0 */
{
    int kernel = now / 1000 % 9 == 8;
    uint64_t counts[PVPMU_KINDS] = {0};

    now++;
    counts[PVPMU_KIND_CPU_CYCLES] = counts[PVPMU_KIND_REF_CYCLES] = 1;
    counts[PVPMU_KIND_INSTRUCTIONS] = now % 3 != 0;
    counts[PVPMU_KIND_BRANCH_INSTRUCTIONS] = now % 5 == 0;
    events[BRANCHES].truth += kernel ? 0 : counts[PVPMU_KIND_BRANCH_INSTRUCTIONS];
    events[CYCLES].truth++;
    events[INSTRUCTIONS].truth += counts[PVPMU_KIND_INSTRUCTIONS];
    if (retire(kernel, counts))
        pvpmu_trap(g, PVPMU_EXIT_EXCEPTION_NMI, 0, 0, NULL);
    if (g->losses != losses) /* GEN-4 */
        program(g);
}

static int check(const char *what, uint64_t expected, uint64_t actual)
{
    printf("%s: %s, expected %" PRIu64 ", actual %" PRIu64 "\n", expected == actual ? "ok" : "FAIL",
           what, expected, actual);
    return expected != actual;
}

int main(int argc, char **argv)
{
    struct pvpmu_guest g = {0};
    uint64_t leaf[2], capabilities, wanted, status, i, failed = 0;
    volatile void *page;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || argc > 4) {
        fputs("usage: pvpmu-c-guest NAME [PMIS [WAIT_S]]\n", stderr);
        return 2;
    }
    wanted = argc > 2 ? strtoull(argv[2], NULL, 0) : 200;
    page = attach(argv[1], argc > 3 ? strtod(argv[3], NULL) : 60, on_nmi);
    if (pvpmu_exit(&g, PVPMU_EXIT_CPUID, PVPMU_LEAF_PMU, 0, leaf) || (leaf[0] & 0xff) < 2 ||
        !(leaf[0] >> 8 & 0xff) || (leaf[1] >> 32 & 0x1f) < 2)
        die("a PMU of version 2 with 1 GP and 2 fixed counters is needed, CPUID 0xA has EAX 0x%" PRIx64,
            leaf[0] & 0xffffffff);
    g.gp = leaf[0] >> 8 & 0xff;
    g.fixed = leaf[1] >> 32 & 0x1f;
    widths[0] = (1ull << (leaf[0] >> 16 & 0xff)) - 1;
    widths[1] = (1ull << (leaf[1] >> 37 & 0xff)) - 1;
    if (!pvpmu_rdmsr(&g, PVPMU_MSR_IA32_PERF_CAPABILITIES, &capabilities))
        g.full_width = capabilities & PVPMU_FULL_WIDTH_WRITES;
    status = pvpmu_register(&g, page, 0);
    if (g.page)
        printf("page: registered, features 0x%" PRIx64 "\n", g.features);
    else
        printf("page: none (status %" PRIu64 "), every access exits\n", status);
    program(&g);
    for (handler_exits = 0; pmis < wanted;)
        step(&g);
    wr(&g, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, (uint64_t)(enabled = 0));
    for (i = 0; i < EVENTS; i++)
        update(&g, &events[i]);
    if (g.msr && pvpmu_unregister(&g))
        die("#GP when unregistering");
    detach();
    for (i = 0; i < EVENTS && !g.losses; i++) {
        failed += (uint64_t)check(events[i].name, events[i].truth, events[i].count);
        if (events[i].period)
            failed += (uint64_t)check("samples of it", events[i].truth / events[i].period, events[i].samples);
    }
    printf("samples: %" PRIu64 ", digest 0x%016" PRIx64 ", branches %" PRIu64 ", cycles %" PRIu64 "\n",
           events[0].samples + events[1].samples, digest, events[0].samples, events[1].samples);
    printf("PMIs: %" PRIu64 ", empty %" PRIu64 ", generations lost %" PRIu64 ", COMMITs refused %" PRIu64 "\n",
           pmis, empty, g.losses, refusals);
    printf("exits:");
    for (i = 0; i < 256; i++)
        if (exits_by[i])
            printf(" %" PRIu64 " of reason %" PRIu64, exits_by[i], i);
    printf("\nexits per PMI: %.2f\n", pmis ? (double)handler_exits / (double)pmis : 0.0);
    return failed != 0;
}
