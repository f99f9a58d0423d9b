"""From snapshots to rows: totals since the last reset, rates between two snapshots. Pure.

Time is passed in, in seconds of any clock. Nothing of a VM is lost when it ends: its last snapshot
stays, and rates become 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pvpmu.console import since
from pvpmu.console.since import KINDS, PAGE, RATES
from pvpmu.console.snapshot import Buckets, VmSnapshot
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import Histogram
from pvpmu.shared.liveview import OTHER, Key
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import Ns

HISTORY_S = 60.0
"""How far back a sparkline goes."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles of a histogram, ns. ``count``: how many values."""

    count: int
    p50: Ns
    p90: Ns
    p99: Ns
    p999: Ns
    largest: Ns


@dataclass(frozen=True, slots=True)
class VcpuRow:
    """A vCPU, or all of a VM (``vcpu`` None). Totals since the reset, rates per second.

    ``exits``: (total, rate) by reason; ``pmis``: totals by PMI_WORDS and ``spurious``. ``avoided``:
    accesses that did not exit; it, ``spurious`` and ``floor_ns`` are None where the guest does not
    record. ``dropped``: values that found no room; ``refused``: what its guest said that cannot be.
    """

    vm: str
    design: str
    vcpu: int | None
    state: str
    generation: int | None
    pmis: Mapping[str, int]
    pmi_rate: float
    exits: Mapping[str, tuple[int, float]]
    exit_total: int
    exit_rate: float
    avoided: int | None
    avoided_rate: float | None
    spurious: int | None
    floor_ns: Ns | None
    record_ns: Ns | None
    dropped: int
    refused: int


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """One register, operation and path of a VM. ``latency`` is None where nothing was recorded."""

    vm: str
    design: str
    name: str
    address: int
    rdpmc: bool
    op: str
    path: str
    total: int
    whole: int
    rate: float
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """A histogram of a VM: its kind (KINDS), buckets [ns, count], and p50 of the last minute.

    ``lowest``: the quantile 0.001, ns. ``trend``: (seconds ago, ns), oldest first.
    """

    vm: str
    design: str
    kind: str
    latency: Latency
    lowest: Ns
    buckets: Sequence[Sequence[int]]
    trend: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class RateRow:
    """A rate of a VM over the last minute: ``trend`` is (seconds ago, per second)."""

    vm: str
    design: str
    kind: str
    rate: float
    trend: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a VM's guest recorded while it was looked at: counts by series, its vCPUs added.

    From ``begun``, its first snapshot or the last reset, to ``ended``, the latest one: seconds of
    the model's clock. Series without a value in between are not there.
    """

    vm: str
    design: str
    begun: float
    ended: float
    series: Mapping[Key, Buckets]


@dataclass(slots=True)
class _Seen:
    """One VM: the snapshots that its rows compare, and its history by (vCPU or None, kind).

    ``base``: what totals begin at, None for 0; ``first``: of the time ``begun``, as of Recorded.
    """

    base: VmSnapshot | None
    before: VmSnapshot
    now: VmSnapshot
    first: VmSnapshot
    begun: float
    history: dict[tuple[int | None, str], deque[tuple[float, float]]] = field(default_factory=dict)


class Model:
    """All VMs that are looked at, in the order in which they were first given."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._time = 0.0
        self._elapsed = 0.0
        # Rows that take long to make, by vCPU: the picture is drawn anew at every key.
        self._registers: dict[int | None, list[RegisterRow]] = {}
        self._latencies: dict[int | None, list[LatencyRow]] = {}
        # What both are made of, by VM and vCPU.
        self._series: dict[tuple[str, int | None], dict[Key, dict[int, int]]] = {}

    @property
    def vms(self) -> list[VmSnapshot]:
        """The latest snapshot of each."""
        return [seen.now for seen in self._seen.values()]

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return all(vm.ended for vm in self.vms)

    @property
    def vcpus(self) -> int:
        """The largest number of vCPUs of a VM."""
        return max((len(vm.vcpus) for vm in self.vms), default=0)

    def update(self, time: float, vms: Iterable[VmSnapshot]) -> None:
        """Take what was read at ``time``, seconds."""
        self._elapsed = time - self._time if self._seen else 0.0
        self._time = time
        self._forget()
        for vm in vms:
            seen = self._seen.get(vm.name)
            if seen is None:
                self._seen[vm.name] = _Seen(None, vm, vm, vm, time)
            else:
                seen.before, seen.now = seen.now, vm
                self._remember(seen)

    def reset(self) -> None:
        """Totals and histograms begin at 0 here."""
        for seen in self._seen.values():
            seen.base = seen.before = seen.first = seen.now
            seen.begun = self._time
        self._forget()

    def _forget(self) -> None:
        self._registers.clear()
        self._latencies.clear()
        self._series.clear()

    # Rows ------------------------------------------------------------------------------------

    def vcpu_rows(self) -> list[VcpuRow]:
        """Each vCPU of each VM that is used, then all of that VM where there are several."""
        rows = []
        for seen in self._seen.values():
            used = range(seen.now.used)
            rows += [self._vcpu_row(seen, [number], number) for number in used]
            if len(used) > 1:
                rows.append(self._vcpu_row(seen, used, None))
        return rows

    def totals(self) -> list[VcpuRow]:
        """All of each VM."""
        return [
            self._vcpu_row(seen, range(len(seen.now.vcpus)), None) for seen in self._seen.values()
        ]

    def register_rows(self, vcpu: int | None = None) -> Sequence[RegisterRow]:
        """Each register, operation and path with an access since the reset, of one vCPU or all."""
        if vcpu not in self._registers:
            self._registers[vcpu] = self._register_rows(vcpu)
        return self._registers[vcpu]

    def latency_rows(self, vcpu: int | None = None) -> Sequence[LatencyRow]:
        """Each kind of latency that has any value, by VM."""
        if vcpu not in self._latencies:
            self._latencies[vcpu] = self._latency_rows(vcpu)
        return self._latencies[vcpu]

    def _register_rows(self, vcpu: int | None) -> list[RegisterRow]:
        rows = []
        for seen in self._seen.values():
            numbers = _numbers(seen.now, vcpu)
            totals = since.accesses(seen.now, seen.base, numbers)
            latest = since.accesses(seen.now, seen.before, numbers)
            recorded = self._since_reset(seen, vcpu)
            whole = sum(totals.values())
            for key, total in totals.items():
                latency = _latency(Histogram.of(recorded.get(key, {})))
                rows.append(
                    RegisterRow(
                        vm=seen.now.name,
                        design=seen.now.design,
                        name=_name(key),
                        address=key.address,
                        rdpmc=key.reason == ExitReason.RDPMC,
                        op="W" if key.reason == ExitReason.MSR_WRITE else "R",
                        path=key.path.name.lower(),
                        total=total,
                        whole=whole,
                        rate=self._rate(latest[key]),
                        latency=latency,
                    )
                )
        return rows

    def _latency_rows(self, vcpu: int | None) -> list[LatencyRow]:
        rows = []
        kinds = {
            name: since.by_kind(self._since_reset(seen, vcpu)) for name, seen in self._seen.items()
        }
        for kind in KINDS:
            for seen in self._seen.values():
                histogram = Histogram.of(kinds[seen.now.name][kind])
                latency = _latency(histogram)
                if latency is not None:
                    rows.append(
                        LatencyRow(
                            vm=seen.now.name,
                            design=seen.now.design,
                            kind=kind,
                            latency=latency,
                            lowest=histogram.quantile(0.001),
                            buckets=histogram.buckets(),
                            trend=self._trend(seen, vcpu, kind),
                        )
                    )
        return rows

    def rate_rows(self, vcpu: int | None = None) -> list[RateRow]:
        """Exits and PMIs per second over the last minute, by VM."""
        return [
            RateRow(
                vm=seen.now.name,
                design=seen.now.design,
                kind=kind,
                rate=self._rate(since.count(seen.now, seen.before, _numbers(seen.now, vcpu), kind)),
                trend=self._trend(seen, vcpu, kind),
            )
            for kind in RATES
            for seen in self._seen.values()
        ]

    def recorded(self) -> list[Recorded]:
        """What each VM's guest recorded since its first snapshot or the last reset."""
        found = []
        for seen in self._seen.values():
            series = since.series(seen.now, seen.first, range(len(seen.now.vcpus)))
            found.append(Recorded(seen.now.name, seen.now.design, seen.begun, self._time, series))
        return found

    # Helpers ---------------------------------------------------------------------------------

    def _rate(self, count: int) -> float:
        return count / self._elapsed if self._elapsed > 0 else 0.0

    def _vcpu_row(self, seen: _Seen, numbers: Sequence[int], vcpu: int | None) -> VcpuRow:
        now = seen.now
        own = [now.vcpus[number] for number in numbers]
        totals = since.by_reason(since.exits(now, seen.base, numbers))
        latest = since.by_reason(since.exits(now, seen.before, numbers))
        pmis = since.pmis(now, seen.base, numbers)
        guests = [each.guest for each in own if each.guest is not None]
        avoided = avoided_rate = spurious = None
        if guests:
            avoided = since.count(now, seen.base, numbers, PAGE)
            avoided_rate = self._rate(since.count(now, seen.before, numbers, PAGE))
            spurious = max(since.spurious(now, numbers) - since.spurious(seen.base, numbers), 0)
        floors = sorted(guest.floor_ns for guest in guests if guest.floor_ns)
        records = sorted(guest.record_ns for guest in guests)
        return VcpuRow(
            vm=now.name,
            design=now.design,
            vcpu=vcpu,
            state=now.state_of(own[0]) if vcpu is not None else "",
            generation=own[0].generation if vcpu is not None else None,
            pmis=pmis,
            pmi_rate=self._rate(since.pmis(now, seen.before, numbers)["delivered"]),
            exits={
                reason: (total, self._rate(latest.get(reason, 0)))
                for reason, total in totals.items()
            },
            exit_total=sum(totals.values()),
            exit_rate=self._rate(sum(latest.values())),
            avoided=avoided,
            avoided_rate=avoided_rate,
            spurious=spurious,
            floor_ns=floors[len(floors) // 2] if floors else None,
            record_ns=records[len(records) // 2] if records else None,
            dropped=sum(guest.dropped for guest in guests),
            refused=sum(guest.refused for guest in guests),
        )

    def _since_reset(self, seen: _Seen, vcpu: int | None) -> dict[Key, dict[int, int]]:
        place = seen.now.name, vcpu
        if place not in self._series:
            self._series[place] = since.series(seen.now, seen.base, _numbers(seen.now, vcpu))
        return self._series[place]

    def _remember(self, seen: _Seen) -> None:
        """Put what the last interval gave into the history."""
        numbers = range(len(seen.now.vcpus))
        everything: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
        for vcpu in numbers:
            own = since.by_kind(since.series(seen.now, seen.before, [vcpu]))
            self._remember_medians(seen, vcpu, own)
            for kind, buckets in own.items():
                since.merge(everything[kind], buckets)
        self._remember_medians(seen, None, everything)
        for kind in RATES:
            for choice in (None, *numbers):
                count = since.count(seen.now, seen.before, _numbers(seen.now, choice), kind)
                self._append(seen, choice, kind, self._rate(count))

    def _remember_medians(
        self, seen: _Seen, vcpu: int | None, kinds: Mapping[str, Mapping[int, int]]
    ) -> None:
        for kind, buckets in kinds.items():
            if buckets:
                self._append(seen, vcpu, kind, Histogram.of(buckets).quantile(0.5))

    def _append(self, seen: _Seen, vcpu: int | None, kind: str, value: float) -> None:
        values = seen.history.setdefault((vcpu, kind), deque())
        values.append((self._time, value))
        while values[0][0] < self._time - HISTORY_S:
            values.popleft()

    def _trend(self, seen: _Seen, vcpu: int | None, kind: str) -> list[tuple[float, float]]:
        found = seen.history.get((vcpu, kind), ())
        ages = ((self._time - time, value) for time, value in found)
        return [(age, value) for age, value in ages if age <= HISTORY_S]


def _numbers(vm: VmSnapshot, vcpu: int | None) -> Sequence[int]:
    """The vCPUs that a choice stands for."""
    if vcpu is None:
        return range(len(vm.vcpus))
    return [vcpu] if vcpu < len(vm.vcpus) else []


def _latency(histogram: Histogram) -> Latency | None:
    if not histogram.count:
        return None
    p50, p90, p99, p999 = histogram.quantiles((0.5, 0.9, 0.99, 0.999))
    return Latency(histogram.count, p50, p90, p99, p999, histogram.max)


def _name(key: Key) -> str:
    """Linux's name of a register."""
    if key.address == OTHER:
        return "no register"
    if key.reason == ExitReason.RDPMC:
        fixed = key.address & msr.RDPMC_FIXED
        fast = " fast" if key.address & msr.RDPMC_FAST else ""
        number = key.address & ~(msr.RDPMC_FIXED | msr.RDPMC_FAST)
        return f"RDPMC {'fixed ' if fixed else ''}{number}{fast}"
    register = BY_ADDRESS.get(key.address)
    return register.name if register is not None else f"MSR_{key.address:#x}"
