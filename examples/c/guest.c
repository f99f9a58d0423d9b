/* A guest of pvpmu-host: the driver of include/ on a program to sample.
 *
 * usage: pvpmu-c-guest NAME [PMIS [WAIT_S]]
 *
 * Branches at CPL 3 are sampled on GP counter 0, cycles on fixed counter 1; fixed counter 0 counts
 * instructions. The program is the same on every machine, so the samples are, too.
 */
#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "binding.h"
#include "pvpmu_driver.h"

enum { BRANCHES, CYCLES, INSTRUCTIONS, EVENTS };
static struct pvpmu_guest guest;
static struct pvpmu_driver driver = {.g = &guest, .n = EVENTS, .events = {
    {.index = 0, .selector = PVPMU_SELECTOR_BRANCH_INSTRUCTIONS, .modes = PVPMU_MODE_USER, .period = 10007},
    {.index = 33, .modes = PVPMU_MODE_USER | PVPMU_MODE_KERNEL, .period = 65536},
    {.index = 32, .modes = PVPMU_MODE_USER | PVPMU_MODE_KERNEL},
}};
static const char *const names[EVENTS] = {"branches", "cycles", "instructions"};
static uint64_t truth[EVENTS], now, digest = 0xcbf29ce484222325, losses; /* now: cycles */

void pvpmu_broken(struct pvpmu_driver *d, const char *what, uint64_t address)
{
    (void)d;
    errx(1, "#GP at %s 0x%" PRIx64, what, address);
}

void pvpmu_sampled(struct pvpmu_driver *d, struct pvpmu_event *e)
{
    (void)d;
    digest = (digest ^ (now << 8 | e->index)) * 0x100000001b3;
}

void on_nmi(void)
{
    pvpmu_drv_handle(&driver);
}

static void program(void)
{
    pvpmu_drv_write(&driver, PVPMU_MSR_CORE_PERF_GLOBAL_OVF_CTRL, driver.all);
    pvpmu_drv_sched_in(&driver);
    losses = guest.losses;
}

static void step(void) /* one cycle of the program: every ninth 1000 at CPL 0 */
{
    int kernel = now++ / 1000 % 9 == 8;
    const uint64_t counts[PVPMU_KINDS] = {
        [PVPMU_KIND_CPU_CYCLES] = 1, [PVPMU_KIND_REF_CYCLES] = 1,
        [PVPMU_KIND_INSTRUCTIONS] = now % 3 != 0, [PVPMU_KIND_BRANCH_INSTRUCTIONS] = now % 5 == 0};

    truth[BRANCHES] += kernel ? 0 : counts[PVPMU_KIND_BRANCH_INSTRUCTIONS];
    truth[CYCLES]++;
    truth[INSTRUCTIONS] += counts[PVPMU_KIND_INSTRUCTIONS];
    if (pvpmu_live_retire(&live, kernel ? PVPMU_MODE_KERNEL : PVPMU_MODE_USER, counts, 1))
        pvpmu_trap(&guest, PVPMU_EXIT_EXCEPTION_NMI, 0, 0, NULL);
    if (guest.losses != losses) /* GEN-4 */
        program();
}

int main(int argc, char **argv)
{
    const struct pvpmu_event *e = driver.events;
    uint64_t wanted = argc > 2 ? strtoull(argv[2], NULL, 0) : 200, version, status, samples, i;
    volatile void *page;
    int right, failed = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || argc > 4)
        errx(2, "usage: pvpmu-c-guest NAME [PMIS [WAIT_S]]");
    page = attach(argv[1], argc > 3 ? strtod(argv[3], NULL) : 60);
    version = pvpmu_drv_probe(&driver);
    if (version < 2 || !guest.gp || guest.fixed < 2)
        errx(1, "a PMU of version 2 with 1 GP and 2 fixed counters is needed, not of version %d with %d and %d",
             (int)version, (int)guest.gp, (int)guest.fixed);
    status = pvpmu_register(&guest, page, 0);
    printf("page: %s, status %" PRIu64 ", features 0x%" PRIx64 "\n",
           guest.page ? "registered" : "none, every access exits", status, guest.features);
    program();
    for (handler_exits = 0; driver.pmis < wanted;)
        step();
    pvpmu_drv_sched_out(&driver);
    pvpmu_drv_disable(&driver);
    if (guest.msr && pvpmu_unregister(&guest))
        errx(1, "#GP when unregistering");
    detach();
    for (i = 0; i < EVENTS && !guest.losses; i++) {
        samples = e[i].period ? truth[i] / e[i].period : 0;
        right = e[i].count == truth[i] && e[i].samples == samples;
        failed |= !right;
        printf("%s: %" PRIu64 " %s, expected %" PRIu64 "; %" PRIu64 " samples, expected %" PRIu64 "\n",
               right ? "ok" : "FAIL", e[i].count, names[i], truth[i], e[i].samples, samples);
    }
    printf("samples: %" PRIu64 ", digest 0x%016" PRIx64 "\n", e[0].samples + e[1].samples, digest);
    printf("PMIs: %" PRIu64 ", empty %" PRIu64 ", generations lost %" PRIu64 ", COMMITs refused %" PRIu64 "\n",
           driver.pmis, driver.empty, guest.losses, driver.refusals);
    printf("exits:");
    for (i = 0; i < 256; i++)
        if (exits_by[i])
            printf(" %" PRIu64 " of reason %" PRIu64, exits_by[i], i);
    printf("\nexits per PMI: %.2f\n", driver.pmis ? (double)handler_exits / (double)driver.pmis : 0.0);
    return failed;
}
