/* The seam of a design that reloads (docs/designs.md, page-reload): counter words hold reload values.
 *
 * While a counter counts, its word is what the host is to arm it with at its next overflow; it neither
 * stops nor is set in a handler. What the driver reads and writes there is answered as if it stood at
 * its wrap, and what it is told adds up to what was counted when it reads the counter elsewhere.
 * Freestanding; above pvpmu_guest.h, and outside the protocol.
 */
#ifndef PVPMU_RELOAD_H
#define PVPMU_RELOAD_H

#include "pvpmu_guest.h"

#define PVPMU_RELOAD_COUNTERS (PVPMU_MAX_GP + PVPMU_MAX_FIXED)

struct pvpmu_reload { /* one vCPU */
    struct {
        uint64_t start; /* its value when driver and host last agreed */
        uint64_t told;  /* what the driver has been told was counted since */
        uint64_t prev;  /* the value that it was told, or wrote, last */
        uint64_t reload, known; /* the value at an overflow; whether there is one */
    } counters[PVPMU_RELOAD_COUNTERS];
    uint64_t due;               /* counters whose overflow this handler has read */
    uint64_t in_handler;        /* of a PMI that found RUNNING */
    uint64_t deferred, enables; /* GLOBAL_CTRL as the handler leaves it, if not as it found it */
};

static inline uint64_t pvpmu_reload_mask(struct pvpmu_guest *g, uint64_t index)
{
    return index < PVPMU_FIXED_BASE ? g->page->gp_mask : g->page->fixed_mask;
}

static inline uint64_t pvpmu_reload_at(uint64_t index)
{
    return index < PVPMU_FIXED_BASE ? index : index - PVPMU_FIXED_BASE + PVPMU_MAX_GP;
}

static inline volatile uint64_t *pvpmu_reload_word(struct pvpmu_guest *g, uint64_t i)
{
    return i < PVPMU_MAX_GP ? &g->page->pmc[i] : &g->page->fixed_ctr[i - PVPMU_MAX_GP];
}

/* After registration: both agree. */
static inline void pvpmu_reload_begin(struct pvpmu_reload *r, struct pvpmu_guest *g)
{
    uint64_t i;

    *r = (struct pvpmu_reload){0};
    for (i = 0; g->page && i < PVPMU_RELOAD_COUNTERS; i++)
        r->counters[i].start = r->counters[i].prev = *pvpmu_reload_word(g, i);
}

/* The driver reads it, and it holds `value`: what the driver gets. */
static inline uint64_t pvpmu_reload_read(struct pvpmu_reload *r, struct pvpmu_guest *g,
                                         uint64_t index, uint64_t value)
{
    uint64_t i = pvpmu_reload_at(index), mask = pvpmu_reload_mask(g, index);
    int64_t counted = (int64_t)(((value - r->counters[i].start) & mask) - r->counters[i].told);

    if (counted > 0) {
        r->counters[i].told += (uint64_t)counted;
        r->counters[i].prev = (r->counters[i].prev + (uint64_t)counted) & mask;
    }
    return r->counters[i].prev;
}

/* The driver reads it in a PMI's handler: as it stood at its overflow. */
static inline uint64_t pvpmu_reload_wrap(struct pvpmu_reload *r, struct pvpmu_guest *g, uint64_t index)
{
    uint64_t i = pvpmu_reload_at(index);

    r->counters[i].told += -r->counters[i].prev & pvpmu_reload_mask(g, index);
    return r->counters[i].prev = 0;
}

/* It was set to `value` and held `held` before. */
static inline void pvpmu_reload_set(struct pvpmu_reload *r, struct pvpmu_guest *g, uint64_t index,
                                    uint64_t value, uint64_t held)
{
    uint64_t i = pvpmu_reload_at(index);
    uint64_t counted = (held - r->counters[i].start) & pvpmu_reload_mask(g, index);

    r->counters[i].told -= counted < r->counters[i].told ? counted : r->counters[i].told;
    r->counters[i].start = r->counters[i].prev = value;
    if (!r->counters[i].known) {
        r->counters[i].reload = value;
        r->counters[i].known = 1;
    }
}

/* Counters run: leave in each live one's word what it is to reload. */
static inline void pvpmu_reload_arm(struct pvpmu_reload *r, struct pvpmu_guest *g)
{
    uint64_t i, index;

    for (i = 0; g->page && i < PVPMU_RELOAD_COUNTERS; i++) {
        index = i < PVPMU_MAX_GP ? i : i - PVPMU_MAX_GP + PVPMU_FIXED_BASE;
        if (g->page->live >> index & 1 && r->counters[i].known)
            *pvpmu_reload_word(g, i) = r->counters[i].reload;
    }
}

static inline void pvpmu_reload_handler(struct pvpmu_reload *r, struct pvpmu_guest *g, int begins)
{
    uint64_t left = r->deferred;

    r->due = r->deferred = 0;
    r->in_handler = begins && g->page && g->page->live;
    if (left)
        pvpmu_trap(g, PVPMU_EXIT_MSR_WRITE, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, r->enables, NULL);
}

static inline int pvpmu_reload_rdmsr(struct pvpmu_reload *r, struct pvpmu_guest *g, uint64_t address,
                                     uint64_t *value)
{
    uint64_t index;
    volatile uint64_t *word = pvpmu_word(g, address, &index);
    int fault;

    if (word && index < 64 && r->due >> index & 1) {
        *value = pvpmu_reload_wrap(r, g, index);
        return 0;
    }
    if (r->in_handler && r->deferred && address == PVPMU_MSR_CORE_PERF_GLOBAL_CTRL) {
        *value = r->enables;
        return 0;
    }
    fault = pvpmu_rdmsr(g, address, value);
    if (!fault && g->page && word && index < 64)
        *value = pvpmu_reload_read(r, g, index, *value);
    if (!fault && r->in_handler && address == PVPMU_MSR_CORE_PERF_GLOBAL_STATUS)
        r->due |= *value & g->page->live;
    return fault;
}

static inline int pvpmu_reload_rdpmc(struct pvpmu_reload *r, struct pvpmu_guest *g, uint64_t ecx,
                                     uint64_t *value)
{
    uint64_t i;

    if (pvpmu_in(ecx, 0, g->gp, PVPMU_MAX_GP, &i))
        return pvpmu_reload_rdmsr(r, g, PVPMU_MSR_ARCH_PERFMON_PERFCTR0 + i, value);
    if (pvpmu_in(ecx, PVPMU_RDPMC_FIXED, g->fixed, PVPMU_MAX_FIXED, &i))
        return pvpmu_reload_rdmsr(r, g, PVPMU_MSR_CORE_PERF_FIXED_CTR0 + i, value);
    return pvpmu_rdpmc(g, ecx, value);
}

static inline int pvpmu_reload_wrmsr(struct pvpmu_reload *r, struct pvpmu_guest *g, uint64_t address,
                                     uint64_t v)
{
    uint64_t index, held, now, running = g->page ? g->page->live : 0;
    volatile uint64_t *word = pvpmu_word(g, address, &index);
    int fault;

    if (!word)
        return pvpmu_wrmsr(g, address, v);
    if (r->in_handler && address == PVPMU_MSR_CORE_PERF_GLOBAL_CTRL &&
        !(v & g->page->global_ctrl_reserved)) {
        r->deferred = v != *word;
        r->enables = v;
        return 0;
    }
    if (index >= 64) {
        fault = pvpmu_wrmsr(g, address, v);
        if (!running)
            pvpmu_reload_arm(r, g);
        return fault;
    }
    if (r->due >> index & 1 && !(v & ~pvpmu_reload_mask(g, index))) {
        r->due &= ~(1ull << index);
        r->counters[pvpmu_reload_at(index)].prev = r->counters[pvpmu_reload_at(index)].reload = v;
        r->counters[pvpmu_reload_at(index)].known = 1;
        *word = v;
        return 0;
    }
    held = *word;
    if (running && pvpmu_trap(g, PVPMU_EXIT_MSR_READ, address, 0, &held))
        return 1;
    fault = pvpmu_wrmsr(g, address, v);
    if (fault || !g->page)
        return fault;
    now = *word;
    if (running && pvpmu_trap(g, PVPMU_EXIT_MSR_READ, address, 0, &now))
        return 1;
    pvpmu_reload_set(r, g, index, now, held);
    if (running)
        pvpmu_reload_arm(r, g);
    return 0;
}

#endif /* PVPMU_RELOAD_H */
