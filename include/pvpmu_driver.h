/* A PMU driver in Linux's order of accesses (arch/x86/events, 5.14), above the seam.
 *
 * Freestanding. It executes RDMSR, WRMSR and RDPMC by pvpmu_guest.h and never learns which of them
 * went to the page. The environment gives pvpmu_broken(), pvpmu_sampled() and, if it defines
 * PVPMU_STAMPS, pvpmu_stamp_begin() and pvpmu_stamp_end() around each access.
 */
#ifndef PVPMU_DRIVER_H
#define PVPMU_DRIVER_H

#include "pvpmu_guest.h"

#ifndef PVPMU_RDMSR /* an environment may put a design's own seam here */
#define PVPMU_RDMSR pvpmu_rdmsr
#define PVPMU_WRMSR pvpmu_wrmsr
#define PVPMU_RDPMC pvpmu_rdpmc
#endif
#define PVPMU_MAX_EVENTS (PVPMU_MAX_GP + PVPMU_MAX_FIXED)

struct pvpmu_event {
    uint64_t index;    /* global index of its counter */
    uint64_t selector; /* of a GP counter: event select and umask */
    uint64_t modes;    /* PVPMU_MODE_USER and PVPMU_MODE_KERNEL */
    uint64_t period;   /* counts; 0: it only counts */
    uint64_t left, previous, count, samples, active;
};

struct pvpmu_driver { /* one CPU */
    struct pvpmu_guest *g;
    struct pvpmu_event events[PVPMU_MAX_EVENTS];
    uint64_t n;                      /* events; each has a counter of its own */
    uint64_t all, gp_mask, fixed_mask;
    uint64_t enabled;                /* as the driver last meant GLOBAL_CTRL to be */
    uint64_t pmis, empty, bits;      /* handlers with status, without, and status bits handled */
    uint64_t refusals;               /* COMMITs that the host refused at first */
};

/* A valid access raised #GP. Does not return. */
__attribute__((noreturn)) void pvpmu_broken(struct pvpmu_driver *d, const char *what, uint64_t address);
/* An event's period has elapsed. */
void pvpmu_sampled(struct pvpmu_driver *d, struct pvpmu_event *e);

#ifdef PVPMU_STAMPS
uint64_t pvpmu_stamp_begin(struct pvpmu_driver *d);
void pvpmu_stamp_end(struct pvpmu_driver *d, uint64_t reason, uint64_t address, uint64_t begin);
#define PVPMU_STAMPED(reason, address, access) \
    do { \
        uint64_t begin_ = pvpmu_stamp_begin(d); \
        access; \
        pvpmu_stamp_end(d, reason, address, begin_); \
    } while (0)
#else
#define PVPMU_STAMPED(reason, address, access) access
#endif

static inline uint64_t pvpmu_drv_read(struct pvpmu_driver *d, uint64_t address)
{
    uint64_t value;
    int fault;

    PVPMU_STAMPED(PVPMU_EXIT_MSR_READ, address, fault = PVPMU_RDMSR(d->g, address, &value));
    if (fault)
        pvpmu_broken(d, "RDMSR", address);
    return value;
}

static inline void pvpmu_drv_write(struct pvpmu_driver *d, uint64_t address, uint64_t value)
{
    int fault;

    PVPMU_STAMPED(PVPMU_EXIT_MSR_WRITE, address, fault = PVPMU_WRMSR(d->g, address, value));
    if (fault && d->g->page && d->g->page->rejected) { /* CMT-7: the word is right again */
        d->refusals++;
        fault = PVPMU_WRMSR(d->g, address, value);
    }
    if (fault)
        pvpmu_broken(d, "WRMSR", address);
}

/* CPUID and PERF_CAPABILITIES: which registers there are. Returns the PMU's version. */
static inline uint64_t pvpmu_drv_probe(struct pvpmu_driver *d)
{
    uint64_t leaf[2] = {0, 0}, capabilities;

    pvpmu_exit(d->g, PVPMU_EXIT_CPUID, PVPMU_LEAF_PMU, 0, leaf);
    d->g->gp = leaf[0] >> 8 & 0xff;
    d->g->fixed = leaf[1] >> 32 & 0x1f;
    d->gp_mask = (1ull << (leaf[0] >> 16 & 0xff)) - 1;
    d->fixed_mask = (1ull << (leaf[1] >> 37 & 0xff)) - 1;
    d->all = ((1ull << d->g->gp) - 1) | ((1ull << d->g->fixed) - 1) << PVPMU_FIXED_BASE;
    d->g->full_width = !pvpmu_rdmsr(d->g, PVPMU_MSR_IA32_PERF_CAPABILITIES, &capabilities) &&
                       capabilities & PVPMU_FULL_WIDTH_WRITES;
    return leaf[0] & 0xff;
}

static inline int pvpmu_drv_fixed(const struct pvpmu_event *e)
{
    return e->index >= PVPMU_FIXED_BASE;
}

static inline uint64_t pvpmu_drv_mask(const struct pvpmu_driver *d, const struct pvpmu_event *e)
{
    return pvpmu_drv_fixed(e) ? d->fixed_mask : d->gp_mask;
}

static inline void pvpmu_drv_update(struct pvpmu_driver *d, struct pvpmu_event *e)
{ /* x86_perf_event_update() */
    uint64_t ecx = pvpmu_drv_fixed(e) ? PVPMU_RDPMC_FIXED | (e->index - PVPMU_FIXED_BASE) : e->index;
    uint64_t value, delta;
    int fault;

    PVPMU_STAMPED(PVPMU_EXIT_RDPMC, ecx, fault = PVPMU_RDPMC(d->g, ecx, &value));
    if (fault)
        pvpmu_broken(d, "RDPMC", ecx);
    delta = (value - e->previous) & pvpmu_drv_mask(d, e);
    e->previous = value;
    e->count += delta;
    e->left -= delta;
}

static inline int pvpmu_drv_set_period(struct pvpmu_driver *d, struct pvpmu_event *e)
{ /* x86_perf_event_set_period(): whether the period had elapsed */
    uint64_t most = d->g->full_width ? d->gp_mask >> 1 : 0x7fffffff;
    uint64_t period = e->period ? e->period : most, address;
    int64_t left = (int64_t)e->left;
    int elapsed = left <= 0;

    if (left <= -(int64_t)period)
        left = (int64_t)period;
    else if (elapsed)
        left += (int64_t)period;
    e->left = (uint64_t)left;
    left = left < 2 ? 2 : left > (int64_t)most ? (int64_t)most : left;
    e->previous = -(uint64_t)left & pvpmu_drv_mask(d, e);
    if (pvpmu_drv_fixed(e))
        address = PVPMU_MSR_CORE_PERF_FIXED_CTR0 + e->index - PVPMU_FIXED_BASE;
    else
        address = (d->g->full_width ? PVPMU_MSR_IA32_PMC0 : PVPMU_MSR_ARCH_PERFMON_PERFCTR0) + e->index;
    /* A legacy counter is written sign-extended; the others at their width. */
    pvpmu_drv_write(d, address, pvpmu_drv_fixed(e) || d->g->full_width ? e->previous
                                                                        : e->previous | ~d->gp_mask);
    return elapsed;
}

static inline void pvpmu_drv_control(struct pvpmu_driver *d, struct pvpmu_event *e, int on)
{ /* intel_pmu_enable_event(), intel_pmu_disable_event() */
    uint64_t bits, shift, modes = e->modes;

    if (pvpmu_drv_fixed(e)) {
        shift = 4 * (e->index - PVPMU_FIXED_BASE);
        bits = (modes & PVPMU_MODE_USER ? PVPMU_FIXED_USR : 0) |
               (modes & PVPMU_MODE_KERNEL ? PVPMU_FIXED_OS : 0) | PVPMU_FIXED_PMI;
        bits = (pvpmu_drv_read(d, PVPMU_MSR_CORE_PERF_FIXED_CTR_CTRL) & ~(0xfull << shift)) |
               (on ? bits << shift : 0);
        pvpmu_drv_write(d, PVPMU_MSR_CORE_PERF_FIXED_CTR_CTRL, bits);
        return;
    }
    bits = e->selector | PVPMU_EVTSEL_INT | (modes & PVPMU_MODE_USER ? PVPMU_EVTSEL_USR : 0) |
           (modes & PVPMU_MODE_KERNEL ? PVPMU_EVTSEL_OS : 0) | (on ? PVPMU_EVTSEL_EN : 0);
    pvpmu_drv_write(d, PVPMU_MSR_ARCH_PERFMON_EVENTSEL0 + e->index, bits);
}

static inline void pvpmu_drv_start(struct pvpmu_driver *d, struct pvpmu_event *e)
{ /* x86_pmu_start() with PERF_EF_RELOAD */
    pvpmu_drv_set_period(d, e);
    e->active = 1;
    pvpmu_drv_control(d, e, 1);
}

static inline void pvpmu_drv_stop(struct pvpmu_driver *d, struct pvpmu_event *e)
{ /* x86_pmu_stop() with PERF_EF_UPDATE */
    e->active = 0;
    pvpmu_drv_control(d, e, 0);
    pvpmu_drv_update(d, e);
}

static inline void pvpmu_drv_disable(struct pvpmu_driver *d)
{
    d->enabled = 0;
    pvpmu_drv_write(d, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, 0);
}

static inline void pvpmu_drv_enable(struct pvpmu_driver *d)
{
    d->enabled = 1;
    pvpmu_drv_write(d, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, d->all);
}

static inline void pvpmu_drv_sched_in(struct pvpmu_driver *d)
{
    uint64_t i;

    pvpmu_drv_disable(d);
    for (i = 0; i < d->n; i++)
        pvpmu_drv_start(d, &d->events[i]);
    pvpmu_drv_write(d, PVPMU_MSR_APIC_LVTPC, PVPMU_LVT_NMI);
    pvpmu_drv_enable(d);
}

static inline void pvpmu_drv_sched_out(struct pvpmu_driver *d)
{
    uint64_t i;

    pvpmu_drv_disable(d);
    for (i = 0; i < d->n; i++)
        pvpmu_drv_stop(d, &d->events[i]);
    pvpmu_drv_enable(d);
}

static inline void pvpmu_drv_tick(struct pvpmu_driver *d)
{ /* perf_adjust_freq_unthr_context() in frequency mode */
    uint64_t i;

    pvpmu_drv_disable(d);
    for (i = 0; i < d->n; i++) {
        pvpmu_drv_stop(d, &d->events[i]);
        pvpmu_drv_start(d, &d->events[i]);
    }
    pvpmu_drv_enable(d);
}

static inline void pvpmu_drv_handle(struct pvpmu_driver *d)
{ /* intel_pmu_handle_irq() with late acknowledgement */
    uint64_t was_enabled = d->enabled, status, i;
    int most = 100;

    pvpmu_drv_disable(d);
    status = pvpmu_drv_read(d, PVPMU_MSR_CORE_PERF_GLOBAL_STATUS);
    *(status ? &d->pmis : &d->empty) += 1;
    while (status && most--) {
        pvpmu_drv_write(d, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, status);
        for (i = 0; i < d->n; i++) {
            struct pvpmu_event *e = &d->events[i];

            if (!e->active || !(status >> e->index & 1))
                continue;
            d->bits++;
            pvpmu_drv_update(d, e);
            if (pvpmu_drv_set_period(d, e) && e->period) {
                e->samples++;
                pvpmu_sampled(d, e);
            }
        }
        status = pvpmu_drv_read(d, PVPMU_MSR_CORE_PERF_GLOBAL_STATUS);
    }
    if ((d->enabled = was_enabled))
        pvpmu_drv_enable(d);
    pvpmu_drv_write(d, PVPMU_MSR_APIC_LVTPC, PVPMU_LVT_NMI);
}

#endif /* PVPMU_DRIVER_H */
