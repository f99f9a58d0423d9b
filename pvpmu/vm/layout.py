"""The VM's guest-physical memory, and the box through which the guest is told what to do.

The guest segment is guest-physical 0 on, as in the process binding: page I at I x 4096, then an
area for each vCPU, then the guest's program and its page tables. The host segment, with the exit
slots, lies at SLOTS. Virtual addresses are physical ones, but for ALIAS.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.layout import Layout, Owner
from pvpmu.shared.page import PAGE_SIZE

SLOTS = 1 << 30
"""Guest-physical address of vCPU 0's exit slot."""
ALIAS = 2 << 30
"""Virtual address of guest-physical 0 once more, so that page 0 has one that is no null pointer."""
LARGE_PAGE = 1 << 21
TABLE_PAGES = 4
"""A PML4, a PDPT and a PD for each of the first two GB."""

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
USER_SELECTOR_BASE = 0x18
"""SYSRET takes the data segment behind it and the code segment behind that."""
TASK_SELECTOR = 0x30
GATE_VECTOR, DONE_VECTOR = 3, 6
"""INT3 at CPL 3: what only CPL 0 may do; UD2: a handler there is done."""
VECTORS = 32
GATE_RDMSR, GATE_WRMSR, GATE_OUT, GATE_CPUID, GATE_HLT, GATE_NOTHING = range(6)
"""What the gate from CPL 3 does."""

PORT_REASON = 0x500
"""OUT to this port and an exit reason: an exit of that reason (those that no instruction makes)."""
PORT_READY = 0x600
"""The guest has done its command and waits for the next."""
PORT_EMPTY = 0x601
"""Measurement: an exit that the loop answers at once."""
PORT_NMI = 0x602
"""With commands: an NMI's handler has begun and takes commands until IRET."""
PORT_BROKEN = 0x603
"""The guest gives up: a valid access, whose address ``detail`` holds, raised #GP."""
PORT_FAULT = 0x604
"""A fault outside an access."""


class Command(enum.IntEnum):
    """What the guest is to do. Append only."""

    NONE = 0
    EXIT = 1
    """One exit of ``reason`` as it is, with ``address`` and ``value``."""
    READ = 2
    """RDMSR of ``address`` through the seam."""
    WRITE = 3
    """WRMSR of ``value`` to ``address`` through the seam."""
    RDPMC = 4
    CPUID = 5
    """``address``: leaf; ``result`` EAX and EBX, ``detail`` ECX and EDX."""
    REGISTER = 6
    """Discover and register the page; ``result``: MSR_PVPMU_STATUS.

    ``value``: not 0, the page holds reload values.
    """
    UNREGISTER = 7
    FORGET = 8
    """The page is gone: everything traps."""
    IRET = 9
    """The handler of an NMI is done."""
    PREPARE = 16
    """Driver: probe, register if ``value``, program the events of ``events``.

    ``address``: not 0, its page holds reload values (a design of its own).
    """
    PMIS = 17
    """Run the program until ``value`` more PMIs are handled; ``address``: Run flags."""
    SCHED_IN = 18
    SCHED_OUT = 19
    TICK = 20
    """Each ``value`` times; the log has entry and end of each."""
    EMPTY = 21
    """Floor: ``value`` exits to PORT_EMPTY, each logged."""
    WORDS = 22
    """Floor: ``value`` batches of page word loads, each logged."""
    STAMPS = 23
    """Floor: ``value`` pairs of RDTSC with nothing between, each logged."""
    GATES = 24
    """Floor: ``value`` times through the gate and back (at CPL 3), each logged."""
    MSRS = 25
    """Floor: ``value`` exits by RDMSR of GLOBAL_STATUS, each logged."""
    FINISH = 26
    """Stop the events, read their counts, unregister."""


RUN_RETIRES = 1 << 0
"""The program tells what it retires (modelled counters), and exits where they overflow."""
RUN_STAMPS = 1 << 1
"""Log each access of a handler."""
RUN_HANDLERS = 1 << 2
"""Log each handler."""
RUN_LOOPS = 1 << 3
"""Likewise, but the host takes from ``loops_done`` what retired: for overflows of real events,
which come anywhere, where the program has not told all."""
WORDS_BATCH = 100
"""Loads in a batch of WORDS."""

EVENT_WORDS = 4
"""Of an event: global index, selector, modes, period; then its count and samples are answered."""
MAX_EVENTS = 11
LOG_WORDS = 1 << 14
_BOX_SIZE = 4096

BOX = Layout("pvpmu_vm_box", _BOX_SIZE)
BOX.line(Owner.HOST)
COMMAND = BOX.word("command", "what to do next")
ADDRESS = BOX.word("address", "an argument")
VALUE = BOX.word("value", "another")
PAGE_ADDRESS = BOX.word("page_address", "guest-physical address of this vCPU's page")
SLOT_ADDRESS = BOX.word("slot_address", "that of its exit slot")
LOG_ADDRESS = BOX.word("log_address", "that of its log")
LOOPS = BOX.word("loops", "most loops of the program between two looks at the counters")
EVENT_COUNT = BOX.word("event_count", "number of events")
BOX.line(Owner.HOST)
REASON = BOX.word("reason", "of the exit that EXIT makes")
FLAGS = BOX.word("flags", "retired counts that the next exit is to tell, without a program's")
BOX.line(Owner.HOST)
EVENTS_AT = BOX.word("events", "index, selector, modes, period of each", count=4 * MAX_EVENTS)
BOX.line(Owner.HOST)
COUNTS_AT = BOX.word("counts", "what one loop of the program retires, by event kind", count=7)
BOX.line(Owner.GUEST)
RESULT = BOX.word("result", "what came of it")
DETAIL = BOX.word("detail", "and more of it")
FAULT = BOX.word("fault", "the access raised #GP")
LOGGED = BOX.word("logged", "words in the log")
NMIS = BOX.word("nmis", "NMIs taken")
PMIS = BOX.word("pmis", "handlers that found status")
EMPTY = BOX.word("empty", "handlers that found none")
BITS = BOX.word("bits", "status bits handled")
BOX.line(Owner.GUEST)
REFUSALS = BOX.word("refusals", "COMMITs refused at first")
REGISTERED = BOX.word("registered", "1 while a page is in use")
LOOPS_DONE = BOX.word("loops_done", "loops of the program since PREPARE")
ACKNOWLEDGED = BOX.word("acknowledged", "PMIs that pmi_ack says were acknowledged")
BOX.line(Owner.GUEST)
ANSWERS_AT = BOX.word("answers", "count, samples of each event", count=2 * MAX_EVENTS)

_STACK = 1 << 14
"""Of each of three: the program's, that of a handler at CPL 3, that of CPL 0 below both."""
_TABLES = PAGE_SIZE
"""GDT, TSS and IDT."""
STATE_SIZE = 8192
TASK_AT = 0x80
"""The TSS behind the GDT."""
TASK_RSP0 = STATE_SIZE + TASK_AT + 4
"""From the vCPU's state on: the stack that CPL 3 is left for."""


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """Guest-physical addresses for so many vCPUs and a program of so many bytes.

    ``pages``: at the start of the memory, if more than one for each vCPU.
    """

    vcpus: int
    program_bytes: int
    pages: int = 0

    @property
    def area_bytes(self) -> int:
        """Of one vCPU: box, state, stack, log."""
        return _BOX_SIZE + STATE_SIZE + _TABLES + 3 * _STACK + 8 * LOG_WORDS

    @property
    def _first(self) -> int:
        return max(self.pages, self.vcpus) * PAGE_SIZE

    def box(self, vcpu: int) -> int:
        return self._first + vcpu * self.area_bytes

    def state(self, vcpu: int) -> int:
        return self.box(vcpu) + _BOX_SIZE

    def tables(self, vcpu: int) -> int:
        """GDT, TSS, IDT."""
        return self.state(vcpu) + STATE_SIZE

    def stack_top(self, vcpu: int, which: int = 0) -> int:
        """0: the program's stack, 1: that of a handler at CPL 3, 2: that of CPL 0."""
        return self.tables(vcpu) + _TABLES + (1 + which) * _STACK

    def log(self, vcpu: int) -> int:
        return self.stack_top(vcpu, 2)

    @property
    def program(self) -> int:
        return self._first + self.vcpus * self.area_bytes

    @property
    def page_tables(self) -> int:
        return self.program + -(-self.program_bytes // PAGE_SIZE) * PAGE_SIZE

    @property
    def memory_bytes(self) -> int:
        return self.page_tables + TABLE_PAGES * PAGE_SIZE

    @property
    def slots_bytes(self) -> int:
        """Of the host segment that the guest reaches, in whole pages."""
        return -(-self.vcpus * SLOT_SIZE // PAGE_SIZE) * PAGE_SIZE
