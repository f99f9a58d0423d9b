"""What a guest times for the live view: each access, exit and PMI handler of a vCPU.

One histogram for each register and path, in words that only this vCPU's worker stores to. Nothing
of this exists where latencies are not recorded: the accesses and the crossing are wrapped, or not.
Pure: the clock is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Protocol

from pvpmu.guest.msr import MsrAccess
from pvpmu.shared import exits, liveview, page
from pvpmu.shared.clock import Clock, timer_cost
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS, bucket_of
from pvpmu.shared.liveview import AccessPath
from pvpmu.shared.page import Words
from pvpmu.shared.units import MsrAddress, Ns

# Plain ints, and names of this module, as in pvpmu.host.vcpu.
_REQUEST, _ADDRESS, _REPLY = exits.REQUEST, exits.ADDRESS, exits.REPLY
_REASON_MASK = exits.REASON_MASK
_FLOOR = int(ExitReason.FLOOR)
_MSR_READ, _MSR_WRITE = int(ExitReason.MSR_READ), int(ExitReason.MSR_WRITE)
_RDPMC = int(ExitReason.RDPMC)
_INJECT_NMI = exits.INJECT_NMI
_MAY_COMMIT = liveview.MAY_COMMIT
_PAGE, _EXIT, _COMMIT = int(AccessPath.PAGE), int(AccessPath.EXIT), int(AccessPath.COMMIT)
_PASSED_PATH, _HANDLER = int(AccessPath.PASSED), int(AccessPath.HANDLER)
_PASSED = {
    int(ExitReason.PASSED_READ): _MSR_READ,
    int(ExitReason.PASSED_WRITE): _MSR_WRITE,
    int(ExitReason.PASSED_RDPMC): _RDPMC,
}
_ADDRESS_BITS = 16
_REGISTERS = frozenset((_MSR_READ, _MSR_WRITE, _RDPMC))
_TABLE = 1 << 16
"""Times in ns whose buckets are looked up; longer ones are rare, and computed."""
_BATCHES, _BATCH = 41, 100


class GuestLive:
    """One vCPU's latencies. ``words``: its area (GUEST_VCPU), zeroed; ``clock`` returns ns.

    ``timer_ns``: what reading it costs, which is subtracted from every value; ``record_ns``: what
    recording adds to an access; see :func:`calibrated`.
    """

    def __init__(
        self, words: memoryview[int], clock: Clock, *, timer_ns: Ns, record_ns: Ns
    ) -> None:
        self._words = words
        self._record_ns = record_ns
        self._taken = 0
        self._series: dict[int, dict[int, memoryview[int]]] = {}
        self.clock = clock
        self.timer_ns = timer_ns
        self._bucket_of = [bucket_of(max(raw - timer_ns, 0)) for raw in range(_TABLE)]
        words[liveview.GUEST_TIMER] = timer_ns
        words[liveview.GUEST_RECORD] = record_ns

    def record(self, reason: int, address: int, path: int, raw: Ns) -> None:
        """Count a time between two readings of the clock."""
        counts = self._counts(reason, path, address)
        if counts is None:
            self._words[liveview.GUEST_DROPPED] += 1
        else:
            counts[min(bucket_of(max(raw - self.timer_ns, 0)), BUCKETS - 1)] += 1

    def measured_floor(self, ns: float) -> None:
        """Say what a bare round trip takes (p50), ns."""
        self._words[liveview.GUEST_FLOOR] = round(ns)

    def series(self, reason: int, path: int) -> dict[int, memoryview[int]]:
        """The histograms of a reason and path by address: those that there are already."""
        return self._series.setdefault(reason << 8 | path, {})

    def _counts(self, reason: int, path: int, address: int) -> memoryview[int] | None:
        """The words of a histogram, which may be a new one; None if all series are taken."""
        series = self.series(reason, path)
        if address not in series:
            number = self._taken
            if number >= liveview.SERIES:
                return None
            self._taken += 1
            first = liveview.GUEST_COUNTS + number * BUCKETS
            series[address] = self._words[first : first + BUCKETS]
            key = address << _ADDRESS_BITS | reason << 8 | path
            self._words[liveview.GUEST_KEYS + number] = key
        return series[address]

    def instrument(  # noqa: C901, PLR0915 (closures share two cells, which cost least)
        self, slot: Words, page_words: Words, cross: Callable[[], object]
    ) -> Instrumented:
        """Wrap a vCPU's ``cross``, and what its driver will use.

        ``page_words``: where the vCPU's page is, if it has one. An exit is timed from its request
        to its reply, so that no handler is in it, and an access only if it made no exit: between
        two exits nothing interrupts an access.
        """
        # Cells, tables and no calls: recording costs more than most of what it records.
        clock, bucket_of, slow = self.clock, self._bucket_of, self.record
        series = self.series
        crossings = records = 0

        def timed_cross() -> None:
            nonlocal crossings, records
            reason = slot[_REQUEST] & _REASON_MASK
            if reason >= _FLOOR:
                if reason not in _PASSED:
                    cross()
                    return
                reason, path = _PASSED[reason], _PASSED_PATH
            else:
                path = _EXIT
            address = slot[_ADDRESS] if reason in _REGISTERS else 0
            may_commit = (
                reason == _MSR_WRITE
                and address in _MAY_COMMIT
                and page_words[page.VERSION]
                and not page_words[page.LIVE]
            )
            crossings += 1
            records += 1
            start = clock()
            cross()
            raw = clock() - start
            if may_commit and (page_words[page.LIVE] or slot[_REPLY] & _INJECT_NMI):
                path = _COMMIT
            try:
                series(reason, path)[address][bucket_of[raw]] += 1
            except LookupError:
                slow(reason, address, path, raw)

        def reading(reason: int, read: Callable[[int], int]) -> Callable[[int], int]:
            counts_of = series(reason, _PAGE)

            def timed_read(address: int) -> int:
                nonlocal records
                crossed = crossings
                start = clock()
                value = read(address)
                raw = clock() - start
                if crossings == crossed:
                    records += 1
                    try:
                        counts_of[address][bucket_of[raw]] += 1
                    except LookupError:
                        slow(reason, address, _PAGE, raw)
                return value

            return timed_read

        def writing(write: Callable[[int, int], None]) -> Callable[[int, int], None]:
            counts_of = series(_MSR_WRITE, _PAGE)

            def timed_write(address: int, value: int) -> None:
                nonlocal records
                crossed = crossings
                start = clock()
                write(address, value)
                raw = clock() - start
                if crossings == crossed:
                    records += 1
                    try:
                        counts_of[address][bucket_of[raw]] += 1
                    except LookupError:
                        slow(_MSR_WRITE, address, _PAGE, raw)

            return timed_write

        def access(untimed: MsrAccess) -> MsrAccess:
            return _TimedAccess(
                reading(_MSR_READ, untimed.rdmsr),
                writing(untimed.wrmsr),
                reading(_RDPMC, untimed.rdpmc),
            )

        def handler(
            handle: Callable[[], None], spurious: Callable[[], int], *, timed: bool = True
        ) -> Callable[[], None]:
            words, cost = self._words, self._record_ns
            found = words[liveview.GUEST_SPURIOUS]

            def timed_handler() -> None:
                recorded = records
                start = clock()
                handle()
                raw = clock() - start
                if timed:
                    slow(0, 0, _HANDLER, raw - (records - recorded) * cost)
                words[liveview.GUEST_SPURIOUS] = found + spurious()

            return timed_handler

        return Instrumented(timed_cross, access, handler)


class WrapHandler(Protocol):
    """See :class:`Instrumented`."""

    def __call__(
        self, handle: Callable[[], None], spurious: Callable[[], int], /, *, timed: bool = True
    ) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Instrumented:
    """What times one vCPU.

    ``cross``: the crossing; ``access``: wraps what a driver uses. ``handler``: wraps a PMI handler,
    given how many of them so far found no overflow; what recording its accesses cost is subtracted.
    With ``timed=False`` it is not timed.
    """

    cross: Callable[[], None]
    access: Callable[[MsrAccess], MsrAccess]
    handler: WrapHandler


class _TimedAccess:
    """The driver's accesses on their way to the seam."""

    def __init__(
        self,
        rdmsr: Callable[[MsrAddress], int],
        wrmsr: Callable[[MsrAddress, int], None],
        rdpmc: Callable[[int], int],
    ) -> None:
        self.rdmsr = rdmsr
        self.wrmsr = wrmsr
        self.rdpmc = rdpmc


def calibrated(words: memoryview[int], clock: Clock) -> GuestLive:
    """A vCPU's recorder, after measuring what the clock and the recording cost here."""
    timer_ns = timer_cost(clock)
    record_ns = max(round(median(record_costs(clock, timer_ns))), 0)
    return GuestLive(words, clock, timer_ns=timer_ns, record_ns=record_ns)


def record_costs(clock: Clock, timer_ns: Ns) -> list[float]:
    """What recording adds to an access, mean ns of each batch, the bare access subtracted."""
    scratch = memoryview(bytearray(liveview.GUEST_VCPU.size)).cast("Q")
    bare = _Nothing()
    live = GuestLive(scratch, clock, timer_ns=timer_ns, record_ns=0)
    timed = live.instrument(scratch, scratch, lambda: None).access(bare)
    costs = []
    for _ in range(_BATCHES):
        start = clock()
        _read(bare)
        middle = clock()
        _read(timed)
        costs.append((clock() - middle - (middle - start)) / _BATCH)
    return costs


class _Nothing:
    """An access that does nothing."""

    def rdmsr(self, address: MsrAddress) -> int:
        return address

    def wrmsr(self, address: MsrAddress, value: int) -> None:
        pass

    def rdpmc(self, ecx: int) -> int:
        return ecx


def _read(access: MsrAccess) -> None:
    rdmsr = access.rdmsr
    for _ in repeat(None, _BATCH):
        rdmsr(0x38E)
