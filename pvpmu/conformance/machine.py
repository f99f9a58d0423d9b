"""One machine for every target of this project: a real guest vCPU with its seam, and its VMM.

How a guest crosses to its host is a :class:`Board`'s; the host makes a VMM's calls through its test
port. What this project cannot do yet is not advertised and answers "no such operation".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from msgspec import to_builtins

from pvpmu import __version__
from pvpmu.conformance.burst import Burst
from pvpmu.conformance.hostcalls import HostCalls
from pvpmu.conformance.names import FROZEN, RUNNING, TRAPPING
from pvpmu.conformance.ops import EVENT_NAMES
from pvpmu.conformance.target import Hello, Json, OnNmi, Reply, Unsupported
from pvpmu.conformance.window import QuietVcpu, Window, WindowMemory
from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.testport import PortCalls
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import Leaf, PmuCpuid, clamped
from pvpmu.shared.design import KVM_AXES, Design
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.events import BRANCHES, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, ExitReason
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.profile import PROFILES, Profile, profile_named
from pvpmu.shared.tally import CALL_KINDS
from pvpmu.shared.units import U64_MASK

FEATURES = (
    "page", "freeze", "lvtpc-auto", "negotiation", "generation", "lvtpc-era", "cpuid", "is-paused",
    "forced-emulation", "nmi", "nmi-at", "hlt", "smp", "reset", "init", "preempt", "dirty-log",
    "exits", "calls", "host-events", "save", "profiles",
    "versions", "event-vector", "capabilities", "host-msrs", "filter", "set-cpuid", "host-load",
    "emulated-retirement", "privilege", "idle-time", "pmu-disable",
    "host-event-flags", "move", "interrupt-flag",
)  # fmt: skip
_KVM = Design(name="conformance", summary="as the vector says", is_paused=True, page=False)
_PROFILES = tuple(PROFILES)
_HOST_WORK = ("calls", "host-events")
_NOT_MEDIATED = (
    *_HOST_WORK, "host-event-flags", "host-load", "is-paused", "page", "freeze", "lvtpc-auto",
    "negotiation", "generation", "nmi-at", "dirty-log",
)  # fmt: skip
"""What has nothing to work on where no host event and no page stands behind the registers."""
_PMU_REASONS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)
_REGISTERS = ("eax", "ebx", "ecx", "edx")

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Board:
    """What a vCPU is plugged into.

    ``slot``: its exit slot, with the test port's area behind it. ``memory``: the guest's, as 64-bit
    words. ``cross``: hand over to the host and return at VM-entry. ``race``: let another CPU store
    a value after the host's next access to a page word, where that can be done. ``vcpu``: makes
    the guest's vCPU from slot and crossing, where that is not this project's model.
    """

    slot: memoryview[int]
    memory: memoryview[int]
    cross: Callable[[], object]
    race: Callable[[int, int], None] | None = None
    vcpu: Callable[[memoryview[int], Callable[[], object]], Vcpu] | None = None


class MachineTarget:
    """A target whose guest runs in this process, on the boards that :meth:`boards` gives.

    ``design``: what its host does where the vectors leave it free; KVM's without.
    """

    def __init__(self, name: str, features: tuple[str, ...], design: Design | None = None) -> None:
        self._name = name
        self._design = design or _KVM
        if design is not None:
            self._name = f"{name}, design {design.name}"
            if design.vpmu == "mediated":
                features = tuple(each for each in features if each not in _NOT_MEDIATED)
            if design.host_axes != KVM_AXES or design.shares_lock:
                # How many calls it makes is just what such a design changes.
                features = tuple(each for each in features if each not in _HOST_WORK)
        self._features = features
        self._machines: list[Machine] = []
        self._on_nmi: OnNmi = _nobody

    def boards(self, vcpus: int, pages: int) -> Sequence[Board]:
        """Boards of one VM, whose memory of so many pages is zero."""
        raise NotImplementedError

    def hello(self) -> Hello:
        """Name, features and profiles."""
        return Hello(
            name=self._name, version=__version__, features=self._features, profiles=_PROFILES
        )

    def reset(self, config: Mapping[str, Json]) -> None:
        """Make a VM of that configuration."""
        c: Fields = config
        self._machines = []

        def call_back(number: int) -> None:
            self._on_nmi(number)

        self._machines = [
            Machine(number, board, c, call_back, self._design)
            for number, board in enumerate(self.boards(c["vcpus"], c["pages"]))
        ]
        for machine in self._machines:
            machine.calls.vm = self._machines

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        """Do one operation."""
        self._on_nmi = on_nmi
        if vcpu >= len(self._machines):
            raise Unsupported(f"no vCPU {vcpu}, there are {len(self._machines)}")
        machine = self._machines[vcpu]
        method = machine.operations.get(name)
        if method is None:
            raise Unsupported(f"no such operation: {name}")
        try:
            return machine.do(name, lambda: method(fields))
        except GeneralProtectionError:
            return Reply(fault=True)

    def close(self) -> None:
        """Forget the VM."""
        self._machines = []


class Machine:
    """One vCPU, and the calls of its VMM."""

    def __init__(
        self,
        number: int,
        board: Board,
        config: Fields,
        on_nmi: Callable[[int], None],
        design: Design,
    ) -> None:
        self._number = number
        self._config = config
        self.frame = number
        self._slot = board.slot
        self._memory = memory = board.memory
        self._address = number * PAGE_SIZE
        first = self._address // 8
        self._words = memory[first : first + PAGE_SIZE // 8]
        self._windows = WindowMemory(memory) if config["nmi_at"] else None
        self._cross_board = board.cross
        self._board_race = board.race
        self._vcpu: Vcpu = (board.vcpu or QuietVcpu)(self._slot, self._cross)
        self._vcpu.on_nmi = self._nmi_taken
        self._vcpu.on_interrupt = lambda _: self._nmi_taken()
        self._tell = on_nmi
        self._design = _design(config, design)
        self._profile = _profile(config)
        self._exits: Counter[int] = Counter()
        self.current = self.shape({})
        self.call = PortCalls(self._vcpu, board.slot)
        self.configure()
        self.calls = HostCalls(self)
        self._nmis = 0
        self._armed: Callable[[], None] | None = None
        self._armed_point = 0
        self.operations: dict[str, Callable[[Fields], Reply]] = {
            "wr": self._wr,
            "rd": lambda f: _value(self._vcpu.seam.rdmsr(f["msr"])),
            "rdpmc": self._rdpmc,
            "cpuid": self._cpuid,
            "lvtpc": self._lvtpc,
            "run": self._run,
            "overflow": self._overflow,
            "nmi": lambda _: self._foreign_nmi(),
            "nmi_at": self._nmi_at,
            "race": self._race,
            "nmis": lambda _: _value(self._nmis),
            "hlt": self._hlt,
            "iflag": self._iflag,
            "reset": self._reset,
            "register": lambda _: self._register(),
            "unregister": lambda _: self._unregister(),
            "page.read": lambda f: _value(self._words[f["word"]]),
            "page.write": self._page_write,
            "sync": lambda _: self._sync(),
            "state": lambda _: self._state(),
            "mark": lambda _: self._mark(),
            "exits": self._count_exits,
            "calls": self._count_calls,
            "event": self._event,
            **self.calls.operations(),
        }

    def do(self, name: str, operation: Callable[[], Reply]) -> Reply:
        """Run an operation, with the NMI that was ordered for it, if any."""
        window = self._window
        if self._armed is None or name == "nmi_at" or window is None:
            return operation()
        window.arm(self._armed_point, self._armed)
        self._armed = None
        window.quiet = False
        try:
            return operation()
        finally:
            window.quiet = True

    @property
    def _window(self) -> Window | None:
        return self._windows.window if self._windows is not None else None

    def _cross(self) -> None:
        self._exits[self._slot[exits.REQUEST] & exits.REASON_MASK] += 1
        self._cross_board()

    def _nmi_taken(self) -> None:
        self._nmis += 1
        self._vcpu.seam.handler_begins()
        self._tell(self._number)
        self._vcpu.seam.handler_ends()

    # Accesses --------------------------------------------------------------------------------

    def _wr(self, f: Fields) -> Reply:
        self._vcpu.seam.wrmsr(f["msr"], f["value"])
        return Reply()

    def _rdpmc(self, f: Fields) -> Reply:
        denied = bool(f["cpl"]) and f["protected"] and not f["pce"]
        if f["emulated"]:
            # The emulator checks what the CPU checks before it exits.
            if denied:
                raise GeneralProtectionError("rdpmc", f["index"])
            return _value(self._vcpu.exit(ExitReason.RDPMC | exits.FORCED, f["index"]))
        if f["cpl"] and f["protected"]:
            return _value(self._vcpu.user_rdpmc(f["index"], pce=f["pce"]))
        return _value(self._vcpu.seam.rdpmc(f["index"]))

    def _cpuid(self, f: Fields) -> Reply:
        return _value(self._vcpu.cpuid(f["leaf"])[_REGISTERS.index(f["register"])])

    def _lvtpc(self, f: Fields) -> Reply:
        if "value" not in f:
            return _value(self._vcpu.seam.rdmsr(msr.LVTPC))
        self._vcpu.seam.wrmsr(msr.LVTPC, f["value"])
        return Reply()

    # Running ---------------------------------------------------------------------------------

    def _run(self, f: Fields) -> Reply:
        if f["emulated"]:
            for kind, name in enumerate(EVENT_NAMES):
                if f[name]:
                    self.call("emulate", kind=kind, count=f[name], cpl=f["cpl"])
            # The emulator runs at an exit; its VM-entry may bring the PMI.
            self._vcpu.exit(ExitReason.HLT)
            return Reply()
        self._retire([f[name] for name in EVENT_NAMES], f["cpl"])
        return Reply()

    def _overflow(self, f: Fields) -> Reply:
        kind = EVENT_NAMES.index(f["event"])
        distance = self._vcpu.distances()[kind]
        counts = [0] * len(EVENT_NAMES)
        counts[kind] = distance
        self._retire(counts, f["cpl"])
        return _value(distance)

    def _retire(self, counts: list[int], cpl: int) -> None:
        if not any(counts):
            return
        if self._design.commit == "natural":
            # Time passes before the program goes on, and with it an exit that happens anyway.
            self._vcpu.exit(ExitReason.EXTERNAL_INTERRUPT)
        burst = Burst(counts)
        vcpu = self._vcpu
        # A handler may run while the program does: it goes on where it was.
        outer, vcpu.program = vcpu.program, burst
        vcpu.run_until(burst.steps, MODE_USER if cpl else MODE_KERNEL)
        vcpu.program = outer

    def _foreign_nmi(self) -> Reply:
        self.call("do", what="queue_nmi")
        self._vcpu.exit(ExitReason.EXCEPTION_NMI)
        return Reply()

    def _nmi_at(self, f: Fields) -> Reply:
        self._armed_point = f["point"]
        if f["what"] == "nmi":
            self._armed = lambda: cast("None", self._foreign_nmi())
        else:
            self._armed = lambda: cast("None", self._overflow({"event": f["event"], "cpl": 0}))
        return Reply()

    def _race(self, f: Fields) -> Reply:
        if self._board_race is None:
            raise Unsupported("no such operation: race")
        self._board_race(f["word"], f["value"])
        return Reply()

    def _hlt(self, f: Fields) -> Reply:
        if f["branches"]:
            self._vcpu.retire(
                [f["branches"] * (kind == BRANCHES) for kind in range(KINDS)], MODE_KERNEL
            )
        self._vcpu.exit(ExitReason.HLT)
        if f["cycles"]:
            self.call("idle", cycles=f["cycles"])
        return Reply()

    def _iflag(self, f: Fields) -> Reply:
        self._vcpu.set_interrupt_flag(enabled=f["value"])
        return Reply()

    # The host --------------------------------------------------------------------------------

    def configure(self, gp: int | None = None) -> None:
        """A new host vCPU, as on the destination of a migration; memory and slot stay."""
        if gp is not None:
            self.current = replace(self.current, gp=gp)
        self.call(
            "configure",
            design=to_builtins(self._design),
            shape=to_builtins(self.current),
            profile=to_builtins(self._profile),
        )
        self._calls_before = dict.fromkeys(CALL_KINDS, 0)

    def _reset(self, f: Fields) -> Reply:
        self._vcpu.set_interrupt_flag(enabled=False)
        if f["kind"] == "init":
            self.call("do", what="init")
            return Reply()
        # What a guest that starts anew would do: it knows of no page.
        self._vcpu.forget_page()
        self.call("do", what="reset")
        self._mark()
        return Reply()

    def shape(self, changes: Fields) -> PmuCpuid:
        """The configured PMU, with what a later KVM_SET_CPUID2 changes."""
        c = {
            **self._config,
            **{name: value for name, value in changes.items() if value is not None},
        }
        if not c["pmu"]:
            return PmuCpuid(version=0)
        return clamped(_leaf(c), pdcm=c["pdcm"], full_width=c["full_width"])

    # The page --------------------------------------------------------------------------------

    def _register(self) -> Reply:
        memory = self._memory if self._windows is None else cast("Any", self._windows)
        done = self._vcpu.register_page(memory, self._address, guest=self._design.guest)
        if isinstance(self._vcpu, QuietVcpu):
            self._vcpu.window = self._window
        return _value(int(done))

    def _unregister(self) -> Reply:
        self._vcpu.unregister_page()
        return Reply()

    def _page_write(self, f: Fields) -> Reply:
        self._words[f["word"]] = f["value"]
        return Reply()

    def _sync(self) -> Reply:
        # A read of a register that is never in the page: it changes nothing, and the host finds
        # what a trapped access must find.
        self._vcpu.exit(ExitReason.MSR_READ, msr.CAPABILITIES)
        return Reply()

    def _state(self) -> Reply:
        if self._vcpu.seam.page is None or not self._words[page.VERSION]:
            return _value(TRAPPING)
        return _value(RUNNING if self._words[page.LIVE] else FROZEN)

    # Measuring -------------------------------------------------------------------------------

    def _mark(self) -> Reply:
        self._exits.clear()
        self._nmis = 0
        self._calls_before = self._calls()
        return Reply()

    def _calls(self) -> dict[str, int]:
        return cast("dict[str, int]", self.call("describe")["calls"])

    def _count_exits(self, f: Fields) -> Reply:
        if f["of"] == "pmu":
            return _value(sum(self._exits[reason] for reason in _PMU_REASONS))
        return _value(self._exits[ExitReason[f["of"]]])

    def _count_calls(self, f: Fields) -> Reply:
        before = self._calls_before
        made = {kind: now - before[kind] for kind, now in self._calls().items()}
        return _value(sum(made.values()) if f["of"] == "all" else made[f["of"]])

    def _event(self, f: Fields) -> Reply:
        events = {event["index"]: event for event in self.call("describe")["events"]}
        event = events.get(f["counter"])
        if f["of"] == "exists":
            return _value(int(event is not None))
        if event is None:
            return Reply()
        return _value(_attribute(event, f["of"]))


def _design(c: Fields, base: Design) -> Design:
    if base.vpmu == "mediated":
        return base
    freeze = c["page"] and c["freeze"]
    # What a vector takes away from a design takes with it what that is needed for.
    natural = base.commit == "natural" and c["page"]
    reload = base.reload and c["page"] and not freeze
    commits = natural or (base.commit == "handler-end" and freeze)
    return replace(
        base,
        is_paused=c["is_paused"],
        page=c["page"],
        freeze=freeze,
        lvtpc_auto=c["page"] and c["lvtpc_auto"],
        routes=base.routes if c["page"] else {},
        commit=base.commit if commits else "write",
        natural_exit_us=base.natural_exit_us if natural else 0,
        reload=reload,
    )


def _profile(c: Fields) -> Profile:
    profile = profile_named(c["profile"])
    if c["lvtpc_masked"] is not None:
        profile = replace(profile, lvtpc_masked=c["lvtpc_masked"])
    return profile


def _leaf(c: Fields) -> Leaf:
    """CPUID leaf 0xA as the vector's VMM sets it."""
    eax = c["version"] | c["gp"] << 8 | c["gp_width"] << 16 | c["length"] << 24
    return eax, c["unavailable"], 0, c["fixed"] | c["fixed_width"] << 5


def _attribute(event: Fields, name: str) -> int:
    if name == "counting":
        return int(event["state"] == "active" and event["kind"] is not None)
    if name == "kind":
        return -1 if event["kind"] is None else int(event["kind"])
    if name == "period":
        return int(event["period"])
    if name in ("pinned", "exclude_host", "exclude_idle"):
        return int(event[name])
    if name in ("exclude_user", "exclude_kernel"):
        mode = MODE_USER if name == "exclude_user" else MODE_KERNEL
        return int(not event["modes"] & mode)
    raise Unsupported(f"no such attribute: {name}")


def _value(value: int) -> Reply:
    return Reply(value=value & U64_MASK)


def _nobody(_: int) -> None:
    return None
