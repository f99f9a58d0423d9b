"""What a guest records of its accesses, exits and handlers, with a clock that a test moves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pvpmu.guest.liveview import GuestLive, calibrated
from pvpmu.guest.machine import Machine, RunJob
from pvpmu.guest.msr import MsrAccess
from pvpmu.guest.scenario import load_scenario
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, liveview, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS, Histogram, bucket_of, value_of
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, Key

WRITE, READ = int(ExitReason.MSR_WRITE), int(ExitReason.MSR_READ)
PAGE, EXIT, COMMIT = AccessPath.PAGE, AccessPath.EXIT, AccessPath.COMMIT
STATUS = Key(READ, msr.GLOBAL_STATUS, PAGE)


class Clock:
    """Each reading takes ``cost`` ns; :meth:`run` lets time pass."""

    def __init__(self, cost: int = 40) -> None:
        self.now = 0
        self.cost = cost

    def __call__(self) -> int:
        self.now += self.cost
        return self.now

    def run(self, ns: int) -> None:
        self.now += ns


class Bench:
    """A recorder on words of its own, a slot, and a page whose words say nothing."""

    def __init__(self, record_ns: int = 0) -> None:
        self.clock = Clock()
        self.words = memoryview(bytearray(liveview.GUEST_VCPU.size)).cast("Q")
        self.live = GuestLive(self.words, self.clock, timer_ns=40, record_ns=record_ns)
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.page = memoryview(bytearray(page.PAGE_SIZE)).cast("Q")
        self.reply = 0
        self.live_after: int | None = None
        self.timed = self.live.instrument(self.slot, self.page, self._cross)

    def _cross(self) -> None:
        self.clock.run(9000)
        self.slot[exits.REPLY] = self.reply
        if self.live_after is not None:
            self.page[page.LIVE] = self.live_after

    def exit(self, reason: int, address: int = 0) -> None:
        self.slot[exits.REQUEST] = reason
        self.slot[exits.ADDRESS] = address
        self.timed.cross()

    def access(self, ns: int) -> MsrAccess:
        """Accesses of the page, each of which takes so long."""
        return self.timed.access(Loads(self.clock, ns))

    def series(self) -> dict[Key, Histogram]:
        return series_of(self.words)


class Loads:
    def __init__(self, clock: Clock, ns: int) -> None:
        self.clock, self.ns = clock, ns

    def rdmsr(self, address: int) -> int:
        self.clock.run(self.ns)
        return address + 1

    def wrmsr(self, address: int, value: int) -> None:
        del address, value
        self.clock.run(self.ns)

    def rdpmc(self, ecx: int) -> int:
        self.clock.run(self.ns)
        return ecx + 2


def series_of(words: memoryview) -> dict[Key, Histogram]:
    found = {}
    for number in range(liveview.SERIES):
        key = words[liveview.GUEST_KEYS + number]
        if key:
            first = liveview.GUEST_COUNTS + number * BUCKETS
            counts = dict(enumerate(words[first : first + BUCKETS].tolist()))
            found[Key.decode(key)] = Histogram.of(counts)
    return found


def test_a_page_access_is_recorded_without_the_clocks_own_cost() -> None:
    bench = Bench()
    assert bench.access(180).rdmsr(msr.GLOBAL_STATUS) == msr.GLOBAL_STATUS + 1
    assert bench.access(200).rdpmc(1) == 3
    bench.access(190).wrmsr(0x4C1, 5)
    assert {key: found.buckets() for key, found in bench.series().items()} == {
        STATUS: [[180, 1]],
        Key(ExitReason.RDPMC, 1, PAGE): [[200, 1]],
        Key(WRITE, 0x4C1, PAGE): [[190, 1]],
    }


def test_an_exit_is_recorded_from_request_to_reply_and_is_no_page_access() -> None:
    bench = Bench()

    class Exits(Loads):
        def rdmsr(self, address: int) -> int:
            bench.exit(READ, address)
            return super().rdmsr(address)

    bench.timed.access(Exits(bench.clock, 50_000)).rdmsr(msr.GLOBAL_STATUS)
    (key,) = bench.series()
    assert key == Key(READ, msr.GLOBAL_STATUS, EXIT)
    assert list(bench.series()[key].buckets()) == [[value_of(bucket_of(9000)), 1]]


def test_an_access_whose_exit_brings_a_handler_with_page_accesses_stays_an_exit() -> None:
    bench = Bench()
    inner = bench.access(180)

    class Interrupted(Loads):
        def wrmsr(self, address: int, value: int) -> None:
            del value
            bench.exit(WRITE, address)
            inner.rdmsr(msr.GLOBAL_STATUS)

    bench.timed.access(Interrupted(bench.clock, 0)).wrmsr(msr.GLOBAL_CTRL, 1)
    assert set(bench.series()) == {Key(WRITE, msr.GLOBAL_CTRL, EXIT), STATUS}


def test_an_exit_that_is_no_access_goes_by_its_reason_alone() -> None:
    bench = Bench()
    bench.exit(int(ExitReason.EXCEPTION_NMI), 77)
    bench.exit(int(ExitReason.CPUID), 0xA)
    assert set(bench.series()) == {
        Key(ExitReason.EXCEPTION_NMI, 0, EXIT),
        Key(ExitReason.CPUID, 0, EXIT),
    }


@pytest.mark.parametrize("reason", [ExitReason.FLOOR, ExitReason.CONTROL, ExitReason.OVERFLOW])
def test_what_is_no_exit_of_the_model_is_not_recorded(reason: ExitReason) -> None:
    bench = Bench()
    bench.exit(int(reason))
    assert bench.series() == {}


def test_an_access_that_the_host_lets_pass_has_a_path_of_its_own() -> None:
    bench = Bench()
    bench.exit(int(ExitReason.PASSED_RDPMC), 1)
    assert set(bench.series()) == {Key(ExitReason.RDPMC, 1, AccessPath.PASSED)}


@pytest.mark.parametrize(
    ("before", "after", "reply", "path"),
    [
        (0, 3, 0, COMMIT),
        (0, 0, exits.INJECT_NMI, COMMIT),
        (0, 0, 0, EXIT),
        (3, 0, 0, EXIT),
        (3, 3, exits.INJECT_NMI, EXIT),
    ],
)
def test_a_write_that_leaves_frozen_is_a_commit(
    before: int, after: int, reply: int, path: AccessPath
) -> None:
    bench = Bench()
    bench.page[page.VERSION] = page.PAGE_VERSION
    bench.page[page.LIVE], bench.live_after, bench.reply = before, after, reply
    bench.exit(WRITE, msr.GLOBAL_CTRL)
    assert set(bench.series()) == {Key(WRITE, msr.GLOBAL_CTRL, path)}


def test_without_a_page_nothing_is_a_commit() -> None:
    bench = Bench()
    bench.reply = exits.INJECT_NMI
    bench.exit(WRITE, msr.GLOBAL_CTRL)
    assert set(bench.series()) == {Key(WRITE, msr.GLOBAL_CTRL, EXIT)}


def test_a_handler_is_recorded_without_what_recording_its_accesses_cost() -> None:
    bench = Bench(record_ns=300)
    access = bench.access(180)
    spurious = [0]

    def handle() -> None:
        # The clock runs on by two readings' cost for each access, of which one is timer_ns.
        for _ in range(4):
            access.rdmsr(msr.GLOBAL_STATUS)
        bench.clock.run(40_000)
        spurious[0] += 1

    bench.timed.handler(handle, lambda: spurious[0])()
    spent = 40_000 + 4 * (180 + 80) - 4 * 300
    assert bench.series()[HANDLER_KEY].buckets() == [[value_of(bucket_of(spent)), 1]]
    assert bench.words[liveview.GUEST_SPURIOUS] == 1
    # The next run counts from 0 again.
    spurious[0] = 0
    bench.timed.handler(handle, lambda: spurious[0])()
    assert bench.words[liveview.GUEST_SPURIOUS] == 2


def test_counts_are_those_of_the_histogram_with_the_same_rule() -> None:
    bench = Bench()
    draw = random.Random(5)
    counts: dict[int, int] = {}
    for _ in range(2000):
        value = int(2 ** draw.uniform(0, 32))
        bench.access(value).rdmsr(msr.GLOBAL_STATUS)
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    assert bench.series()[STATUS].buckets() == Histogram.of(counts).buckets()


def test_values_beyond_the_last_bucket_count_in_it_and_negative_ones_in_the_first() -> None:
    bench = Bench()
    bench.access(1 << 40).rdmsr(msr.GLOBAL_STATUS)
    bench.live.timer_ns = 100
    bench.live.record(READ, msr.GLOBAL_STATUS, PAGE, 5)
    first = liveview.GUEST_COUNTS
    assert bench.words[first] == bench.words[first + BUCKETS - 1] == 1


def test_when_all_series_are_taken_what_is_not_recorded_is_counted() -> None:
    bench = Bench()
    access = bench.access(1)
    for number in range(liveview.SERIES + 3):
        access.rdmsr(number)
    access.rdmsr(0)
    assert len(bench.series()) == liveview.SERIES
    assert bench.words[liveview.GUEST_DROPPED] == 3


def test_calibration_finds_what_the_clock_and_the_recording_cost() -> None:
    words = memoryview(bytearray(liveview.GUEST_VCPU.size)).cast("Q")
    live = calibrated(words, Clock(40))
    assert live.timer_ns == words[liveview.GUEST_TIMER] == 40
    # All that this clock sees of a record is its own two readings.
    assert words[liveview.GUEST_RECORD] == 80
    assert series_of(words) == {}


@pytest.mark.parametrize("design_name", ["page", "trap", "mediated"])
def test_a_run_records_each_access_of_its_driver_and_each_exit_once(design_name: str) -> None:
    design = design_named(design_name)
    words = memoryview(bytearray(liveview.GUEST_VCPU.size)).cast("Q")
    memory = memoryview(bytearray(page.PAGE_SIZE)).cast("Q")
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    host = HostVcpu(slot, memory, design, PmuCpuid(), design.profile)
    scenario = load_scenario("short")
    clock = Clock(0)

    def run(**changes: Any) -> Any:
        live = GuestLive(words, clock, timer_ns=0, record_ns=0)
        machine = Machine(slot, host.serve, memory, 0, live=live)
        return RunJob(scenario, 1, guest=design.guest, **changes).do(machine, lambda _: None)

    counted = run(record=True)
    assert HANDLER_KEY not in series_of(words)
    assert words[liveview.GUEST_SPURIOUS] == counted.counts.spurious
    words[:] = memoryview(bytearray(len(words) * 8)).cast("Q")
    report = run(clock=clock)
    assert report.counts.samples_digest == counted.counts.samples_digest
    series = series_of(words)
    assert series[HANDLER_KEY].count == report.counts.handlers
    assert words[liveview.GUEST_SPURIOUS] == report.counts.spurious
    assert words[liveview.GUEST_DROPPED] == 0
    assert host.result is not None
    for (reason, address), count in host.result.accesses.items():
        recorded = sum(
            found.count
            for key, found in series.items()
            if (key.reason, key.address) == (reason, address) and key.path in (EXIT, COMMIT)
        )
        # Outside the measured window, boot and shutdown exit too.
        assert recorded >= count
    avoided = sum(
        found.count
        for key, found in series.items()
        if key.path in (PAGE, AccessPath.PASSED) and key.address != msr.CAPABILITIES
    )
    made = sum(counted.recorded.accesses.values()) - sum(counted.recorded.exits.values())
    assert avoided >= made
    assert (avoided > 0) == (design_name != "trap")
