/* The process binding (docs/protocol.md, rules BND): how this process reaches a pvpmu-host. */
#ifndef BINDING_H
#define BINDING_H

#include "pvpmu_live.h"

struct pvpmu_guest;

extern struct pvpmu_live live; /* what the program retires goes there */

extern uint64_t exits_by[256], handler_exits; /* by reason; those of the NMI handler, all reasons */

/* Attach as a VM of one vCPU; returns its page. `on_nmi` runs at each injected NMI. */
volatile void *attach(const char *name, double wait_s, void (*on_nmi)(struct pvpmu_guest *));
void detach(void); /* Bye, and remove what is ours */

__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);

#endif /* BINDING_H */
