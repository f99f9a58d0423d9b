/* The guest of a real VM: does what its box says (pvpmu/vm/layout.py), one command after another.
 *
 * Freestanding, written from docs/protocol.md. Accesses that exit are real instructions; the driver
 * and the seam are those of include/. RDPMC never leaves KVM, so a counter that must be read by an
 * exit is read by RDMSR.
 */
#include "pvpmu_reload.h"

static int by_design_rdmsr(struct pvpmu_guest *g, uint64_t address, uint64_t *value);
static int by_design_wrmsr(struct pvpmu_guest *g, uint64_t address, uint64_t value);
static int by_design_rdpmc(struct pvpmu_guest *g, uint64_t ecx, uint64_t *value);
#define PVPMU_RDMSR by_design_rdmsr
#define PVPMU_WRMSR by_design_wrmsr
#define PVPMU_RDPMC by_design_rdpmc
#define PVPMU_STAMPS
#include "pvpmu_driver.h"
#include "pvpmu_live.h"
#include "vm_box.h"
#include "vm_constants.h"

struct vcpu {
    struct vcpu *self;    /* start.S: GS:0 */
    uint64_t window;      /* GS:8: an NMI-window exit is due after IRET; the loop stores it */
    uint64_t fault;       /* GS:16: the last access raised #GP */
    uint64_t user;        /* GS:24: this runs at CPL 3 */
    uint64_t saved[3], nmi_stack, kernel_stack; /* start.S's own */
    uint64_t in_handler, run; /* run: flags of a PMIS command under way */
    volatile struct pvpmu_vm_box *box;
    volatile struct pvpmu_page *page;
    volatile struct pvpmu_exit_slot *slot;
    uint64_t counts[PVPMU_KINDS], sink;
    struct pvpmu_guest seam;
    struct pvpmu_driver driver;
    struct pvpmu_live live;
    uint64_t reloads;     /* the design reloads, and a page is registered */
    struct pvpmu_reload reload;
    uint64_t walked[64];
};
_Static_assert(sizeof(struct vcpu) <= VM_STATE_SIZE, "state");

void vm_nmi(struct vcpu *v);
void vm_main(volatile struct pvpmu_vm_box *box);

static struct vcpu *this_vcpu(void)
{
    struct vcpu *v;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(v));
    return v;
}

static uint64_t tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (uint64_t)high << 32;
}

/* The gate of start.S: RCX is *c, and comes back there. */
static void gate(uint64_t what, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    register uint64_t r9 __asm__("r9") = what, r10 __asm__("r10") = *c;

    __asm__ volatile("int3" : "+a"(*a), "+b"(*b), "+d"(*d), "+r"(r10)
                     : "r"(r9) : "rcx", "r11", "memory", "cc");
    *c = (uint32_t)r10;
}

static void out(uint64_t port)
{
    uint32_t a = 0, b = 0, c = 0, d = (uint32_t)port;

    if (this_vcpu()->user)
        gate(VM_GATE_OUT, &a, &b, &c, &d);
    else
        __asm__ volatile("out %%al, %%dx" : : "a"(a), "d"(d) : "memory");
}

static int by_design_rdmsr(struct pvpmu_guest *g, uint64_t address, uint64_t *value)
{
    struct vcpu *v = this_vcpu();

    return v->reloads ? pvpmu_reload_rdmsr(&v->reload, g, address, value) : pvpmu_rdmsr(g, address, value);
}

static int by_design_wrmsr(struct pvpmu_guest *g, uint64_t address, uint64_t value)
{
    struct vcpu *v = this_vcpu();

    return v->reloads ? pvpmu_reload_wrmsr(&v->reload, g, address, value) : pvpmu_wrmsr(g, address, value);
}

static int by_design_rdpmc(struct pvpmu_guest *g, uint64_t ecx, uint64_t *value)
{
    struct vcpu *v = this_vcpu();

    return v->reloads ? pvpmu_reload_rdpmc(&v->reload, g, ecx, value) : pvpmu_rdpmc(g, ecx, value);
}

static void log_word(struct vcpu *v, uint64_t word)
{
    volatile uint64_t *log = (volatile uint64_t *)v->box->log_address;
    uint64_t at = v->box->logged;

    if (at < VM_LOG_WORDS) {
        log[at] = word;
        v->box->logged = at + 1;
    }
}

void pvpmu_broken(struct pvpmu_driver *d, const char *what, uint64_t address)
{
    (void)d;
    (void)what;
    this_vcpu()->box->detail = address;
    for (;;)
        out(VM_PORT_BROKEN);
}

void pvpmu_sampled(struct pvpmu_driver *d, struct pvpmu_event *e)
{
    (void)d;
    (void)e;
}

uint64_t pvpmu_stamp_begin(struct pvpmu_driver *d)
{
    (void)d;
    return this_vcpu()->run & VM_RUN_STAMPS ? tsc() : 0;
}

void pvpmu_stamp_end(struct pvpmu_driver *d, uint64_t reason, uint64_t address, uint64_t begin)
{
    struct vcpu *v = this_vcpu();

    (void)d;
    if (v->run & VM_RUN_STAMPS && v->in_handler) {
        log_word(v, reason << 32 | address);
        log_word(v, tsc() - begin);
    }
}

static uint64_t counter_msr(const struct pvpmu_guest *g, uint64_t ecx)
{
    uint64_t i;

    if (pvpmu_in(ecx, 0, g->gp, PVPMU_MAX_GP, &i))
        return PVPMU_MSR_ARCH_PERFMON_PERFCTR0 + i;
    if (pvpmu_in(ecx, PVPMU_RDPMC_FIXED, g->fixed, PVPMU_MAX_FIXED, &i))
        return PVPMU_MSR_CORE_PERF_FIXED_CTR0 + i;
    return VM_MSR_RDPMC; /* an index without a counter: the VMM takes ECX from the slot */
}

int pvpmu_exit(struct pvpmu_guest *g, uint64_t reason, uint64_t address, uint64_t value,
               uint64_t result[2])
{
    struct vcpu *v = this_vcpu();
    uint32_t a = (uint32_t)value, b = 0, c = (uint32_t)address, d = (uint32_t)(value >> 32);

    v->fault = 0;
    v->slot->request = v->live.flags | (v->in_handler ? PVPMU_REQUEST_NMI_BLOCKED : 0);
    switch (reason) {
    case PVPMU_EXIT_RDPMC:
        v->slot->address = address;
        c = (uint32_t)counter_msr(g, address);
        /* fall through */
    case PVPMU_EXIT_MSR_READ:
        a = d = 0;
        if (v->user)
            gate(VM_GATE_RDMSR, &a, &b, &c, &d);
        else
            __asm__ volatile("rdmsr" : "+a"(a), "+d"(d) : "c"(c) : "memory");
        result[0] = a | (uint64_t)d << 32;
        break;
    case PVPMU_EXIT_MSR_WRITE:
        if (v->user)
            gate(VM_GATE_WRMSR, &a, &b, &c, &d);
        else
            __asm__ volatile("wrmsr" : : "c"(c), "a"(a), "d"(d) : "memory");
        break;
    case PVPMU_EXIT_CPUID: /* KVM answers it: no exit to the VMM, nothing told */
        a = c;
        c = 0;
        if (v->user)
            gate(VM_GATE_CPUID, &a, &b, &c, &d);
        else
            __asm__ volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
        result[0] = a | (uint64_t)b << 32;
        result[1] = c | (uint64_t)d << 32;
        return 0;
    case PVPMU_EXIT_HLT:
        if (v->user)
            gate(VM_GATE_HLT, &a, &b, &c, &d);
        else
            __asm__ volatile("hlt" : : : "memory");
        break;
    default:
        out(VM_PORT_REASON + reason);
    }
    pvpmu_live_entered(&v->live);
    return v->fault != 0;
}

static void serve(struct vcpu *v, uint64_t until);

void vm_nmi(struct vcpu *v)
{
    uint64_t begin = tsc(), fault = v->fault, was = v->in_handler;
    uint64_t request = v->slot->request, address = v->slot->address; /* of an exit about to be made */

    v->in_handler = 1;
    v->box->nmis++;
    pvpmu_live_entered(&v->live);
    pvpmu_look(&v->seam);
    if (v->reloads)
        pvpmu_reload_handler(&v->reload, &v->seam, 1);
    if (v->driver.n)
        pvpmu_drv_handle(&v->driver);
    else
        serve(v, VM_COMMAND_IRET);
    if (v->reloads)
        pvpmu_reload_handler(&v->reload, &v->seam, 0);
    if (v->run & VM_RUN_HANDLERS) {
        log_word(v, begin);
        log_word(v, tsc());
    }
    v->in_handler = was;
    v->fault = fault;
    v->slot->request = request;
    v->slot->address = address;
}

/* The workload: `loops` rounds of VM_LOOP_INSTRUCTIONS instructions, VM_LOOP_BRANCHES of them
 * branches, one of which goes as the data says; and one step of a walk through memory. */
static void work(struct vcpu *v, uint64_t loops)
{
    uint64_t x = v->sink | 1, at;

    __asm__ volatile(
        "1: imul $0x5851f42d, %0, %0\n"
        "   add $12345, %0\n"
        "   mov %0, %1\n"
        "   shr $20, %1\n"
        "   and $63, %1\n"
        "   add (%3,%1,8), %0\n"
        "   test $0x40000, %0\n"
        "   jz 2f\n"
        "   xor $0x55, %0\n"
        "   jmp 3f\n"
        "2: add $7, %0\n"
        "   jmp 3f\n"
        "3: dec %2\n"
        "   jnz 1b\n"
        : "+r"(x), "=&r"(at), "+r"(loops)
        : "r"(v->walked)
        : "cc", "memory");
    v->sink = x;
}

/* These loops are done: whether a modelled counter overflows now. */
static int due(struct vcpu *v, uint64_t mode, uint64_t flags, uint64_t loops)
{
    uint64_t nmis = v->box->nmis;
    int found;

    v->box->loops_done += loops;
    if (flags & VM_RUN_RETIRES)
        return pvpmu_live_retire(&v->live, mode, v->counts, loops);
    if (!(flags & VM_RUN_LOOPS))
        return 0;
    found = pvpmu_live_pass(&v->live, mode, v->counts, loops);
    if (v->box->nmis == nmis)
        return found;
    v->live.version = 0; /* a handler ran meanwhile: the host has told since how far it is */
    pvpmu_live_entered(&v->live);
    return 0;
}

static void run(struct vcpu *v, uint64_t pmis, uint64_t flags)
{
    uint64_t mode = v->user ? PVPMU_MODE_USER : PVPMU_MODE_KERNEL;
    struct pvpmu_driver *d = &v->driver;
    uint64_t first = d->pmis, loops;

    v->run = flags;
    while (d->pmis - first < pmis) {
        loops = v->box->loops;
        if (flags & (VM_RUN_RETIRES | VM_RUN_LOOPS))
            loops = pvpmu_live_steps(&v->live, mode, v->counts, loops);
        work(v, loops);
        if (due(v, mode, flags, loops))
            pvpmu_trap(&v->seam, PVPMU_EXIT_EXCEPTION_NMI, 0, 0, NULL);
    }
    v->run = 0;
}

static void prepare(struct vcpu *v)
{
    volatile struct pvpmu_vm_box *box = v->box;
    uint64_t i;

    v->driver = (struct pvpmu_driver){.g = &v->seam};
    v->seam = (struct pvpmu_guest){0};
    v->reloads = 0;
    box->fault = pvpmu_drv_probe(&v->driver) < 2;
    box->result = box->value ? pvpmu_register(&v->seam, v->page, box->page_address) : 0;
    v->reloads = v->seam.page && box->address;
    pvpmu_reload_begin(&v->reload, &v->seam);
    for (i = 0; i < box->event_count && i < PVPMU_MAX_EVENTS; i++)
        v->driver.events[i] = (struct pvpmu_event){
            .index = box->events[4 * i], .selector = box->events[4 * i + 1],
            .modes = box->events[4 * i + 2], .period = box->events[4 * i + 3]};
    v->driver.n = i;
    for (i = 0; i < PVPMU_KINDS; i++)
        v->counts[i] = box->counts[i];
    for (i = 0; i < 64; i++)
        v->walked[i] = i * 0x9e3779b97f4a7c15;
    box->loops_done = 0;
}

static void finish(struct vcpu *v)
{
    uint64_t i;

    pvpmu_drv_sched_out(&v->driver);
    pvpmu_drv_write(&v->driver, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, 0);
    for (i = 0; i < v->driver.n; i++) {
        v->box->answers[2 * i] = v->driver.events[i].count;
        v->box->answers[2 * i + 1] = v->driver.events[i].samples;
    }
    v->box->acknowledged = v->seam.pmi_seen;
    if (v->seam.msr)
        pvpmu_unregister(&v->seam);
    v->driver.n = v->reloads = 0;
}

static void tell(struct vcpu *v)
{
    v->box->pmis = v->driver.pmis;
    v->box->empty = v->driver.empty;
    v->box->bits = v->driver.bits;
    v->box->refusals = v->driver.refusals;
    v->box->registered = v->seam.page != NULL;
}

static void one_exit(struct vcpu *v)
{
    uint64_t result = 0;

    v->box->fault = (uint64_t)pvpmu_trap(&v->seam, v->box->reason, v->box->address, v->box->value, &result);
    v->box->result = result;
}

static void cpuid(struct vcpu *v)
{
    uint64_t result[2];

    pvpmu_exit(&v->seam, PVPMU_EXIT_CPUID, v->box->address, 0, result);
    v->box->result = result[0];
    v->box->detail = result[1];
}

static void repeat(struct vcpu *v, uint64_t command)
{
    uint64_t times = v->box->value, begin, i;
    uint32_t none[4] = {0, 0, 0, 0};

    while (times--) {
        begin = tsc();
        if (command == VM_COMMAND_SCHED_IN)
            pvpmu_drv_sched_in(&v->driver);
        else if (command == VM_COMMAND_SCHED_OUT)
            pvpmu_drv_sched_out(&v->driver);
        else if (command == VM_COMMAND_TICK)
            pvpmu_drv_tick(&v->driver);
        else if (command == VM_COMMAND_EMPTY)
            out(VM_PORT_EMPTY);
        else if (command == VM_COMMAND_MSRS)
            pvpmu_trap(&v->seam, PVPMU_EXIT_MSR_READ, PVPMU_MSR_CORE_PERF_GLOBAL_STATUS, 0, NULL);
        else if (command == VM_COMMAND_GATES && v->user)
            gate(VM_GATE_NOTHING, &none[0], &none[1], &none[2], &none[3]);
        else if (command == VM_COMMAND_WORDS)
            for (i = 0; i < VM_WORDS_BATCH; i++)
                v->sink ^= v->page->lvtpc;
        log_word(v, begin);
        log_word(v, tsc());
    }
}

static void register_page(struct vcpu *v)
{
    struct pvpmu_driver probe = {.g = &v->seam};

    if (v->seam.page)
        pvpmu_unregister(&v->seam);
    v->seam = (struct pvpmu_guest){0};
    v->reloads = 0;
    pvpmu_drv_probe(&probe);
    v->box->result = pvpmu_register(&v->seam, v->page, v->box->page_address);
    v->reloads = v->seam.page && v->box->value;
    pvpmu_reload_begin(&v->reload, &v->seam);
}

/* Commands until `until`; a handler's, within a command that is under way, keep its results. */
static void serve(struct vcpu *v, uint64_t until)
{
    volatile struct pvpmu_vm_box *box = v->box;
    uint64_t command, value;

    out(until ? VM_PORT_NMI : VM_PORT_READY);
    while ((command = box->command) != until || !until) {
        pvpmu_look(&v->seam); /* the doorbell was an exit, too (GEN-3) */
        value = box->result = box->fault = 0;
        v->live.flags = box->flags;
        switch (command) {
        case VM_COMMAND_EXIT:
            one_exit(v);
            break;
        case VM_COMMAND_READ:
            box->fault = (uint64_t)by_design_rdmsr(&v->seam, box->address, &value);
            box->result = value;
            break;
        case VM_COMMAND_WRITE:
            box->fault = (uint64_t)by_design_wrmsr(&v->seam, box->address, box->value);
            break;
        case VM_COMMAND_RDPMC:
            box->fault = (uint64_t)by_design_rdpmc(&v->seam, box->address, &value);
            box->result = value;
            break;
        case VM_COMMAND_CPUID:
            cpuid(v);
            break;
        case VM_COMMAND_REGISTER:
            register_page(v);
            break;
        case VM_COMMAND_UNREGISTER:
            v->reloads = 0;
            box->fault = (uint64_t)pvpmu_unregister(&v->seam);
            break;
        case VM_COMMAND_FORGET:
            v->seam.page = NULL;
            v->reloads = 0;
            break;
        case VM_COMMAND_PREPARE:
            prepare(v);
            break;
        case VM_COMMAND_PMIS:
            run(v, box->value, box->address);
            break;
        case VM_COMMAND_FINISH:
            finish(v);
            break;
        default:
            repeat(v, command);
        }
        tell(v);
        out(VM_PORT_READY);
    }
}

void vm_main(volatile struct pvpmu_vm_box *box)
{
    struct vcpu *v = this_vcpu();

    v->box = box;
    v->page = (volatile struct pvpmu_page *)(VM_ALIAS + box->page_address);
    v->slot = (volatile struct pvpmu_exit_slot *)box->slot_address;
    v->live.slot = v->slot;
    v->seam = (struct pvpmu_guest){0};
    v->driver.n = 0;
    serve(v, VM_COMMAND_NONE);
}
