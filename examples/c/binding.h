/* The process binding (docs/protocol.md, rules BND): how this process reaches a pvpmu-host. */
#include "pvpmu_live.h"

extern struct pvpmu_live live; /* what the program retires goes there */
extern uint64_t exits_by[256], handler_exits; /* by reason; those of the NMI handler, all reasons */

/* Attach as a VM of one vCPU; returns its page. Trouble ends the process with one line and no names. */
volatile void *attach(const char *name, double wait_s);
void on_nmi(void); /* the program gives it: the handler of an injected NMI */
void detach(void); /* Bye */
