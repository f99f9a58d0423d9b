/* What a guest of the model retires, and how far that is from an overflow (BND-13, BND-16, BND-17).
 *
 * For environments whose counters are modelled: the host says in the exit slot what counts and when
 * it overflows, the guest says what it retired. Freestanding.
 */
#ifndef PVPMU_LIVE_H
#define PVPMU_LIVE_H

#include "pvpmu.h"

#define PVPMU_MAX_LIVE 19

struct pvpmu_live { /* one vCPU */
    volatile struct pvpmu_exit_slot *slot;
    uint64_t flags; /* of the next request: which retired counts are valid */
    uint64_t version, count, descriptor[PVPMU_MAX_LIVE], distance[PVPMU_MAX_LIVE];
};

/* Once after each VM-entry: what was retired has been told, and the entries may be new. */
static inline void pvpmu_live_entered(struct pvpmu_live *l)
{
    uint64_t i;

    l->flags = 0;
    if (l->slot->live_version == l->version)
        return;
    l->version = l->slot->live_version;
    l->count = l->slot->live_count < PVPMU_MAX_LIVE ? l->slot->live_count : PVPMU_MAX_LIVE;
    for (i = 0; i < l->count; i++) {
        l->descriptor[i] = l->slot->live[2 * i];
        l->distance[i] = l->slot->live[2 * i + 1];
    }
}

/* Of one entry, what a step with these counts takes off its distance. */
static inline uint64_t pvpmu_live_counts(const struct pvpmu_live *l, uint64_t i, uint64_t mode,
                                         const uint64_t counts[])
{
    uint64_t kind = l->descriptor[i] & PVPMU_LIVE_KIND_MASK;

    return l->descriptor[i] >> PVPMU_LIVE_MODE_SHIFT & mode && kind < PVPMU_KINDS ? counts[kind] : 0;
}

/* Steps of these counts until the first overflow, `most` if there is none before. */
static inline uint64_t pvpmu_live_steps(const struct pvpmu_live *l, uint64_t mode,
                                        const uint64_t counts[], uint64_t most)
{
    uint64_t i, n, steps;

    for (i = 0; i < l->count; i++)
        if ((n = pvpmu_live_counts(l, i, mode, counts))) {
            steps = (l->distance[i] + n - 1) / n;
            most = steps < most ? steps : most;
        }
    return most ? most : 1;
}

/* Takes `times` steps off every distance. Returns whether an overflow is due. */
static inline int pvpmu_live_pass(struct pvpmu_live *l, uint64_t mode, const uint64_t counts[],
                                  uint64_t times)
{
    uint64_t i, n;
    int due = 0;

    for (i = 0; i < l->count; i++) {
        n = pvpmu_live_counts(l, i, mode, counts) * times;
        if (n) {
            due |= n >= l->distance[i];
            l->distance[i] = n < l->distance[i] ? l->distance[i] - n : 0;
        }
    }
    return due;
}

/* The same, and adds the steps to what the next exit tells. */
static inline int pvpmu_live_retire(struct pvpmu_live *l, uint64_t mode, const uint64_t counts[],
                                    uint64_t times)
{
    int user = mode == PVPMU_MODE_USER;
    volatile uint64_t *words = user ? l->slot->retired_user : l->slot->retired_kernel;
    uint64_t flag = user ? PVPMU_REQUEST_RETIRED_USER : PVPMU_REQUEST_RETIRED_KERNEL;
    uint64_t i;

    for (i = 0; i < PVPMU_KINDS; i++)
        words[i] = (l->flags & flag ? words[i] : 0) + counts[i] * times;
    l->flags |= flag;
    return pvpmu_live_pass(l, mode, counts, times);
}

#endif /* PVPMU_LIVE_H */
