/* A guest of pvpmu-host: the driver of include/ on a program to sample.
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
#include "pvpmu_driver.h"

enum { BRANCHES, CYCLES, INSTRUCTIONS, EVENTS };

#define BOTH (PVPMU_MODE_USER | PVPMU_MODE_KERNEL)
static const struct pvpmu_event wanted_events[EVENTS] = {
    {.index = 0, .selector = PVPMU_SELECTOR_BRANCH_INSTRUCTIONS, .modes = PVPMU_MODE_USER, .period = 10007},
    {.index = 33, .modes = BOTH, .period = 65536},
    {.index = 32, .modes = BOTH},
};
static const char *const names[EVENTS] = {"branches", "cycles", "instructions"};
static struct pvpmu_driver driver;
static uint64_t truth[EVENTS], now, digest = 0xcbf29ce484222325, losses; /* now: cycles */

void pvpmu_broken(struct pvpmu_driver *d, const char *what, uint64_t address)
{
    (void)d;
    die("#GP at %s 0x%" PRIx64, what, address);
}

void pvpmu_sampled(struct pvpmu_driver *d, struct pvpmu_event *e)
{
    (void)d;
    digest = (digest ^ (now << 8 | e->index)) * 0x100000001b3;
}

static void program(struct pvpmu_guest *g)
{
    pvpmu_drv_write(&driver, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, driver.all);
    pvpmu_drv_sched_in(&driver);
    losses = g->losses;
}

static void on_nmi(struct pvpmu_guest *g)
{
    (void)g;
    pvpmu_drv_handle(&driver);
}

static void step(struct pvpmu_guest *g) /* one cycle of the program: every ninth 1000 at CPL 0 */
{
    int kernel = now / 1000 % 9 == 8;
    uint64_t counts[PVPMU_KINDS] = {0};

    now++;
    counts[PVPMU_KIND_CPU_CYCLES] = counts[PVPMU_KIND_REF_CYCLES] = 1;
    counts[PVPMU_KIND_INSTRUCTIONS] = now % 3 != 0;
    counts[PVPMU_KIND_BRANCH_INSTRUCTIONS] = now % 5 == 0;
    truth[BRANCHES] += kernel ? 0 : counts[PVPMU_KIND_BRANCH_INSTRUCTIONS];
    truth[CYCLES]++;
    truth[INSTRUCTIONS] += counts[PVPMU_KIND_INSTRUCTIONS];
    if (pvpmu_live_retire(&live, kernel ? PVPMU_MODE_KERNEL : PVPMU_MODE_USER, counts, 1))
        pvpmu_trap(g, PVPMU_EXIT_EXCEPTION_NMI, 0, 0, NULL);
    if (g->losses != losses) /* GEN-4 */
        program(g);
}

static uint64_t check(const char *what, uint64_t expected, uint64_t actual)
{
    printf("%s: %s, expected %" PRIu64 ", actual %" PRIu64 "\n", expected == actual ? "ok" : "FAIL",
           what, expected, actual);
    return expected != actual;
}

int main(int argc, char **argv)
{
    struct pvpmu_guest g = {0};
    const struct pvpmu_event *e = driver.events;
    uint64_t wanted, version, status, i, failed = 0;
    volatile void *page;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || argc > 4) {
        fputs("usage: pvpmu-c-guest NAME [PMIS [WAIT_S]]\n", stderr);
        return 2;
    }
    wanted = argc > 2 ? strtoull(argv[2], NULL, 0) : 200;
    page = attach(argv[1], argc > 3 ? strtod(argv[3], NULL) : 60, on_nmi);
    driver.g = &g;
    version = pvpmu_drv_probe(&driver);
    if (version < 2 || !g.gp || g.fixed < 2)
        die("a PMU of version 2 with 1 GP and 2 fixed counters is needed, not of version %d with %d and %d",
            (int)version, (int)g.gp, (int)g.fixed);
    status = pvpmu_register(&g, page, 0);
    if (g.page)
        printf("page: registered, features 0x%" PRIx64 "\n", g.features);
    else
        printf("page: none (status %" PRIu64 "), every access exits\n", status);
    for (; driver.n < EVENTS; driver.n++)
        driver.events[driver.n] = wanted_events[driver.n];
    program(&g);
    for (handler_exits = 0; driver.pmis < wanted;)
        step(&g);
    pvpmu_drv_disable(&driver);
    for (i = 0; i < EVENTS; i++)
        pvpmu_drv_update(&driver, &driver.events[i]);
    if (g.msr && pvpmu_unregister(&g))
        die("#GP when unregistering");
    detach();
    for (i = 0; i < EVENTS && !g.losses; i++) {
        failed += check(names[i], truth[i], e[i].count);
        if (e[i].period)
            failed += check("samples of it", truth[i] / e[i].period, e[i].samples);
    }
    printf("samples: %" PRIu64 ", digest 0x%016" PRIx64 ", branches %" PRIu64 ", cycles %" PRIu64 "\n",
           e[0].samples + e[1].samples, digest, e[0].samples, e[1].samples);
    printf("PMIs: %" PRIu64 ", empty %" PRIu64 ", generations lost %" PRIu64 ", COMMITs refused %" PRIu64 "\n",
           driver.pmis, driver.empty, g.losses, driver.refusals);
    printf("exits:");
    for (i = 0; i < 256; i++)
        if (exits_by[i])
            printf(" %" PRIu64 " of reason %" PRIu64, exits_by[i], i);
    printf("\nexits per PMI: %.2f\n", driver.pmis ? (double)handler_exits / (double)driver.pmis : 0.0);
    return failed != 0;
}
