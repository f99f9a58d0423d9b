"""From snapshots to rows: totals since the last reset, rates between two snapshots. Pure.

Time is passed in, in seconds of any clock. Nothing of a VM is lost when it ends: its last snapshot
stays, and rates become 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pvpmu.console.snapshot import Buckets, VmSnapshot
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason, reason_name
from pvpmu.shared.histogram import Histogram
from pvpmu.shared.liveview import HANDLER_KEY, OTHER, PMI_WORDS, AccessPath, Key
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import Ns

HISTORY_S = 60.0
"""How far back a sparkline goes."""
PAGE, EXIT, HANDLER = "page", "exit", "PMI handler"
KINDS = (PAGE, EXIT, HANDLER)
"""What the latency histograms are of: accesses without an exit, those with one, whole handlers."""
EXITS_PER_S, PMIS_PER_S = "exits/s", "PMIs/s"
RATES = (EXITS_PER_S, PMIS_PER_S)

_REGISTERS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)
_KIND_OF = {
    AccessPath.PAGE: PAGE,
    AccessPath.PASSED: PAGE,
    AccessPath.EXIT: EXIT,
    AccessPath.COMMIT: EXIT,
}
_UNKNOWN_REASON = 0xFF


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
            totals = _accesses(seen.now, seen.base, numbers)
            latest = _accesses(seen.now, seen.before, numbers)
            whole = sum(totals.values())
            for key, total in totals.items():
                latency = _latency(self._histogram(seen, numbers, [key]))
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
        for kind in KINDS:
            for seen in self._seen.values():
                numbers = _numbers(seen.now, vcpu)
                histogram = self._histogram(seen, numbers, _keys_of(seen.now, numbers, kind))
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
                rate=self._rate(_count(seen.now, seen.before, _numbers(seen.now, vcpu), kind)),
                trend=self._trend(seen, vcpu, kind),
            )
            for kind in RATES
            for seen in self._seen.values()
        ]

    def recorded(self) -> list[Recorded]:
        """What each VM's guest recorded since its first snapshot or the last reset."""
        found = []
        for seen in self._seen.values():
            numbers = range(len(seen.now.vcpus))
            series: dict[Key, dict[int, int]] = {}
            for key in {key for number in numbers for key in _series(seen.now, number)}:
                together: dict[int, int] = {}
                for number in numbers:
                    _add(together, seen.now, seen.first, number, [key])
                if together:
                    series[key] = together
            found.append(Recorded(seen.now.name, seen.now.design, seen.begun, self._time, series))
        return found

    # Helpers ---------------------------------------------------------------------------------

    def _rate(self, count: int) -> float:
        return count / self._elapsed if self._elapsed > 0 else 0.0

    def _vcpu_row(self, seen: _Seen, numbers: Sequence[int], vcpu: int | None) -> VcpuRow:
        now = seen.now
        own = [now.vcpus[number] for number in numbers]
        totals = _by_reason(_exits(now, seen.base, numbers))
        latest = _by_reason(_exits(now, seen.before, numbers))
        pmis = _pmis(now, seen.base, numbers)
        guests = [each.guest for each in own if each.guest is not None]
        avoided = avoided_rate = spurious = None
        if guests:
            avoided = _count(now, seen.base, numbers, PAGE)
            avoided_rate = self._rate(_count(now, seen.before, numbers, PAGE))
            spurious = max(_spurious(now, numbers) - _spurious(seen.base, numbers), 0)
        floors = sorted(guest.floor_ns for guest in guests if guest.floor_ns)
        records = sorted(guest.record_ns for guest in guests)
        return VcpuRow(
            vm=now.name,
            design=now.design,
            vcpu=vcpu,
            state=now.state_of(own[0]) if vcpu is not None else "",
            generation=own[0].generation if vcpu is not None else None,
            pmis=pmis,
            pmi_rate=self._rate(_pmis(now, seen.before, numbers)["delivered"]),
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

    def _histogram(self, seen: _Seen, numbers: Sequence[int], keys: Iterable[Key]) -> Histogram:
        """Of those keys together, since the reset."""
        together: dict[int, int] = {}
        wanted = list(keys)
        for number in numbers:
            _add(together, seen.now, seen.base, number, wanted)
        return Histogram.of(together)

    def _remember(self, seen: _Seen) -> None:
        """Put what the last interval gave into the history."""
        numbers = range(len(seen.now.vcpus))
        for kind in KINDS:
            everything: dict[int, int] = {}
            for vcpu in numbers:
                own: dict[int, int] = {}
                keys = _keys_of(seen.now, [vcpu], kind)
                _add(own, seen.now, seen.before, vcpu, keys)
                self._remember_median(seen, vcpu, kind, own)
                for bucket, count in own.items():
                    everything[bucket] = everything.get(bucket, 0) + count
            self._remember_median(seen, None, kind, everything)
        for kind in RATES:
            for choice in (None, *numbers):
                count = _count(seen.now, seen.before, _numbers(seen.now, choice), kind)
                self._append(seen, choice, kind, self._rate(count))

    def _remember_median(
        self, seen: _Seen, vcpu: int | None, kind: str, buckets: dict[int, int]
    ) -> None:
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


def _exits(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[Key, int]:
    """Exits by key since another snapshot (None: since the beginning); never negative."""
    found: dict[Key, int] = {}
    for number in numbers:
        before = since.vcpus[number].exits if since is not None else {}
        for key, count in vm.vcpus[number].exits.items():
            found[key] = found.get(key, 0) + max(count - before.get(key, 0), 0)
    return found


def _by_reason(exits: Mapping[Key, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, count in exits.items():
        name = "UNKNOWN" if key.reason == _UNKNOWN_REASON else reason_name(key.reason)
        found[name] = found.get(name, 0) + count
    return found


def _pmis(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[str, int]:
    found = dict.fromkeys(PMI_WORDS, 0)
    for number in numbers:
        before = since.vcpus[number].pmis if since is not None else {}
        for name, count in vm.vcpus[number].pmis.items():
            found[name] += max(count - before.get(name, 0), 0)
    return found


def _series(vm: VmSnapshot | None, number: int) -> Mapping[Key, Buckets]:
    guest = vm.vcpus[number].guest if vm is not None else None
    return guest.series if guest is not None else {}


def _spurious(vm: VmSnapshot | None, numbers: Sequence[int]) -> int:
    guests = [vm.vcpus[number].guest for number in numbers] if vm is not None else []
    return sum(guest.spurious for guest in guests if guest is not None)


def _recorded(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int], key: Key) -> int:
    """Values of a series since another snapshot."""
    total = 0
    for number in numbers:
        total += max(_number(vm, number, key) - _number(since, number, key), 0)
    return total


def _number(vm: VmSnapshot | None, number: int, key: Key) -> int:
    guest = vm.vcpus[number].guest if vm is not None else None
    return guest.counts.get(key, 0) if guest is not None else 0


def _add(
    into: dict[int, int],
    vm: VmSnapshot,
    since: VmSnapshot | None,
    number: int,
    keys: Iterable[Key],
) -> None:
    """Add a vCPU's series since another snapshot, bucket by bucket."""
    now, before = _series(vm, number), _series(since, number)
    for key in keys:
        gone = before.get(key, {})
        for bucket, count in now.get(key, {}).items():
            new = count - gone.get(bucket, 0)
            if new > 0:
                into[bucket] = into.get(bucket, 0) + new


def _latency(histogram: Histogram) -> Latency | None:
    if not histogram.count:
        return None
    p50, p90, p99, p999 = histogram.quantiles((0.5, 0.9, 0.99, 0.999))
    return Latency(histogram.count, p50, p90, p99, p999, histogram.max)


def _keys_of(vm: VmSnapshot, numbers: Sequence[int], kind: str) -> list[Key]:
    """The series that belong to a kind of latency."""
    keys = {key for number in numbers for key in _series(vm, number)}
    if kind == HANDLER:
        return [HANDLER_KEY] if HANDLER_KEY in keys else []
    return [key for key in keys if key.reason in _REGISTERS and _KIND_OF.get(key.path) == kind]


def _accesses(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[Key, int]:
    """Accesses to registers by key: exits as the host counts them, the others as the guest does."""
    found = {
        key: count for key, count in _exits(vm, since, numbers).items() if key.reason in _REGISTERS
    }
    for key in _keys_of(vm, numbers, PAGE):
        found[key] = _recorded(vm, since, numbers, key)
    return found


def _count(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int], kind: str) -> int:
    """Exits, PMIs or accesses without an exit since another snapshot."""
    if kind == EXITS_PER_S:
        return sum(_exits(vm, since, numbers).values())
    if kind == PMIS_PER_S:
        return _pmis(vm, since, numbers)["delivered"]
    return sum(_recorded(vm, since, numbers, key) for key in _keys_of(vm, numbers, kind))


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
