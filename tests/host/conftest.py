"""A vPMU bench, a whole host vCPU, and instrumented page words, as fixtures."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvpmu.host.filter import EventFilter
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.host.perf_linux import OVERFLOW_SIGNALS
from pvpmu.host.perf_sources import why_not
from pvpmu.host.pmi import REQUEST_PMU, PmiDelivery
from pvpmu.host.vcpu import HostVcpu
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.profile import KVM_5_14, Profile
from pvpmu.shared.registration import Request
from pvpmu.shared.tally import TALLY_WORDS, locks

BRANCHES_EVTSEL = 0x0053_00C4
MISSES_EVTSEL = 0x0053_412E
BOTH_FIXED = 0xBB
ALL_ON = 0x7_0000_00FF
FOUR = 0x3_0000_0003
NMI_MODE = 0x400
DISTANCE = 1000
START = (1 << 48) - DISTANCE


@pytest.fixture
def needs_perf() -> Iterator[None]:
    """Real events, whose signals wait to be taken."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"needs perf_event_open: {reason}")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OVERFLOW_SIGNALS)
    yield
    while signal.sigtimedwait(OVERFLOW_SIGNALS, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Clock:
    """Each look is 7 ns later."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 7
        return self.now


class RecordingPerf(PerfContext):
    """Host perf that also keeps the name of every call, in order."""

    def __init__(self, pmu: PhysicalPmu) -> None:
        super().__init__(pmu)
        self.calls: list[str] = []

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        self.calls.append("create")
        return super().create(attr, period, on_overflow)

    def pause(self, event: PerfEvent) -> int:
        self.calls.append("pause")
        return super().pause(event)

    def read_value(self, event: PerfEvent) -> int:
        self.calls.append("read_value")
        return super().read_value(event)

    def period(self, event: PerfEvent, period: int) -> bool:
        self.calls.append(f"period {period:#x}")
        return super().period(event, period)

    def enable(self, event: PerfEvent) -> None:
        self.calls.append("enable")
        super().enable(event)

    def release(self, event: PerfEvent) -> None:
        self.calls.append("release")
        super().release(event)

    def take(self) -> list[str]:
        """The calls since the last time, without their arguments."""
        names = [call.split()[0] for call in self.calls]
        self.calls.clear()
        return names


class Bench:
    """A vPMU on its host perf, without exits: registers are written directly."""

    def __init__(
        self,
        *,
        skip_paused: bool = True,
        cpuid: PmuCpuid | None = None,
        hardware: PhysicalPmu | None = None,
        profile: Profile = KVM_5_14,
        event_filter: EventFilter | None = None,
    ) -> None:
        self.hardware = hardware or PhysicalPmu()
        self.perf = RecordingPerf(self.hardware)
        self.delivery = PmiDelivery()
        self.vpmu = Vpmu(
            cpuid or PmuCpuid(),
            self.perf,
            self.delivery,
            skip_paused=skip_paused,
            profile=profile,
            event_filter=event_filter,
        )

    def write(self, address: int, value: int) -> bool:
        done = self.vpmu.wrmsr(address, value)
        if self.vpmu.profile.deferred_reprogram:
            self.enter()
        return done

    def enter(self) -> None:
        """What VM-entry does for counters: start and stop what was asked for."""
        self.delivery.requests &= ~REQUEST_PMU
        self.vpmu.handle_pmu_request(pause_only=False)

    def read(self, address: int) -> int | None:
        return self.vpmu.rdmsr(address)

    def retire(self, *, in_guest: bool = True, **counts: int) -> None:
        """Count ``branches=3`` and so on at CPL 3, then take the host's PMI if one is due."""
        self.hardware.retire(vector(**counts), None)
        self.vpmu.in_guest = in_guest
        self.perf.handle_nmi()

    def start_four(self) -> None:
        """Four events running, two GP and two fixed, with INT, `DISTANCE` before overflow."""
        self.write(msr.GLOBAL_CTRL, 0)
        for address in (0x4C1, 0x4C2, 0x309, 0x30A):
            self.write(address, START)
        self.write(0x186, BRANCHES_EVTSEL)
        self.write(0x187, MISSES_EVTSEL)
        self.write(msr.FIXED_CTR_CTRL, BOTH_FIXED)
        self.write(msr.LVTPC, NMI_MODE)
        self.write(msr.GLOBAL_CTRL, ALL_ON)
        self.perf.take()

    def calls(self, *writes: tuple[int, int]) -> list[str]:
        """The perf calls that these writes make."""
        self.perf.take()
        for address, value in writes:
            assert self.write(address, value)
        return self.perf.take()

    def state(self) -> dict[str, object]:
        """Everything a guest can see and everything that decides what counts."""
        vpmu = self.vpmu
        return {
            "registers": (vpmu.global_ctrl, vpmu.global_status, vpmu.ovf_ctrl, vpmu.fixed_ctr_ctrl),
            "counters": [
                (pmc.accumulator, pmc.eventsel, pmc.config, pmc.is_paused, pmc.event)
                for pmc in (*vpmu.gp, *vpmu.fixed)
            ],
            "own_enable": vpmu.own_enable,
            "lvtpc": self.delivery.lvtpc,
            "hardware": [(c.value, c.kind, c.modes, c.running) for c in self.hardware.counters],
        }


KIND_NAMES = ("cycles", "instructions", "ref", "references", "misses", "branches", "branch_misses")


def vector(**counts: int) -> list[int]:
    """A retired vector by event name."""
    assert set(counts) <= set(KIND_NAMES)
    return [counts.get(name, 0) for name in KIND_NAMES]


class TracedWords:
    """A page's words that log every load and store.

    ``on_load(index)`` runs after the value was taken: it may change the word, as a guest that
    races with the host would.
    """

    def __init__(self, window: memoryview) -> None:
        self.window = window
        self.log: list[tuple[str, int]] = []
        self.on_load: Callable[[int], None] = lambda _: None

    def _load(self, index: int) -> int:
        value: int = self.window[index]
        self.log.append(("load", index))
        self.on_load(index)
        return value

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            values = [self._load(i) for i in range(*index.indices(len(self.window)))]
            copy = memoryview(bytearray(8 * len(values))).cast("Q")
            for i, value in enumerate(values):
                copy[i] = value
            return copy
        return self._load(index)

    def __setitem__(self, index: int, value: int) -> None:
        self.window[index] = value
        self.log.append(("store", index))

    def __len__(self) -> int:
        return len(self.window)

    def loads(self) -> list[int]:
        return [index for what, index in self.log if what == "load"]

    def stores(self) -> list[int]:
        return [index for what, index in self.log if what == "store"]


class TracedMemory:
    """Guest memory whose page-sized windows are traced."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.windows: list[TracedWords] = []

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, index: slice) -> TracedWords:
        self.windows.append(TracedWords(self.memory[index]))
        return self.windows[-1]


PAGES = 4
PAGE_WORDS = page.PAGE_SIZE // 8


class Machine:
    """A host vCPU with the guest's side of its slot and memory, driven exit by exit."""

    def __init__(
        self,
        *,
        paged: bool = True,
        freeze: bool = True,
        is_paused: bool = True,
        cpuid: PmuCpuid | None = None,
        profile: Profile = KVM_5_14,
        host: Callable[..., HostVcpu] = HostVcpu,
        **axes: Any,
    ) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.memory = memoryview(bytearray(PAGES * page.PAGE_SIZE)).cast("Q")
        self.traced = TracedMemory(self.memory)
        design = Design(
            name="test",
            summary="",
            is_paused=is_paused,
            page=paged,
            freeze=paged and freeze,
            lvtpc_auto=paged,
            **axes,
        )
        self.host = host(self.slot, self.traced, design, cpuid or PmuCpuid(), profile)

    def exit(
        self,
        reason: int,
        address: int = 0,
        value: int = 0,
        *,
        flags: int = 0,
        user: list[int] | None = None,
        kernel: list[int] | None = None,
    ) -> int:
        """One exit; returns the reply flags."""
        slot = self.slot
        for at, flag, counts in (
            (exits.RETIRED_USER_AT, exits.RETIRED_USER, user),
            (exits.RETIRED_KERNEL_AT, exits.RETIRED_KERNEL, kernel),
        ):
            if counts is not None:
                flags |= flag
                for kind in range(KINDS):
                    slot[at + kind] = counts[kind]
        slot[exits.REQUEST] = reason | flags
        slot[exits.ADDRESS] = address
        slot[exits.VALUE] = value
        slot[exits.REPLY] = exits.WANT_NMI_WINDOW | exits.INJECT_NMI | exits.FAULT_GP
        assert self.host.serve() == reason
        return slot[exits.REPLY]

    def write(self, address: int, value: int, *, blocked: bool = False, **retired: int) -> int:
        return self.exit(
            ExitReason.MSR_WRITE,
            address,
            value,
            flags=exits.NMI_BLOCKED if blocked else 0,
            user=vector(**retired) if retired else None,
        )

    def read(self, address: int) -> int | None:
        reply = self.exit(ExitReason.MSR_READ, address)
        return None if reply & exits.FAULT_GP else self.slot[exits.RESULT]

    def rdpmc(self, ecx: int) -> int | None:
        reply = self.exit(ExitReason.RDPMC, ecx)
        return None if reply & exits.FAULT_GP else self.slot[exits.RESULT]

    def nmi(self, *, stray: bool = False, blocked: bool = False, **retired: int) -> int:
        flags = (exits.STRAY_PMI if stray else 0) | (exits.NMI_BLOCKED if blocked else 0)
        return self.exit(ExitReason.EXCEPTION_NMI, flags=flags, user=vector(**retired))

    def register(self, *, number: int = 0, features: int = page.FEATURE_FREEZE) -> memoryview:
        """Register page ``number``; returns the guest's window of it."""
        address = number * page.PAGE_SIZE
        request = Request(address=address, version=page.PAGE_VERSION, features=features)
        assert self.write(msr.PV_PAGE, request.encode()) == 0
        assert self.read(msr.PV_STATUS) == 1
        return self.memory[number * PAGE_WORDS : (number + 1) * PAGE_WORDS]

    def program_four(self) -> None:
        """Program four events by trapped writes, GLOBAL_CTRL left at 0."""
        self.write(msr.GLOBAL_CTRL, 0)
        for address in (0x4C1, 0x4C2, 0x309, 0x30A):
            self.write(address, START)
        self.write(0x186, BRANCHES_EVTSEL)
        self.write(0x187, MISSES_EVTSEL)
        self.write(msr.FIXED_CTR_CTRL, BOTH_FIXED)
        self.write(msr.LVTPC, NMI_MODE)

    def run_four(self) -> None:
        self.program_four()
        assert self.write(msr.GLOBAL_CTRL, self.host.cpuid.counters) == 0

    def traced_page(self) -> TracedWords:
        """The host's words of the page registered last, with an empty log."""
        words = self.traced.windows[-1]
        words.log.clear()
        return words

    def locks(self) -> list[int]:
        """Perf calls so far by place: handler, delivery, other."""
        return [locks(tally) for tally in self.host.stats.tallies]

    def no_calls(self) -> None:
        """Start counting calls afresh."""
        for tally in self.host.stats.tallies:
            tally[:] = [0] * TALLY_WORDS


class Paged:
    """A machine with four events running and a registered page."""

    def __init__(self, machine: Machine) -> None:
        machine.run_four()
        self.page = machine.register()
        self.machine = machine
        self.words = machine.traced_page()
        machine.no_calls()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)

    def stop(self) -> None:
        assert self.machine.write(msr.GLOBAL_CTRL, 0) == 0
        self.words.log.clear()

    def commit(self, value: int = ALL_ON, *, blocked: bool = False) -> int:
        self.page[page.RELEASE_SEQ] = self.page[page.FREEZE_SEQ]
        reply: int = self.machine.write(msr.GLOBAL_CTRL, value, blocked=blocked)
        return reply

    @property
    def held(self) -> bool:
        return bool(self.page[page.FREEZE_SEQ] != self.page[page.RELEASE_SEQ])

    @property
    def status(self) -> int:
        return (self.page[page.RAISED] ^ self.page[page.ACKED]) & self.page[page.STATUS_MASK]

    @property
    def counting(self) -> int:
        return len(self.machine.host.hardware.started)


@pytest.fixture(scope="session")
def new_bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def new_machine() -> Callable[..., Machine]:
    return Machine


@pytest.fixture
def paged(new_machine: Callable[..., Machine]) -> Paged:
    return Paged(new_machine())


@pytest.fixture
def new_traced_words() -> Callable[..., TracedWords]:
    return TracedWords
