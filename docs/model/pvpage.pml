/* The page protocol of one vCPU, for spin. README.md says what is modelled, what is not, and how
 * to run it. Order of loads and stores: pvpmu/guest/pvpage.py; order of the host's steps:
 * pvpmu/host/vcpu.py, pvpmu/host/pvpage.py, pvpmu/host/pmi.py.
 *
 * One vCPU is one flow of control: `ctx` says who runs (task, NMI handler or host). Every load
 * and store of the seam is one step that needs `ctx` to be its own, so that an exit, and with it
 * an NMI, fits between any two of them. The host runs while the vCPU is stopped, in one step; it
 * is cut into single loads and stores only where another CPU looks on (READER, HOSTILE).
 */

/* FREEZE, MASKS, AUTO and LATE are chosen at the start unless -D fixes them. */
#ifndef FREEZE
#define FREEZE any_freeze       /* feature: stop counting at the entry that injects a PMI */
#endif
#ifndef MASKS
#define MASKS any_masks         /* PMI era: delivery sets LVTPC's mask bit (KVM >= 6.6) */
#endif
#ifndef AUTO
#define AUTO any_auto           /* feature LVTPC_AUTO; only with MASKS */
#endif
#ifndef LATE
#define LATE any_late           /* an overflow may be found one exit after the one that stops */
#endif
bit any_freeze, any_masks, any_auto, any_late;
#ifndef HANDLER
#define HANDLER 1               /* 1: Linux's; 0: one that never writes GLOBAL_CTRL; 2: either */
#endif
#ifndef THROTTLED
#define THROTTLED 0             /* the counter that the handler may stop; 2: any */
#endif
#ifndef OPS
#define OPS 31                  /* accesses of the task besides GLOBAL_CTRL's: sum of */
#endif
#define OP_WRITES 1             /* writes of counters and selectors */
#define OP_READS 2              /* reads of counters and GLOBAL_CTRL, an RDPMC that traps */
#define OP_STATUS 4             /* reads of GLOBAL_STATUS, OVF_CTRL */
#define OP_LVTPC 8              /* writes of LVTPC */
#define OP_SECOND 16            /* writes also of counter 1 and its selector */
#ifndef VMM
#define VMM 1                   /* a VMM that asks for registers at any moment */
#endif
#ifndef NMIS
#define NMIS 1                  /* overflows, NMIs and VMM requests during one access of the task */
#endif
#ifndef MOD
#define MOD 2                   /* values of a counter; the next one wraps to 0 */
#endif
#define SEQS 16                 /* sequence words and the count in `acked` wrap here */

#include "transitions.pml"

/* Properties: an assertion fails by this name. The bits are never set. */
bit no_lost_pmi, no_doubled_pmi, no_lost_overflow, no_doubled_overflow, no_stale_status;
bit no_lost_write, commit_is_whole, never_counts_frozen, enabled_counts, global_ctrl_reads_back;
bit no_torn_snapshot, both_sides_agree, auto_clears_only_its_mask;
bit freezes_when_negotiated;
bit transition_in_table;
#define CHECK(property, condition) assert(property || (condition))

/* What other CPUs can see of an exit: nothing between its steps, unless they look on. */
#ifdef READER
#define WHOLE_EXIT
#define SERVES atomic
#define PUBLISHES
unsigned pg_seq : 3;
unsigned read_window : 3;       /* publications since the reader began */
#elif defined(HOSTILE)
#define WHOLE_EXIT
#define SERVES
#define PUBLISHES atomic
#else
#define WHOLE_EXIT atomic
#define SERVES
#define PUBLISHES
#endif

#define HOST 0
#define TASK 1
#define NMI 2
#define NOBODY 3
unsigned ctx : 2 = NOBODY;      /* who runs */
#define IN_GUEST (ctx == TASK || ctx == NMI)
unsigned back : 2;              /* whom the exit interrupted */
bit window;                     /* exit when NMIs are no longer blocked */
unsigned nmis : 2;              /* disturbances since the task's access began */

mtype = { async, other_nmi, nmi_window, wr_gctrl, wr_sel, wr_ctr, wr_lvt, wr_ovf, rd,
          do_register, do_unregister, do_reset, do_init, get_msrs, save_restore, set_status };
mtype rq;                       /* the exit's reason */
unsigned rq_i : 1;
unsigned rq_v : 3;

/* The page. Counter i's own enable is bit 0 of its selector. */
bit pg_version = 1;             /* everything starts registered, with all registers 0 */
unsigned pg_generation : 2 = 1;
unsigned pg_live : 2;
unsigned pg_raised : 2;
unsigned pg_fseq : 4;
unsigned pg_pseq : 4;
unsigned pg_acked : 6;          /* status bits 1:0, count against ABA 5:2 */
unsigned pg_rel : 4;
unsigned pg_pack : 4;
unsigned pg_gctrl : 2;
bit pg_lvt;                     /* 1: masked */
byte pg_sel[2];
byte pg_ctr[2];
#define BITS(word) (word & 3)
#define COUNTED(word, bits) ((((word) + 4) & 60) | (bits))

/* The host's private state: registers, what it last published, delivery. */
bit h_registered = 1;
bit h_held, h_owns, h_lvt, h_automask, h_took_lvt, h_dirty, h_refused;
unsigned h_generation : 2 = 1;
unsigned h_gctrl : 2;
unsigned h_status : 2;
unsigned h_acked : 2;
unsigned h_fseq : 4;
unsigned h_pseq : 4;
byte h_sel[2];
byte h_ctr[2];
unsigned pb_gctrl : 2;
bit pb_lvt;
byte pb_sel[2];
byte pb_ctr[2];
unsigned queued : 2;            /* NMIs waiting; q_first and q_second: whether it is a PMI */
bit q_first, q_second;
unsigned hw_on : 2;             /* counters that the silicon counts */
unsigned hw_ovf : 2;            /* overflowed, PMI not taken yet */
bit late;                       /* an overflow was left for a later exit */
bit was_running, is_pmi, injected, was_held;
unsigned cleared : 2;
unsigned state_before : 2;
#define ENABLES(sel) ((sel[0] & 1) | ((sel[1] & 1) << 1))
#define H_LIVE (h_gctrl & ENABLES(h_sel))
#define H_RUNNING (h_registered && !h_held && H_LIVE)

/* The guest's private state: the seam uses the page; the driver's `enabled`; pmi_seq last seen. */
bit g_page = 1;
bit drv_on;
unsigned g_seen : 4;

/* The truth: what a guest that traps everything would have. */
unsigned t_gctrl : 2;
bit t_lvt, t_owed, t_automask;
byte t_sel[2];
byte t_ctr[2];
unsigned t_status : 2;
unsigned t_raises : 3;          /* PMIs raised, neither injected nor coalesced */
#define T_LIVE (t_gctrl & ENABLES(t_sel))

#ifdef BROKEN_DIRTY_BITMAP
unsigned pg_dirty : 3;          /* bits 0, 1: counters; 2: anything else */
#define MARK(me, bits) ; atomic { ctx == me -> z = pg_dirty }; \
    atomic { ctx == me -> pg_dirty = z | (bits); z = 0 }
#define IS_DIRTY(bits) (pg_dirty & (bits))
#else
#define MARK(me, bits)
#define IS_DIRTY(bits) 1
#endif
#ifdef BROKEN_SHARED_STATUS
unsigned pg_status : 2;
#endif

#ifdef HOSTILE
#define TRUTH(property, condition) skip       /* a guest that cheats has no truth */
#else
#define TRUTH(property, condition) CHECK(property, condition)
#endif


/* ---- The seam: one step per load or store; `x`, `y`, `z`, `route` are the caller's locals ---- */

#define TRAPS 0
#define RUNS 1
#define FROZEN 2
#define ON(me, condition) (ctx == me && (condition))

inline find_route(me) {
    atomic { ctx == me ->
        route = (!g_page -> TRAPS : (pg_live != 0 -> RUNS : FROZEN)) }
}

inline vm_exit(me, reason, i, v) {
    atomic { ctx == me -> rq = reason; rq_i = i; rq_v = v; back = me; ctx = HOST };
    ctx == me
}

inline write_counter(me, i, v) {
    find_route(me);
    if
    :: ON(me, route != FROZEN) -> vm_exit(me, wr_ctr, i, v)
    :: atomic { ON(me, route == FROZEN) -> pg_ctr[i] = v; t_ctr[i] = v }
       MARK(me, 1 << i)
    fi
}

inline read_counter(me, i) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, rd, i, 0)
    :: atomic { ON(me, route == FROZEN) -> TRUTH(no_lost_write, pg_ctr[i] == t_ctr[i]) }
    :: atomic { ON(me, route == RUNS) -> x = (pg_live >> i) & 1 };
       if
       :: ON(me, x) -> vm_exit(me, rd, i, 0)
       :: atomic { ON(me, !x) -> TRUTH(no_lost_write, pg_ctr[i] == t_ctr[i]) }
       fi
    fi
}

inline write_selector(me, i, v) {
    find_route(me);
    x = 0;
    if
    :: ON(me, route == TRAPS) -> x = 1
    :: atomic { ON(me, route == RUNS) -> x = (pg_sel[i] != v);
           TRUTH(no_lost_write, x || t_sel[i] == v) }
    :: ON(me, route == FROZEN && !(v & 1))
#ifdef BROKEN_COMMIT_ONLY_GLOBAL_CTRL
    :: ON(me, route == FROZEN && (v & 1))
#else
    :: atomic { ON(me, route == FROZEN && (v & 1)) -> x = (pg_gctrl >> i) & 1 };
       if
       :: ON(me, !x)
       :: atomic { ON(me, x) -> y = pg_fseq };
          atomic { ctx == me -> x = (y == pg_rel); y = 0 }
       fi
#endif
    fi;
    if
    :: ON(me, x) -> vm_exit(me, wr_sel, i, v)
    :: atomic { ON(me, !x && route == FROZEN) -> pg_sel[i] = v; t_sel[i] = v }
       MARK(me, 4)
    :: ON(me, !x && route != FROZEN)
    fi
}

inline release(me) {
    atomic { ctx == me -> x = pg_rel };
    atomic { ctx == me -> y = pg_fseq };
#ifdef BROKEN_PLAIN_RELEASE
    atomic { ctx == me -> pg_rel = y; x = 0; y = 0 }
#else
    atomic { ctx == me ->
        state_before = (pg_fseq != pg_rel -> S_HELD : S_STOPPED);
        if :: x != y && pg_rel == x -> pg_rel = y :: else fi;
        CHECK(transition_in_table, NEXT_OK(state_before, E_PAGE_RELEASE,
            (pg_fseq != pg_rel -> S_HELD : S_STOPPED)));
        state_before = 0; x = 0; y = 0 }
#endif
}

inline write_gctrl(me, v) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, wr_gctrl, 0, v)
    :: atomic { ON(me, route == RUNS) -> x = (pg_gctrl != v);
           TRUTH(global_ctrl_reads_back, x || t_gctrl == v) };
       if
       :: ON(me, x) -> vm_exit(me, wr_gctrl, 0, v)
       :: ON(me, !x)
       fi
    :: ON(me, route == FROZEN) ->
       y = 0;
       if
       :: ON(me, v == 0)
       :: atomic { ON(me, v != 0) -> y = pg_sel[0] & 1 };
          if
          :: ON(me, y)
          :: atomic { ON(me, !y) -> y = pg_sel[1] & 1 }
          fi
       fi;
       if
       :: ON(me, y) -> release(me); vm_exit(me, wr_gctrl, 0, v)
       :: atomic { ON(me, !y) -> pg_gctrl = v; t_gctrl = v }
          MARK(me, 4);
          release(me)
       fi
    fi
}

inline read_gctrl(me) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, rd, 0, 0)
    :: atomic { ON(me, route != TRAPS) -> TRUTH(global_ctrl_reads_back, pg_gctrl == t_gctrl) }
    fi
}

inline write_lvtpc(me, v) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, wr_lvt, 0, v)
    :: atomic { ON(me, route == RUNS) -> x = (pg_lvt != v);
           TRUTH(no_lost_write, x || t_lvt == v) };
       if
       :: ON(me, x) -> vm_exit(me, wr_lvt, 0, v)
       :: ON(me, !x)
       fi
#ifndef BROKEN_AUTO_BY_COMPARE
    :: ON(me, route == FROZEN && AUTO && v) -> vm_exit(me, wr_lvt, 0, v)
    :: atomic { ON(me, route == FROZEN && !(AUTO && v)) ->
#else
    :: atomic { ON(me, route == FROZEN) ->
#endif
           pg_lvt = v; t_lvt = v; t_automask = 0 }
       MARK(me, 4)
    fi
}

/* `status` takes the value. pmi_seq, its acknowledgement, acked, raised. */
inline read_status(me) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, rd, 0, 0); status = t_status
    :: atomic { ON(me, route != TRAPS) -> x = pg_pseq };
       if
       :: ON(me, x == g_seen)
       :: atomic { ON(me, x != g_seen) -> g_seen = x; pg_pack = x }
       fi;
#ifdef BROKEN_SHARED_STATUS
       atomic { ctx == me -> status = pg_status }
#else
       do
       :: atomic { ctx == me -> x = pg_acked };
          atomic { ctx == me -> status = pg_raised ^ BITS(x); y = t_status };
          if
#ifdef BROKEN_STATUS_READ_ONCE
          :: ON(me, 1) -> break
#else
          :: ON(me, pg_acked == x) -> break
          :: ON(me, pg_acked != x)
#endif
          fi
       od;
       atomic { ctx == me ->
           TRUTH(no_stale_status, (status & ~y) == 0);
           TRUTH(no_lost_overflow, (y & ~status) == 0);
           x = 0; y = 0 }
#endif
    fi
}

inline acknowledge(me, v) {
    find_route(me);
    if
    :: ON(me, route == TRAPS) -> vm_exit(me, wr_ovf, 0, v)
#ifdef BROKEN_SHARED_STATUS
    :: atomic { ON(me, route != TRAPS) -> x = pg_status };
       atomic { ctx == me -> pg_status = x & ~(v); t_status = t_status & ~(v); x = 0 }
#else
    :: ON(me, route != TRAPS) ->
       do
       :: atomic { ctx == me -> x = pg_acked };
          atomic { ctx == me -> y = (pg_raised ^ BITS(x)) & (v) };
          if
          :: ON(me, y == 0) -> break
#ifdef BROKEN_PLAIN_ACK
          :: atomic { ON(me, y != 0) -> pg_acked = COUNTED(x, BITS(x) ^ y);
                 t_status = t_status & ~y }; break
#else
#ifdef BROKEN_UNCOUNTED_ACK
          :: atomic { ON(me, y != 0 && pg_acked == x) -> pg_acked = BITS(x) ^ y;
#else
          :: atomic { ON(me, y != 0 && pg_acked == x) -> pg_acked = COUNTED(x, BITS(x) ^ y);
#endif
                 TRUTH(no_stale_status, (y & ~t_status) == 0);
                 t_status = t_status & ~y }; break
          :: ON(me, y != 0 && pg_acked != x)
#endif
          fi
       od;
       x = 0; y = 0
#endif
    fi
}

/* ---- The host: what it does from VM-exit to VM-entry --------------------------------------- */

#define H_STATE (!h_registered -> S_UNREGISTERED : (H_RUNNING -> S_RUNNING : \
    (h_fseq != pg_rel -> S_HELD : S_STOPPED)))
#define TRANSITION(event) TRUTH(transition_in_table, NEXT_OK(state_before, event, H_STATE))

/* Every exit: one load of `acked`. */
inline load_status() {
    if
    :: h_registered ->
#ifdef BROKEN_SHARED_STATUS
       h_status = pg_status;
#else
       cleared = BITS(pg_acked) ^ h_acked;
       h_acked = BITS(pg_acked);
       h_status = h_status ^ cleared;
       cleared = 0;
#endif
       TRUTH(no_lost_overflow, (t_status & ~h_status) == 0);
       TRUTH(no_doubled_overflow, (h_status & ~t_status) == 0)
    :: else
    fi
}

inline queue_nmi(pmi) {
    if
    :: queued == 0 -> q_first = pmi; queued = 1
    :: queued == 1 && back != NMI -> q_second = pmi; queued = 2
    :: else -> if :: pmi -> t_raises = t_raises - 1 :: else fi      /* coalesced */
    fi
}

/* PMI delivery: LVTPC as it stands now, taken from the page in FROZEN. */
inline deliver_pmi() {
    if
    :: h_registered && !H_RUNNING ->
       if :: h_lvt != pg_lvt -> h_automask = 0 :: else fi;
       h_lvt = pg_lvt; pb_lvt = pg_lvt
    :: else
    fi;
    if
    :: !h_lvt ->
       queue_nmi(1);
       if
       :: MASKS -> h_lvt = 1; t_lvt = 1; h_automask = 1; t_automask = 1; h_took_lvt = 1
       :: else
       fi
    :: else
    fi;
    h_dirty = 1
}

/* The host's own PMI handler and KVM's callback. An overflow may be left for a later exit. */
inline take_overflows() {
    if
    :: hw_ovf != 0 ->
       late = 0;
       h_status = h_status | hw_ovf; t_status = t_status | hw_ovf; hw_ovf = 0;
       if :: !t_lvt -> t_owed = 1; t_raises = t_raises + 1 :: else fi;
       deliver_pmi()
    :: LATE && hw_ovf != 0 && !late -> late = 1
    :: hw_ovf == 0
    fi
}

#define DIFFERS(word, published, bits) (IS_DIRTY(bits) && word != published)
#ifdef BROKEN_DOUBLE_FETCH
#define FETCHED(copy, word) word
#else
#define FETCHED(copy, word) copy
#endif

/* Copy the turn words once, validate the copy, apply what differs; start nothing. */
inline import_page() {
    c_gctrl = pg_gctrl; c_lvt = pg_lvt;
    c_sel0 = pg_sel[0]; c_sel1 = pg_sel[1];
    c_ctr0 = pg_ctr[0]; c_ctr1 = pg_ctr[1];
    c_released = (pg_rel == h_fseq);
    h_dirty = 1;
    h_refused = (c_sel0 > 1 || c_sel1 > 1 || c_ctr0 >= MOD || c_ctr1 >= MOD);
    if
    :: h_refused
    :: !h_refused ->
       if :: DIFFERS(c_gctrl, pb_gctrl, 4) -> h_gctrl = FETCHED(c_gctrl, pg_gctrl) :: else fi;
       if
       :: DIFFERS(c_lvt, pb_lvt, 4) -> h_lvt = FETCHED(c_lvt, pg_lvt); h_automask = 0
       :: else
       fi;
       if :: DIFFERS(c_sel0, pb_sel[0], 4) -> h_sel[0] = FETCHED(c_sel0, pg_sel[0]) :: else fi;
       if :: DIFFERS(c_sel1, pb_sel[1], 4) -> h_sel[1] = FETCHED(c_sel1, pg_sel[1]) :: else fi;
       if :: DIFFERS(c_ctr0, pb_ctr[0], 1) -> h_ctr[0] = FETCHED(c_ctr0, pg_ctr[0]) :: else fi;
       if :: DIFFERS(c_ctr1, pb_ctr[1], 2) -> h_ctr[1] = FETCHED(c_ctr1, pg_ctr[1]) :: else fi;
#ifdef BROKEN_DIRTY_BITMAP
       pg_dirty = 0;
#endif
       pb_gctrl = c_gctrl; pb_lvt = c_lvt; pb_sel[0] = c_sel0; pb_sel[1] = c_sel1;
       pb_ctr[0] = c_ctr0; pb_ctr[1] = c_ctr1;
       if :: c_released && !H_LIVE -> h_held = 0 :: else fi;
       h_owns = 1
    fi;
    CHECK(commit_is_whole, h_sel[0] < 2 && h_sel[1] < 2 && h_ctr[0] < MOD && h_ctr[1] < MOD);
    c_gctrl = 0; c_lvt = 0; c_sel0 = 0; c_sel1 = 0; c_ctr0 = 0; c_ctr1 = 0; c_released = 0
}

/* What any access that reaches the host does first. */
inline sync() {
    h_refused = 0;
    if
#ifdef BROKEN_NO_IMPORT
    :: h_registered && !H_RUNNING && rq != rd && rq != get_msrs && rq != save_restore ->
#else
    :: h_registered && !H_RUNNING ->
#endif
       import_page()
    :: else
    fi;
    TRUTH(no_lost_write, h_refused || (h_gctrl == t_gctrl && h_lvt == t_lvt));
    TRUTH(no_lost_write, h_refused || (h_sel[0] == t_sel[0] && h_sel[1] == t_sel[1]));
    TRUTH(no_lost_write, h_refused || (h_ctr[0] == t_ctr[0] && h_ctr[1] == t_ctr[1]))
}

inline end_registration() {
    h_registered = 0; h_held = 0; h_owns = 0; pg_version = 0; pg_generation = 0;
    hw_on = H_LIVE
}

/* Take the page into use: the guest's words stand, everything else is stored anew. */
inline begin_registration() {
    h_registered = 1; h_owns = 1; h_dirty = 1;
    h_generation = (h_generation == 3 -> 1 : h_generation + 1);
    h_acked = BITS(pg_acked);
    /* No word equals what was published: all are stored. */
    pb_gctrl = ~h_gctrl; pb_lvt = !h_lvt; pb_sel[0] = ~h_sel[0]; pb_sel[1] = ~h_sel[1];
    pb_ctr[0] = ~h_ctr[0]; pb_ctr[1] = ~h_ctr[1]
}

/* A trapped write, already imported. */
inline write_register() {
    was_held = h_held;
    if
    :: rq == wr_gctrl -> h_held = 0; h_gctrl = rq_v; t_gctrl = rq_v;
       if :: was_held -> h_fseq = pg_rel :: else fi
    :: rq == wr_sel -> h_sel[rq_i] = rq_v; t_sel[rq_i] = rq_v
    :: rq == wr_ctr -> h_ctr[rq_i] = rq_v; t_ctr[rq_i] = rq_v
    :: rq == wr_lvt -> h_lvt = rq_v; t_lvt = rq_v; h_automask = 0; t_automask = 0
    :: rq == wr_ovf -> h_status = h_status & ~rq_v; t_status = t_status & ~rq_v
    fi;
    was_held = 0;
    if
    :: !was_running && H_RUNNING && AUTO && h_automask ->
       CHECK(auto_clears_only_its_mask, t_automask);
       h_lvt = 0; t_lvt = 0; h_automask = 0; t_automask = 0
    :: else
    fi;
#ifdef BROKEN_RERAISE
    if :: !was_running && H_RUNNING && h_status != 0 -> queue_nmi(1) :: else fi;
#endif
    hw_on = (h_held -> 0 : H_LIVE);
    h_dirty = 1
}

inline serve() {
    state_before = H_STATE;
    was_running = H_RUNNING;
    if
    :: rq == async || rq == nmi_window
    :: rq == other_nmi -> queue_nmi(0)
    :: rq == rd || rq == get_msrs -> sync(); TRANSITION(E_TRAPPED_READ)
    :: rq == wr_gctrl || rq == wr_sel || rq == wr_ctr || rq == wr_lvt || rq == wr_ovf ->
       sync();
       if
       :: h_refused -> TRANSITION(E_REFUSED)
       :: else ->
          write_register();
          if
          :: !H_LIVE && rq == wr_gctrl -> TRANSITION(E_GLOBAL_CTRL_STOPS)
          :: !H_LIVE && rq != wr_gctrl -> TRANSITION(E_WRITE_STOPS)
          :: H_LIVE && rq == wr_gctrl -> TRANSITION(E_GLOBAL_CTRL_STARTS)
          :: H_LIVE && rq != wr_gctrl -> TRANSITION(E_WRITE_STARTS)
          fi
       fi
#if defined(LIFE) || READER == 2
    :: rq == do_unregister || rq == do_init ->
       sync();
       if :: h_registered -> end_registration() :: else fi;
       TRANSITION(E_UNREGISTER)
    :: rq == do_register ->
       sync();
       if :: h_registered -> end_registration() :: else fi;
       if
       :: TRANSITION(E_REGISTER_REFUSED)
       :: h_fseq = pg_rel; h_pseq = pg_pack; begin_registration();
          if
          :: H_RUNNING -> TRANSITION(E_REGISTER_LIVE)
          :: else -> TRANSITION(E_REGISTER_STOPPED)
          fi
       fi
    :: rq == do_reset ->
       h_gctrl = 0; h_sel[0] = 0; h_sel[1] = 0; h_ctr[0] = 0; h_ctr[1] = 0; h_lvt = 1;
       h_status = 0; h_automask = 0; queued = 0; q_first = 0; q_second = 0; hw_ovf = 0; late = 0;
       t_gctrl = 0; t_sel[0] = 0; t_sel[1] = 0; t_ctr[0] = 0; t_ctr[1] = 0; t_lvt = 1;
       t_status = 0; t_automask = 0; t_owed = 0; t_raises = 0;
       end_registration();
       TRANSITION(E_RESET)
#endif
#ifdef LIFE
    /* Saved here and restored on another host, in the middle of whatever the guest does. */
    :: rq == save_restore ->
       sync();
       if :: h_registered -> begin_registration() :: else fi;
       TRANSITION(E_SAVE_RESTORE)
    :: rq == set_status ->
       sync();
       h_status = rq_v; t_status = rq_v; h_dirty = 1;
       if
       :: h_registered ->
          /* Both words, at VM-entry; the count makes a compare-exchange under way fail. */
#ifdef BROKEN_NO_BUMP
          pg_acked = pg_acked & 60;
#else
          pg_acked = COUNTED(pg_acked, 0);
#endif
          h_acked = 0
       :: else
       fi;
       TRANSITION(E_HOST_WRITE)
#endif
    fi
}

/* The mask that this PMI's own delivery has just set does not count. */
#ifdef BROKEN_FREEZE_NEEDS_UNMASKED
#define MAY_FREEZE (FREEZE && H_RUNNING && !h_lvt)
#else
#define MAY_FREEZE (FREEZE && H_RUNNING && (!h_lvt || h_automask))
#endif

inline inject() {
    if
    :: queued > 0 && back != NMI ->
       is_pmi = q_first; q_first = q_second; q_second = 0; queued = queued - 1;
       injected = 1; t_owed = 0;
       if
       :: is_pmi ->
          CHECK(no_doubled_pmi, t_raises > 0);
          t_raises = t_raises - 1;
          if
          :: h_registered ->
             h_pseq = (h_pseq + 1) % SEQS; h_dirty = 1;
             state_before = H_STATE;
             CHECK(freezes_when_negotiated, !(FREEZE && H_RUNNING && (!t_lvt || t_automask)) ||
                 MAY_FREEZE);
             if
             :: MAY_FREEZE ->
                hw_on = 0; h_held = 1; h_fseq = (h_fseq + 1) % SEQS;
                TRANSITION(E_FREEZE)
             :: else -> TRANSITION(E_PMI)
             fi
          :: else
          fi
       :: else
       fi;
       is_pmi = 0
    :: else
    fi;
    window = (queued > 0)
}

#define STORE(word, published, value) \
    if :: published != value -> word = value; published = value :: else fi

inline publish() {
#ifdef READER
    pg_seq = (pg_seq + 1) % 8;
    atomic { if :: read_window < 7 -> read_window = read_window + 1 :: else fi };
#endif
    if
    :: h_owns ->
       STORE(pg_gctrl, pb_gctrl, h_gctrl);
       STORE(pg_lvt, pb_lvt, h_lvt);
       STORE(pg_sel[0], pb_sel[0], h_sel[0]);
       STORE(pg_sel[1], pb_sel[1], h_sel[1]);
       if :: hw_on & 1 :: else -> STORE(pg_ctr[0], pb_ctr[0], h_ctr[0]) fi;
       if :: hw_on & 2 :: else -> STORE(pg_ctr[1], pb_ctr[1], h_ctr[1]) fi
    :: !h_owns && h_refused ->
       pg_sel[0] = pb_sel[0]; pg_sel[1] = pb_sel[1]; pg_ctr[0] = pb_ctr[0]; pg_ctr[1] = pb_ctr[1]
    :: !h_owns && !h_refused && h_took_lvt -> pg_lvt = h_lvt; pb_lvt = h_lvt
    :: else
    fi;
    pg_live = (H_RUNNING -> H_LIVE : 0);
#ifdef BROKEN_SHARED_STATUS
    pg_status = h_status;
#endif
    pg_raised = h_status ^ h_acked;
    pg_fseq = h_fseq;
    pg_pseq = h_pseq;
    h_owns = H_RUNNING;
    pg_generation = h_generation;
    pg_version = 1;
#ifdef READER
    pg_seq = (pg_seq + 1) % 8;
#endif
    h_dirty = 0
}

active proctype Host() {
    unsigned c_gctrl : 2; bit c_lvt; bit c_released;
    unsigned c_sel0 : 2; unsigned c_sel1 : 2; unsigned c_ctr0 : 3; unsigned c_ctr1 : 3;
end:
    do
    :: WHOLE_EXIT {
           SERVES { ctx == HOST ->
               load_status();
               take_overflows();
               serve();
               inject() };
           PUBLISHES {
               if :: h_registered && h_dirty -> publish() :: else fi };
           atomic {
               h_took_lvt = 0; h_refused = 0; h_dirty = 0;
               CHECK(never_counts_frozen, !h_registered || pg_live != 0 || hw_on == 0);
               CHECK(no_lost_pmi, !t_owed || queued > 0);
               rq = 0; rq_i = 0; rq_v = 0; was_running = 0; state_before = 0;
               ctx = (injected -> NMI : back); back = 0; injected = 0 } }
    od
}

/* ---- What comes from outside --------------------------------------------------------------- */

inline count(i) {
    h_ctr[i] = (h_ctr[i] + 1) % MOD;
    t_ctr[i] = (t_ctr[i] + 1) % MOD;
    if :: h_ctr[i] == 0 -> hw_ovf = hw_ovf | (1 << i); nmis = nmis + 1 :: else fi
}

active proctype Silicon() {
end:
    do
    :: atomic { IN_GUEST && (hw_on & 1) && !(hw_ovf & 1) && nmis < NMIS -> count(0) }
    :: atomic { IN_GUEST && (hw_on & 2) && !(hw_ovf & 2) && nmis < NMIS -> count(1) }
    /* The physical PMI; any other exit takes the overflow too. */
    :: atomic { IN_GUEST && hw_ovf != 0 -> rq = async; back = ctx; ctx = HOST }
    od
}

/* NMIs that are no PMI: a watchdog's, an IPI's. */
active proctype OtherNmis() {
end:
    do
    :: atomic { IN_GUEST && nmis < NMIS ->
           nmis = nmis + 1; rq = other_nmi; back = ctx; ctx = HOST }
    od
}

/* What a VMM asks while the vCPU is out of the guest. */
#if VMM && !defined(HOSTILE)
active proctype Vmm() {
end:
    do
    :: atomic { IN_GUEST && nmis < NMIS -> nmis = nmis + 1; back = ctx; ctx = HOST;
           if
           :: rq = get_msrs
#ifdef LIFE
           :: rq = save_restore
           :: rq = set_status; rq_v = 0
           :: rq = set_status; rq_v = 1
#endif
           fi }
    od
}
#endif

#ifdef READER
/* A reader on another CPU; READER 2: the page also comes and goes, and its memory is reused. In FROZEN the turn words are the guest's: then only host words count. */
active proctype Reader() {
    unsigned gen : 2; unsigned seq : 3; unsigned live : 2; unsigned gctrl : 2;
    unsigned ctr0 : 3; unsigned ctr1 : 3; bit same, whole;
end:
    do
    :: atomic { pg_version == 1 -> read_window = 0; gen = pg_generation };
       seq = pg_seq;
       live = pg_live;
       gctrl = pg_gctrl;
       ctr0 = pg_ctr[0];
       ctr1 = pg_ctr[1];
       atomic {
           same = (seq == pg_seq && !(seq & 1));
           whole = (live == pg_live && (live == 0 ||
               (gctrl == pg_gctrl && ((live & 1) || ctr0 == pg_ctr[0]) &&
               ((live & 2) || ctr1 == pg_ctr[1]))))
       };
#ifndef BROKEN_NO_GENERATION
       same = same && pg_generation == gen && gen != 0;
#endif
       same = same && pg_version == 1;
       atomic { CHECK(no_torn_snapshot, !same || whole || read_window > 2);
           gen = 0; seq = 0; live = 0; gctrl = 0; ctr0 = 0; ctr1 = 0; same = 0; whole = 0 }
    od
}
#endif

#ifdef HOSTILE
/* Another CPU of the guest that stores whatever it likes, also while the host validates. */
active proctype Hostile() {
end:
    do
    :: pg_ctr[0] = 0
    :: pg_ctr[0] = MOD
    :: pg_sel[1] = 0
    :: pg_sel[1] = 1
    :: pg_sel[1] = 2
    od
}
#endif

/* ---- The guest ----------------------------------------------------------------------------- */

active proctype Handler() {
    unsigned route : 2; unsigned x : 6; unsigned y : 6; unsigned z : 3; unsigned status : 2;
    bit usual, was_on; unsigned rounds : 2; unsigned i : 2;
end:
    do
    :: atomic { ctx == NMI -> was_on = drv_on;
           if :: HANDLER != 0 -> usual = 1 :: HANDLER != 1 -> usual = 0 fi };
       if
       :: atomic { ON(NMI, usual) -> drv_on = 0 }; write_gctrl(NMI, 0)
       :: ON(NMI, !usual)
       fi;
       do
       :: read_status(NMI);
          if
          :: ON(NMI, status == 0 || rounds == 2) -> break
          :: ON(NMI, status != 0 && rounds < 2) ->
             rounds = rounds + 1;
             acknowledge(NMI, status);
             do
             :: ON(NMI, usual && i < 2 && (status & (1 << i))) ->
                read_counter(NMI, i);
                write_counter(NMI, i, MOD - 1);
                if
                :: ON(NMI, 1)
                :: ON(NMI, i == THROTTLED || THROTTLED == 2) -> write_selector(NMI, i, 0)
                fi;
                atomic { ctx == NMI -> i = i + 1 }
             :: atomic { ON(NMI, usual && i < 2 && !(status & (1 << i))) -> i = i + 1 }
             :: atomic { ON(NMI, !usual || i == 2) -> i = 0 }; break
             od
          fi
       od;
       if
       :: atomic { ON(NMI, usual) -> drv_on = was_on };
          if
          :: ON(NMI, was_on) -> write_gctrl(NMI, 3)
          :: ON(NMI, !was_on)
          fi;
          write_lvtpc(NMI, 0)
       :: ON(NMI, !usual)
       fi;
       /* IRET; at once out again if NMIs were waiting for it. */
       atomic { ctx == NMI ->
           was_on = 0; usual = 0; rounds = 0; status = 0; route = 0; x = 0; y = 0; z = 0;
           if
           :: window -> window = 0; rq = nmi_window; back = TASK; ctx = HOST
           :: else -> ctx = TASK
           fi }
    od
}

/* Between two accesses: what must hold, and a renaming that leaves the protocol as it is. Only
 * differences of sequence words and of raised and acked are ever looked at. */
inline between_accesses() {
    atomic { ctx == TASK ->
        nmis = 0;
        route = 0; x = 0; y = 0; z = 0; status = 0; i = 0; v = 0;
        TRUTH(both_sides_agree, !g_page || h_registered);
        TRUTH(enabled_counts, h_registered && pg_fseq != pg_rel || hw_on == T_LIVE);
        TRUTH(never_counts_frozen, !h_registered || (hw_on != 0) == (pg_live != 0));
        if
        :: h_registered ->
           pg_raised = pg_raised ^ BITS(pg_acked); h_acked = h_acked ^ BITS(pg_acked);
           pg_acked = 0;
           h_fseq = (h_fseq - pg_rel) & 15; pg_fseq = (pg_fseq - pg_rel) & 15; pg_rel = 0;
           h_pseq = (h_pseq - pg_pack) & 15; pg_pseq = (pg_pseq - pg_pack) & 15;
           g_seen = (g_seen - pg_pack) & 15; pg_pack = 0;
           /* The word of a counter that counts is stale and nobody looks at it. */
           if :: hw_on & 1 -> pg_ctr[0] = 0; pb_ctr[0] = 0 :: else fi;
           if :: hw_on & 2 -> pg_ctr[1] = 0; pb_ctr[1] = 0 :: else fi
        :: else ->
           /* Memory that is no page: the guest does with it what it likes. */
           pg_live = 0; pg_raised = 0; pg_fseq = 0; pg_pseq = 0; pg_acked = 0; pg_rel = 0;
           pg_pack = 0; pg_gctrl = 0; pg_lvt = 0; pg_sel[0] = 0; pg_sel[1] = 0;
           pg_ctr[0] = 0; pg_ctr[1] = 0; g_seen = 0; h_fseq = 0; h_pseq = 0; h_acked = 0;
           pb_gctrl = 0; pb_lvt = 0; pb_sel[0] = 0; pb_sel[1] = 0; pb_ctr[0] = 0; pb_ctr[1] = 0;
           h_owns = 0
#ifdef READER
           ; pg_seq = 0
#endif
        fi
    }
}

#if defined(LIFE) || READER == 2
inline register_page() {
#ifdef LIFE
    if
    :: ON(TASK, 1)
    :: atomic { ctx == TASK -> pg_version = 1 }       /* an earlier life's page, still ready */
    fi;
#endif
#ifndef BROKEN_KEEP_READY
    atomic { ctx == TASK -> pg_version = 0 };
#endif
    atomic { ctx == TASK -> pg_acked = 0 };
    atomic { ctx == TASK -> pg_rel = 0 };
    atomic { ctx == TASK -> pg_pack = 0 };
    vm_exit(TASK, do_register, 0, 0);
    if
    :: atomic { ON(TASK, pg_version) -> g_page = 1; g_seen = pg_pack }
    :: ON(TASK, !pg_version)
    fi
}
#endif

inline choose_counter() {
    if :: i = 0 :: (OPS & OP_SECOND) -> i = 1 fi
}

active proctype Task() {
    unsigned route : 2; unsigned x : 6; unsigned y : 6; unsigned z : 3; unsigned status : 2;
    bit i; unsigned v : 2;
    atomic {
        if :: any_freeze = 0 :: any_freeze = 1 fi;
        if :: any_masks = 0 :: any_masks = 1 :: any_masks = 1; any_auto = 1 fi;
        if :: any_late = 0 :: any_late = 1 fi;
        ctx = TASK };
    do
    :: between_accesses();
begins:
       if
       :: atomic { ON(TASK, 1) -> drv_on = !drv_on; i = 0; v = (drv_on -> 3 : 0) };
          write_gctrl(TASK, v)
#if OPS & OP_WRITES
       :: atomic { ON(TASK, 1) -> if :: v = 0 :: v = MOD - 1 fi; choose_counter() };
          write_counter(TASK, i, v)
       :: atomic { ON(TASK, 1) -> if :: v = 0 :: v = 1 fi; choose_counter() };
          write_selector(TASK, i, v)
#endif
#if OPS & OP_READS
       :: atomic { ON(TASK, 1) -> if :: i = 0 :: i = 1 fi }; read_counter(TASK, i)
       :: vm_exit(TASK, rd, 0, 0)             /* an RDPMC of user space: no seam */
       :: read_gctrl(TASK)
#endif
#if OPS & OP_STATUS
       :: read_status(TASK)
       :: atomic { ON(TASK, 1) -> if :: v = 1 :: v = 3 fi }; acknowledge(TASK, v)
#endif
#if OPS & OP_LVTPC
       :: atomic { ON(TASK, 1) -> if :: v = 0 :: v = 1 fi }; write_lvtpc(TASK, v)
#endif
#if defined(LIFE) || READER == 2
       :: atomic { ON(TASK, g_page) -> g_page = 0 }; vm_exit(TASK, do_unregister, 0, 0)
       :: ON(TASK, !g_page) -> register_page()
#endif
#ifdef LIFE
       :: atomic { ON(TASK, 1) -> g_page = 0; drv_on = 0 }; vm_exit(TASK, do_reset, 0, 0)
       :: atomic { ON(TASK, 1) -> g_page = 0 }; vm_exit(TASK, do_init, 0, 0)
#endif
       fi
    od
}

#ifdef PROGRESS
ltl pmi_is_delivered { [] (t_owed -> <> !t_owed) }
ltl accesses_finish { [] <> Task@begins }
#endif
