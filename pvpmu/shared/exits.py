"""VM-exit reasons and the exit slot: one slot per vCPU, since a vCPU is stopped while it exits.

The guest stores the request, crosses (semaphores, or a call when inline), and loads the reply.
Reasons carry VMX basic exit reason numbers (SDM vol. 3D, appendix C); numbers from 0x80 on are
this project's own and stand for nothing in hardware.
"""

from __future__ import annotations

import enum
from array import array
from typing import TypeAlias

from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.events import KINDS
from pvpmu.shared.layout import Layout, Owner


class ExitReason(enum.IntEnum):
    """VMX basic exit reasons in use. Append only: the numbers are the wire."""

    EXCEPTION_NMI = 0
    EXTERNAL_INTERRUPT = 1
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    CPUID = 10
    HLT = 12
    RDPMC = 15
    MSR_READ = 31
    MSR_WRITE = 32
    FLOOR = 0x80
    """Measurement only: after the reply the host answers ``value`` bare round trips."""
    CONTROL = 0x81
    """Measurement only, not counted: ``value`` is a :class:`Control`."""
    PASSED_READ = 0x82
    """No exit: an RDMSR that ``passed`` lets reach the silicon, which is host code here."""
    PASSED_WRITE = 0x83
    """Likewise a WRMSR."""
    PASSED_RDPMC = 0x84
    """Likewise an RDPMC."""
    OVERFLOW = 0x85
    """No exit: with ``passed`` a counter of the silicon may have overflowed; the reply says whether
    that interrupts (PMI_RAISED)."""


def reason_name(reason: int) -> str:
    """The name of an exit reason; of a later version's the number."""
    known = reason in ExitReason._value2member_map_
    return ExitReason(reason).name if known else f"REASON_{reason}"


class Control(enum.IntEnum):
    """What a CONTROL exit asks of the host. Append only."""

    RESET = 0
    """vCPU reset: a new vPMU, as after power-on; statistics start at 0."""
    START = 1
    """Statistics start at 0 here."""
    STOP = 2
    """Statistics end here; what follows is not counted."""
    CALL = 3
    """Do what the test port's area says, as a VMM's ioctl would; #GP without a test port."""
    WORK = 4
    """Until RESET, have the ``work`` words say what the host did since START."""


REASON_MASK = 0xFF
NMI_BLOCKED = 1 << 8
"""Request flag: NMIs are blocked (VMCS guest interruptibility state, bit 3)."""
RETIRED_USER = 1 << 9
"""Request flag: ``retired_user`` holds what was retired at CPL 3 since VM-entry."""
RETIRED_KERNEL = 1 << 10
"""Request flag: likewise for CPL 0."""
STRAY_PMI = 1 << 11
"""Request flag of EXCEPTION_NMI: the host delivers this PMI twice (a scripted irq_work race)."""
INTERRUPTIBLE = 1 << 12
"""Request flag: RFLAGS.IF is set and no fixed interrupt is in service."""
FORCED = 1 << 13
"""Request flag: forced emulation, so that the instruction exits whatever ``passed`` says."""

FAULT_GP = 1 << 0
"""Reply flag: the access raised #GP(0)."""
INJECT_NMI = 1 << 1
"""Reply flag: this VM-entry injects an NMI."""
WANT_NMI_WINDOW = 1 << 2
"""Reply flag: exit with NMI_WINDOW as soon as NMIs are no longer blocked."""
INJECT_IRQ = 1 << 3
"""Reply flag: this VM-entry injects the interrupt whose vector is in the reply's bits 15:8."""
WANT_IRQ_WINDOW = 1 << 4
"""Reply flag: exit with INTERRUPT_WINDOW as soon as a fixed interrupt can be taken."""
PMI_RAISED = 1 << 5
"""Reply flag of OVERFLOW: the silicon interrupts, which is an exit."""
VECTOR_SHIFT = 8

SLOT_SIZE = 1024
MODE_USER = 1 << 0
MODE_KERNEL = 1 << 1
LIVE_MODE_SHIFT = 8
"""A live entry's descriptor: event kind in bits 7:0, modes from this bit on."""

PASS_FULL_WIDTH = 1 << 60
"""``passed``: with a counter's legacy address its full-width one passes."""
PASS_RDPMC = 1 << 61
"""``passed``: RDPMC passes."""
PASS_GLOBALS = 1 << 62
"""``passed``: GLOBAL_STATUS, GLOBAL_CTRL and OVF_CTRL pass."""
PMI_BY_VECTOR = 1 << 63
"""``passed``: a PMI is an EXTERNAL_INTERRUPT exit, by the host's vector for guests' PMIs."""

SlotWords: TypeAlias = "memoryview[int] | list[int]"
"""An exit slot, 64-bit words: a window of shared memory, or a plain list where host and guest are
one process, whose words are loaded and stored in a third of the time."""

SLOT = Layout("pvpmu_exit_slot", SLOT_SIZE)
SLOT.line(Owner.GUEST)
REQUEST = SLOT.word("request", "exit reason 7:0 and request flags")
ADDRESS = SLOT.word("address", "MSR address, RDPMC index (ECX) or CPUID leaf")
VALUE = SLOT.word("value", "value written, or an argument")
CLOCK = SLOT.word("clock", "guest clock at the exit, ns; measurement only, 0 if not told")
SLOT.line(Owner.GUEST)
RETIRED_USER_AT = SLOT.word("retired_user", "counts by event kind at CPL 3", count=KINDS)
SLOT.line(Owner.GUEST)
RETIRED_KERNEL_AT = SLOT.word("retired_kernel", "counts by event kind at CPL 0", count=KINDS)
SLOT.line(Owner.HOST)
REPLY = SLOT.word("reply", "reply flags")
RESULT = SLOT.word("result", "value read; CPUID: EAX 31:0, EBX 63:32")
RESULT_HIGH = SLOT.word("result_high", "CPUID: ECX 31:0, EDX 63:32")
LIVE_VERSION = SLOT.word("live_version", "changes whenever the live entries do")
LIVE_COUNT = SLOT.word("live_count", "number of live entries")
PASSED = SLOT.word("passed", "accesses that do not exit: counters as in GLOBAL_CTRL, then flags")
SLOT.line(Owner.HOST)
LIVE_AT = SLOT.word(
    "live",
    "for each counter that counts in the guest: descriptor, distance to overflow",
    count=2 * (MAX_GP + MAX_FIXED + 8),
)
SLOT.line(Owner.HOST)
WORK_AT = SLOT.word("work_live_calls", "perf calls on counters not paused already, since START")
SLOT.word("work_redundant_calls", "perf calls on counters paused already")
SLOT.word("work_locks", "perf context locks taken")
SLOT.word("work_placements", "events placed on hardware counters")
SLOT.word("work_local_reads", "reads of a counter without perf")
WORK_WORDS = SLOT.word("work_switches", "times the guest's PMU was put and loaded") - WORK_AT + 1
"""Measurement only, and only if a CONTROL exit asked for it (WORK): at each VM-entry that can come
from a counted exit, in the order of :class:`pvpmu.shared.costs.Work` behind its exits."""

LEAF_SIGNATURE = 0x4000_0100
"""CPUID-style leaf that announces the page: EAX highest leaf, EBX ECX EDX the signature."""
LEAF_FEATURES = 0x4000_0101
"""EAX page versions, EBX offered features, ECX MSR_PVPMU_PAGE's address, EDX page size."""
_SIGNATURE_TEXT = b"PVPMUPVPMUPV"
SIGNATURE = tuple(int.from_bytes(_SIGNATURE_TEXT[i : i + 4], "little") for i in (0, 4, 8))


def load_words(slot: SlotWords, at: int, count: int) -> list[int]:
    """``count`` words of a slot from index ``at`` on."""
    words = slot[at : at + count]
    return words if isinstance(words, list) else words.tolist()


def store_words(slot: SlotWords, at: int, words: list[int]) -> None:
    """Store words to a slot from index ``at`` on.

    Whose slot it is has it alone until it crosses, so that one copy will do.
    """
    if isinstance(slot, list):
        slot[at : at + len(words)] = words
    else:
        slot[at : at + len(words)] = array("Q", words)
