/* The guest's seam of the pvpmu page protocol: which access goes to the page, and which exits.
 *
 * Written from docs/protocol.md (the rules in parentheses). Freestanding: no library, no process;
 * the environment gives pvpmu_exit(). An NMI handler may run between any two loads or stores.
 * A function returns 0, or 1 where the instruction raises #GP.
 */
#ifndef PVPMU_GUEST_H
#define PVPMU_GUEST_H

#include "pvpmu.h"

#define PVPMU_KNOWN_FEATURES (PVPMU_FEATURE_FREEZE | PVPMU_FEATURE_LVTPC_AUTO)

struct pvpmu_guest { /* one vCPU */
    volatile struct pvpmu_page *page; /* NULL: every access exits */
    uint64_t generation, features;    /* of the registration */
    uint64_t pmi_seen;                /* what pmi_ack was last set to */
    uint64_t gp, fixed, full_width;   /* from CPUID and PERF_CAPABILITIES; the caller sets them */
    uint64_t msr;                     /* MSR_PVPMU_PAGE (DSC-5); 0: no page is offered */
    uint64_t losses;                  /* generations that ended without the guest (GEN-4) */
};

/* One VM-exit and the VM-entry after it, with the NMI handler if that injects one (BND-15).
 * result[0] and [1] as in the exit slot. */
int pvpmu_exit(struct pvpmu_guest *g, uint64_t reason, uint64_t address, uint64_t value,
               uint64_t result[2]);

/* After each exit and at the start of the NMI handler (GEN-3). */
static inline void pvpmu_look(struct pvpmu_guest *g)
{
    uint64_t generation;

    if (!g->page || (generation = g->page->generation) == g->generation)
        return;
    g->losses++;
    g->generation = generation;
    if (!generation)
        g->page = NULL;
}

/* The row EXIT. Who wants `live` loads it from the page, always after this (OWN-4). */
static inline int pvpmu_trap(struct pvpmu_guest *g, uint64_t reason, uint64_t address,
                             uint64_t value, uint64_t *result)
{
    uint64_t both[2] = {0, 0};
    int fault = pvpmu_exit(g, reason, address, value, both);

    pvpmu_look(g);
    if (result)
        *result = both[0];
    return fault;
}

/* Whether `address` is one of a row of registers that exist; *i: which of them. */
static inline int pvpmu_in(uint64_t address, uint64_t first, uint64_t have, uint64_t most, uint64_t *i)
{
    *i = address - first;
    return *i < most && *i < have;
}

/* The page's word of a register that has one; *index: a counter's global index, else 64. */
static inline volatile uint64_t *pvpmu_word(struct pvpmu_guest *g, uint64_t address, uint64_t *index)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t i;

    *index = 64;
    if (!p)
        return NULL;
    if (address == PVPMU_MSR_CORE_PERF_GLOBAL_CTRL)
        return &p->global_ctrl;
    if (address == PVPMU_MSR_CORE_PERF_FIXED_CTR_CTRL)
        return &p->fixed_ctr_ctrl;
    if (address == PVPMU_MSR_APIC_LVTPC)
        return &p->lvtpc;
    if (pvpmu_in(address, PVPMU_MSR_ARCH_PERFMON_EVENTSEL0, g->gp, PVPMU_MAX_GP, &i))
        return &p->evtsel[i];
    if (pvpmu_in(address, PVPMU_MSR_ARCH_PERFMON_PERFCTR0, g->gp, PVPMU_MAX_GP, &i) ||
        (g->full_width && pvpmu_in(address, PVPMU_MSR_IA32_PMC0, g->gp, PVPMU_MAX_GP, &i)))
        return &p->pmc[*index = i];
    if (pvpmu_in(address, PVPMU_MSR_CORE_PERF_FIXED_CTR0, g->fixed, PVPMU_MAX_FIXED, &i)) {
        *index = PVPMU_FIXED_BASE + i;
        return &p->fixed_ctr[i];
    }
    return NULL;
}

static inline uint64_t pvpmu_read_status(struct pvpmu_guest *g)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t seq = p->pmi_seq, before, raised, acked;

    if (seq != g->pmi_seen)
        p->pmi_ack = g->pmi_seen = seq; /* PMI-8 */
    acked = p->acked;
    do {
        before = acked;
        raised = p->raised;
        acked = p->acked;
    } while (acked != before); /* a handler acknowledged in between */
    return (raised ^ acked) & p->status_mask;
}

static inline int pvpmu_write_ovf_ctrl(struct pvpmu_guest *g, uint64_t v)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t acked, toggle;

    if (v & p->ovf_ctrl_reserved)
        return pvpmu_trap(g, PVPMU_EXIT_MSR_WRITE, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, v, NULL);
    do {
        acked = p->acked;
        toggle = (p->raised ^ acked) & v & p->status_mask;
    } while (toggle && !__atomic_compare_exchange_n(
                           &p->acked, &acked, (acked ^ toggle) + PVPMU_ACK_COUNT_ONE, 0,
                           __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    p->ovf_ctrl = v;
    return 0;
}

/* Global indices of the fixed counters that a value of FIXED_CTR_CTRL enables. */
static inline uint64_t pvpmu_fixed_enables(uint64_t v)
{
    return ((v & 0x3) ? 1ull << 32 : 0) | ((v & 0x30) ? 1ull << 33 : 0) |
           ((v & 0x300) ? 1ull << 34 : 0);
}

static inline void pvpmu_release(volatile struct pvpmu_page *p)
{
    uint64_t released = p->release_seq, frozen = p->freeze_seq;

    if (released != frozen)
        __atomic_compare_exchange_n(&p->release_seq, &released, frozen, 0, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED);
}

/* Whether a write in FROZEN must exit: a value that the constants do not prove, or a COMMIT. */
static inline int pvpmu_must_exit(struct pvpmu_guest *g, volatile uint64_t *word, uint64_t v)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t bits, i;

    if (word == &p->lvtpc)
        return (v & p->lvtpc_dropped) != 0;
    if (word == &p->global_ctrl) {
        if (v & p->global_ctrl_reserved)
            return 1;
        bits = pvpmu_fixed_enables(p->fixed_ctr_ctrl) & v;
        for (i = 0; !bits && i < g->gp && i < PVPMU_MAX_GP; i++)
            if (v >> i & 1 && p->evtsel[i] & PVPMU_EVTSEL_EN)
                bits = 1;
        if (bits)
            pvpmu_release(p);
        return bits != 0;
    }
    if (word == &p->fixed_ctr_ctrl) {
        if (v & p->fixed_ctr_ctrl_reserved)
            return 1;
        bits = pvpmu_fixed_enables(v);
    } else {
        if (v & p->evtsel_reserved)
            return 1;
        bits = v & PVPMU_EVTSEL_EN ? 1ull << (word - &p->evtsel[0]) : 0;
    }
    return bits && bits & p->global_ctrl && p->freeze_seq == p->release_seq;
}

static inline int pvpmu_rdmsr(struct pvpmu_guest *g, uint64_t address, uint64_t *value)
{
    uint64_t index;
    volatile uint64_t *word = pvpmu_word(g, address, &index);

    if (g->page && address == PVPMU_MSR_CORE_PERF_GLOBAL_STATUS)
        *value = pvpmu_read_status(g);
    else if (word && (index >= 64 || !(g->page->live >> index & 1)))
        *value = *word;
    else
        return pvpmu_trap(g, PVPMU_EXIT_MSR_READ, address, 0, value);
    return 0;
}

static inline int pvpmu_rdpmc(struct pvpmu_guest *g, uint64_t ecx, uint64_t *value)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t i;

    if (p && pvpmu_in(ecx, 0, g->gp, PVPMU_MAX_GP, &i) && !(p->live >> i & 1))
        *value = p->pmc[i];
    else if (p && pvpmu_in(ecx, PVPMU_RDPMC_FIXED, g->fixed, PVPMU_MAX_FIXED, &i) &&
             !(p->live >> (PVPMU_FIXED_BASE + i) & 1))
        *value = p->fixed_ctr[i];
    else
        return pvpmu_trap(g, PVPMU_EXIT_RDPMC, ecx, 0, value);
    return 0;
}

static inline int pvpmu_wrmsr(struct pvpmu_guest *g, uint64_t address, uint64_t v)
{
    volatile struct pvpmu_page *p = g->page;
    uint64_t index, stored = v;
    volatile uint64_t *word = pvpmu_word(g, address, &index);

    if (p && address == PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL)
        return pvpmu_write_ovf_ctrl(g, v);
    if (!word || (address == PVPMU_MSR_APIC_LVTPC && v & PVPMU_LVT_MASKED &&
                  g->features & PVPMU_FEATURE_LVTPC_AUTO)) /* FEA-8 */
        goto trap;
    if (p->live) { /* RUNNING: a same value of a control register, or an exit */
        if (index < 64 || *word != v)
            goto trap;
        return 0;
    }
    if (address - PVPMU_MSR_ARCH_PERFMON_PERFCTR0 < g->gp)
        stored = (uint64_t)(int64_t)(int32_t)v & p->gp_mask;
    else if (index < 64 ? (v & ~(index < PVPMU_FIXED_BASE ? p->gp_mask : p->fixed_mask)) != 0
                        : pvpmu_must_exit(g, word, v))
        goto trap;
    *word = stored;
    if (word == &p->global_ctrl)
        pvpmu_release(p);
    return 0;
trap:
    return pvpmu_trap(g, PVPMU_EXIT_MSR_WRITE, address, v, NULL);
}

/* Discover and register; `page` is at guest-physical address `gpa`. Returns MSR_PVPMU_STATUS, NONE
 * if the host offers no page that this guest can use. */
static inline uint64_t pvpmu_register(struct pvpmu_guest *g, volatile struct pvpmu_page *page,
                                      uint64_t gpa)
{
    uint64_t leaf[2], status = PVPMU_STATUS_NONE, offered, ovf_ctrl;

    if (pvpmu_exit(g, PVPMU_EXIT_CPUID, PVPMU_LEAF_SIGNATURE, 0, leaf) ||
        (uint32_t)leaf[0] < PVPMU_LEAF_FEATURES || leaf[0] >> 32 != PVPMU_SIGNATURE_EBX ||
        leaf[1] != (PVPMU_SIGNATURE_ECX | PVPMU_SIGNATURE_EDX << 32) ||
        pvpmu_exit(g, PVPMU_EXIT_CPUID, PVPMU_LEAF_FEATURES, 0, leaf))
        return status;
    offered = leaf[0] >> 32;
    if ((leaf[0] & 0xff) > PVPMU_PAGE_VERSION || (leaf[0] >> 8 & 0xff) < PVPMU_PAGE_VERSION ||
        leaf[1] >> 32 != PVPMU_PAGE_SIZE || /* DSC-6, FEA-1 */
        offered & PVPMU_FEATURES_REQUIRED & ~PVPMU_KNOWN_FEATURES)
        return status;
    g->msr = (uint32_t)leaf[1];
    if (pvpmu_trap(g, PVPMU_EXIT_MSR_READ, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, 0, &ovf_ctrl))
        return status;
    page->version = 0; /* REG-6 */
    page->acked = 0;
    page->release_seq = 0;
    page->pmi_ack = 0;
    page->ovf_ctrl = ovf_ctrl;
    g->pmi_seen = 0;
    g->features = offered & PVPMU_KNOWN_FEATURES;
    if (pvpmu_trap(g, PVPMU_EXIT_MSR_WRITE, g->msr,
                   gpa | PVPMU_PAGE_VERSION << PVPMU_PAGE_VERSION_SHIFT | g->features |
                       PVPMU_PAGE_ENABLE, NULL) ||
        page->version != PVPMU_PAGE_VERSION) { /* REG-8 */
        pvpmu_trap(g, PVPMU_EXIT_MSR_READ, g->msr + 1, 0, &status);
        return status;
    }
    g->generation = page->generation;
    g->page = page;
    return PVPMU_STATUS_OK;
}

static inline int pvpmu_unregister(struct pvpmu_guest *g)
{
    g->page = NULL; /* END-5 */
    return pvpmu_trap(g, PVPMU_EXIT_MSR_WRITE, g->msr, 0, NULL);
}

#endif /* PVPMU_GUEST_H */
