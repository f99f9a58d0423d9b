"""The operations of a vector, typed: what ``docs/conformance.md`` explains with examples.

A *value* is a JSON integer or an expression (:mod:`pvpmu.conformance.expression`); 64-bit values
are written as hex strings. Every operation is refused if it has a field that is not declared here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from pvpmu.shared.events import KINDS

Number = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
Value = Number | str
Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$")]
PathName = Literal["trap", "page", "page+freeze"]
EventName = Literal[
    "cycles",
    "instructions",
    "ref_cycles",
    "cache_references",
    "cache_misses",
    "branches",
    "branch_misses",
]
EVENT_NAMES: tuple[str, ...] = EventName.__args__  # type: ignore[attr-defined]
"""By event kind (:data:`pvpmu.shared.events.EVENTS`)."""
assert len(EVENT_NAMES) == KINDS


class Expect(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """What a result must be: every field that is given must hold.

    ``is``: exact; ``in``: a set; ``min``, ``max``: inclusive bounds; ``not``: anything else;
    ``mask`` is applied to the result first.
    """

    exact: Value | None = field(default=None, name="is")
    among: tuple[Value, ...] | None = field(default=None, name="in")
    min: Value | None = None
    max: Value | None = None
    other: Value | None = field(default=None, name="not")
    mask: Value | None = None


class Op(
    Struct,
    forbid_unknown_fields=True,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="op",
):
    """``on``: only on these paths (and then not compared between paths).

    ``when``: only if this expression is not 0. ``differs``: features whose permitted difference
    may change this result between paths.
    """

    on: tuple[PathName, ...] = ()
    when: str | None = None
    differs: tuple[str, ...] = ()


class Observed(Op, frozen=True, kw_only=True):
    """``expect``: what the result must be; ``as``: a name for it from here on."""

    expect: Value | Expect | None = None
    name: Name | None = field(default=None, name="as")


# Accesses ------------------------------------------------------------------------------------


class Wr(Op, frozen=True, kw_only=True, tag="wr"):
    """WRMSR; ``fault``: #GP is expected."""

    msr: Value
    value: Value
    fault: bool = False


class Rd(Observed, frozen=True, kw_only=True, tag="rd"):
    """RDMSR."""

    msr: Value
    fault: bool = False


class Rdpmc(Observed, frozen=True, kw_only=True, tag="rdpmc"):
    """RDPMC of ECX ``index``.

    ``pce``: CR4.PCE; ``protected``: CR0.PE; ``emulated``: the host's emulator executes it.
    """

    index: Value
    fault: bool = False
    cpl: Literal[0, 3] = 0
    pce: bool = True
    protected: bool = True
    emulated: bool = False


class Cpuid(Observed, frozen=True, kw_only=True, tag="cpuid"):
    """One register of a CPUID leaf."""

    leaf: Value
    register: Literal["eax", "ebx", "ecx", "edx"]


class Lvtpc(Observed, frozen=True, kw_only=True, tag="lvtpc"):
    """Write the local APIC's LVTPC (with ``value``) or read it."""

    value: Value | None = None


# What the guest does otherwise -----------------------------------------------------------------


class Run(Op, frozen=True, kw_only=True, tag="run"):
    """Retire exactly these counts at one CPL, interleaved evenly; overflows interrupt in between.

    ``emulated``: the host's emulator retires them (instructions and branches only).
    """

    cycles: Value = 0
    instructions: Value = 0
    ref_cycles: Value = 0
    cache_references: Value = 0
    cache_misses: Value = 0
    branches: Value = 0
    branch_misses: Value = 0
    cpl: Literal[0, 3] = 0
    emulated: bool = False


class Overflow(Observed, frozen=True, kw_only=True, tag="overflow"):
    """Retire ``event`` until a live counter of it overflows; the result is how many it took."""

    event: EventName
    cpl: Literal[0, 3] = 0


class Pmi(Op, frozen=True, kw_only=True, tag="pmi"):
    """The handler of the next ``times`` NMIs on this vCPU runs ``do``; not taken is a failure.

    LVTPC's vector, in fixed mode, is taken like an NMI; ``nmis`` counts it too.
    """

    do: tuple[AnyOp, ...]
    times: Value = 1
    optional: bool = False


class Nmi(Op, frozen=True, kw_only=True, tag="nmi"):
    """The host sends an NMI that is no PMI."""


class NmiAt(Op, frozen=True, kw_only=True, tag="nmi_at"):
    """In the next operation, an NMI before the ``point``-th load or store of the seam (from 0).

    ``what``: one that is no PMI, or a counter's overflow (``event`` is retired until then).
    """

    point: Value
    what: Literal["nmi", "overflow"] = "nmi"
    event: EventName = "instructions"


class Race(Op, frozen=True, kw_only=True, tag="race"):
    """Another CPU of the guest stores ``value`` right after the host's next access to ``word``."""

    word: Value
    value: Value


class Nmis(Observed, frozen=True, kw_only=True, tag="nmis"):
    """NMIs taken by this vCPU since the last ``mark``."""


class Hlt(Op, frozen=True, kw_only=True, tag="hlt"):
    """HLT until an interrupt.

    ``branches`` retire right before it: a PMI of theirs finds the vCPU halted. ``cycles`` pass on
    the physical CPU meanwhile.
    """

    branches: Value = 0
    cycles: Value = 0


class Iflag(Op, frozen=True, kw_only=True, tag="iflag"):
    """Set RFLAGS.IF, which is clear at first; in a handler it does nothing."""

    value: bool


# The host --------------------------------------------------------------------------------------


class HostGet(Observed, frozen=True, kw_only=True, tag="host_get"):
    """KVM_GET_MSRS of one MSR; ``refused``: an error is expected."""

    msr: Value
    refused: bool = False


class HostSet(Op, frozen=True, kw_only=True, tag="host_set"):
    """KVM_SET_MSRS of one MSR."""

    msr: Value
    value: Value
    refused: bool = False


class MsrList(Observed, frozen=True, kw_only=True, tag="msr_list"):
    """KVM_GET_MSR_INDEX_LIST: 1 if ``msr`` is in it, else 0; without ``msr`` its PMU entries."""

    msr: Value | None = None


class SetCpuid(Op, frozen=True, kw_only=True, tag="set_cpuid"):
    """KVM_SET_CPUID2 with another leaf 0xA; what is not given stays."""

    gp: Value | None = None
    fixed: Value | None = None
    gp_width: Value | None = None
    fixed_width: Value | None = None
    version: Value | None = None
    unavailable: Value | None = None
    pdcm: bool | None = None
    refused: bool = False


class FilterEntry(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One event of a filter; ``mask`` makes it a masked entry, ``exclude`` turns its sense."""

    event: Value
    umask: Value = 0
    mask: Value | None = None
    exclude: bool = False


class Filter(Op, frozen=True, kw_only=True, tag="filter"):
    """KVM_SET_PMU_EVENT_FILTER, for the whole VM.

    ``fill`` appends that many further entries; ``raw`` appends raw 64-bit entries.
    """

    action: Literal["allow", "deny", "none", "bad"]
    events: tuple[FilterEntry, ...] = ()
    raw: tuple[Value, ...] = ()
    fill: Value = 0
    masked: bool = False
    fixed: Value = 0
    flags: Value | None = None
    refused: bool = False


class HostLoad(Op, frozen=True, kw_only=True, tag="host_load"):
    """The host's own pinned events take ``counters`` of the physical ones (0: none).

    ``work``: then the host retires so many of every event on the vCPU's physical CPU.
    """

    counters: Value
    work: Value = 0


class Preempt(Op, frozen=True, kw_only=True, tag="preempt"):
    """The vCPU's thread is scheduled out and in again ``times`` times (lazy release looks)."""

    times: Value = 1


class Move(Op, frozen=True, kw_only=True, tag="move"):
    """The vCPU's thread goes to another physical CPU."""


class Kill(Op, frozen=True, kw_only=True, tag="kill"):
    """The host process dies at once."""


class Reset(Op, frozen=True, kw_only=True, tag="reset"):
    """vCPU RESET or INIT."""

    kind: Literal["reset", "init"] = "reset"


class Save(Op, frozen=True, kw_only=True, tag="save"):
    """Save the vCPU's PMU under a name."""

    name: Name = field(name="as")


class Restore(Op, frozen=True, kw_only=True, tag="restore"):
    """Restore it into this vCPU, or with ``fresh`` into a new VM; guest memory is kept.

    ``config`` of a new VM may differ from the vector's.
    """

    name: Name = field(name="from")
    fresh: bool = False
    gp: Value | None = None
    refused: bool = False


# The page --------------------------------------------------------------------------------------


class Register(Observed, frozen=True, kw_only=True, tag="register"):
    """The guest registers its page as its driver does: result 1, or 0 when refused."""


class Unregister(Op, frozen=True, kw_only=True, tag="unregister"):
    """The guest gives its page up."""


class PageRead(Observed, frozen=True, kw_only=True, tag="page.read"):
    """Load a page word: its name (``pmc + i``) or number."""

    word: Value


class PageWrite(Op, frozen=True, kw_only=True, tag="page.write"):
    """Store a page word, raw: no rule of the guest side applies."""

    word: Value
    value: Value


class Sync(Op, frozen=True, kw_only=True, tag="sync"):
    """An exit that changes no register: the host imports and republishes.

    ``refused``: the host is gone, and the guest must get an error in bounded time.
    """

    refused: bool = False


class Dirty(Observed, frozen=True, kw_only=True, tag="dirty"):
    """Whether the host's dirty log names this vCPU's page since the last ``dirty``: 1 or 0."""


class State(Observed, frozen=True, kw_only=True, tag="state"):
    """TRAPPING, RUNNING or FROZEN, as the page says."""


# Measuring -------------------------------------------------------------------------------------


class Mark(Op, frozen=True, kw_only=True, tag="mark"):
    """``exits``, ``calls`` and ``nmis`` count from here."""


class Exits(Observed, frozen=True, kw_only=True, tag="exits"):
    """VM-exits of this vCPU: all PMU accesses, or those of one reason."""

    of: Literal[
        "pmu", "MSR_READ", "MSR_WRITE", "RDPMC", "EXCEPTION_NMI", "NMI_WINDOW", "INTERRUPT_WINDOW"
    ] = "pmu"


class Calls(Observed, frozen=True, kw_only=True, tag="calls"):
    """Host perf calls for this vCPU: all kinds, or one."""

    of: Literal[
        "all", "pause", "read_value", "period", "enable", "disable", "release", "create"
    ] = "all"


class Event(Observed, frozen=True, kw_only=True, tag="event"):
    """The host event behind a counter (global index): one of its attributes.

    ``exists``; ``counting``; ``kind`` (event number, U64 for one that the silicon lacks);
    ``exclude_user``, ``exclude_kernel``; ``period``; ``pinned``, ``exclude_host``,
    ``exclude_idle``.
    """

    counter: Value
    of: Literal[
        "exists",
        "counting",
        "kind",
        "exclude_user",
        "exclude_kernel",
        "period",
        "pinned",
        "exclude_host",
        "exclude_idle",
    ]


# Control ---------------------------------------------------------------------------------------


class Repeat(Op, frozen=True, kw_only=True, tag="repeat"):
    """Do it ``times`` times; ``var`` counts from 0."""

    times: Value
    do: tuple[AnyOp, ...]
    var: Name | None = None


class Foreach(Op, frozen=True, kw_only=True, tag="foreach"):
    """Do it for ``var`` in ``from`` .. ``to`` - 1, or for each of ``in``."""

    var: Name
    do: tuple[AnyOp, ...]
    start: Value = field(default=0, name="from")
    stop: Value | None = field(default=None, name="to")
    among: tuple[Value, ...] | None = field(default=None, name="in")


class VcpuOp(Op, frozen=True, kw_only=True, tag="vcpu"):
    """What follows happens on this vCPU."""

    number: Value


class Fresh(Op, frozen=True, kw_only=True, tag="fresh"):
    """A new VM of the same configuration, registered as at the start."""


class Let(Op, frozen=True, kw_only=True, tag="let"):
    """Name a value."""

    name: Name = field(name="as")
    value: Value


class Check(Op, frozen=True, kw_only=True, tag="check"):
    """Relations that must hold."""

    that: tuple[str, ...]


AnyOp = (
    Wr
    | Rd
    | Rdpmc
    | Cpuid
    | Lvtpc
    | Run
    | Overflow
    | Pmi
    | Nmi
    | NmiAt
    | Race
    | Nmis
    | Hlt
    | Iflag
    | HostGet
    | HostSet
    | MsrList
    | SetCpuid
    | Filter
    | HostLoad
    | Preempt
    | Move
    | Kill
    | Reset
    | Save
    | Restore
    | Register
    | Unregister
    | PageRead
    | PageWrite
    | Sync
    | Dirty
    | State
    | Mark
    | Exits
    | Calls
    | Event
    | Repeat
    | Foreach
    | VcpuOp
    | Fresh
    | Let
    | Check
)


def tag_of(op: Op) -> str:
    """The operation's name in a vector."""
    tag = op.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def inside(op: AnyOp) -> tuple[AnyOp, ...]:
    """The operations that an operation contains."""
    return op.do if isinstance(op, (Pmi, Repeat, Foreach)) else ()


@lru_cache(maxsize=4096)
def text_of(op: Op) -> str:
    """One line: the name and the given fields, without contained operations."""
    fields = msgspec.to_builtins(op)
    tag = fields.pop("op")
    fields.pop("do", None)
    return " ".join([tag, *(f"{key}={_plain(value)}" for key, value in fields.items())])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
