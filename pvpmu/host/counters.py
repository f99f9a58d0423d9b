"""The counters of a vPMU: what they hold, and the host perf events that count for them.

Same state, same order of perf calls and same early returns as KVM 5.14 (``pmu.c``): ``skip_paused``
off is the code before ``pmc->is_paused``, on is after it. Emulated retirement and the reprogramming
after a filter change are later KVM's (5.17, 6.1).

**Invariants**: a counter counts only if its own enable, its global enable and ``not held`` all hold
and the event filter allows its event; a host event whose ``config`` is not None is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvpmu.host.filter import EventFilter
from pvpmu.host.perf import PerfContext, PerfEvent
from pvpmu.host.pmc import Pmc, counted_kind, sample_period, wanted_event
from pvpmu.host.pmi import REQUEST_PMU, PmiDelivery
from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, FIXED_EN, PmuCpuid
from pvpmu.shared.events import BRANCHES, INSTRUCTIONS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.profile import Profile
from pvpmu.shared.tally import REDUNDANT

_EMULATED = (INSTRUCTIONS, BRANCHES)


class Counters:
    """The counters of one vCPU, their enables, and their overflows.

    ``global_ctrl`` gates them; below version 2 no register holds it and all bits are set.
    ``own_enable``: bitmap of their own enable bits; ``live``: of those that both enable. What these
    follow from is set by the methods named ``store`` alone. ``held``: the page's host half froze
    the counters; nothing starts until it is cleared. ``in_guest``: the overflow being reported hit
    in guest mode (set by the caller around the host NMI handler).
    """

    # Slots are looked up fastest, however many; the dict is for whoever watches an instance.
    __slots__ = (
        "__dict__",
        "_all",
        "_delivery",
        "_filter",
        "_perf",
        "_sets",
        "_skip_paused",
        "_with_event",
        "cpuid",
        "fixed",
        "fixed_ctr_ctrl",
        "global_ctrl",
        "global_status",
        "gp",
        "held",
        "in_guest",
        "in_use",
        "live",
        "own_enable",
        "profile",
        "reprogram_pmi",
    )

    def __init__(
        self,
        cpuid: PmuCpuid,
        perf: PerfContext,
        delivery: PmiDelivery,
        *,
        skip_paused: bool,
        profile: Profile,
        event_filter: EventFilter | None,
    ) -> None:
        self.cpuid = cpuid
        self.profile = profile
        self._perf = perf
        self._delivery = delivery
        self._skip_paused = skip_paused
        self._filter = event_filter
        self.gp = [Pmc(i, cpuid.gp_mask) for i in range(cpuid.gp)]
        self.fixed = [Pmc(FIXED_BASE + j, cpuid.fixed_mask) for j in range(cpuid.fixed)]
        self._all = (*self.gp, *self.fixed)
        self._sets: dict[int, tuple[Pmc, ...]] = {}
        self._with_event = 0
        self.own_enable = 0
        self.store_global_ctrl(profile.power_on_global_ctrl(cpuid))
        self.global_status = 0
        self.fixed_ctr_ctrl = 0
        self.held = False
        self.in_guest = True
        self.reprogram_pmi = 0
        self.in_use = 0

    @property
    def not_counting(self) -> int:
        """Enabled counters without a running host event."""
        missing = 0
        for pmc in self._among(self.live):
            event = pmc.event
            # As event.counting says it, for every publication asks.
            if event is None or event.counter is None or event.kind is None:
                missing |= pmc.bit
        return missing

    def uncounted(self) -> Iterator[tuple[int, int]]:
        """Kind and modes of each counter in :attr:`not_counting` whose event the silicon has."""
        for pmc in self._among(self.not_counting):
            attr, _ = wanted_event(pmc)
            if attr.kind is not None:
                yield attr.kind, attr.modes

    def store_global_ctrl(self, value: int) -> None:
        """Set the global enables without starting or stopping anything."""
        self.global_ctrl = value
        self.live = value & self.own_enable

    def store_eventsel(self, pmc: Pmc, value: int) -> None:
        """Set a GP counter's selector without starting or stopping anything."""
        pmc.eventsel = value
        self.own_enable = self.own_enable & ~pmc.bit | (pmc.bit if value & EVTSEL_EN else 0)
        self.live = self.global_ctrl & self.own_enable

    def store_fixed_ctr_ctrl(self, value: int) -> None:
        """Set the fixed counters' control word without starting or stopping anything."""
        self.fixed_ctr_ctrl = value
        for pmc in self.fixed:
            pmc.eventsel = value >> 4 * pmc.number & 0xF
            enabled = pmc.bit if pmc.eventsel & FIXED_EN else 0
            self.own_enable = self.own_enable & ~pmc.bit | enabled
        self.live = self.global_ctrl & self.own_enable

    def values(self, bank: list[Pmc]) -> list[int]:
        """What the counters of a bank hold as far as it is known without a perf call.

        Exact for what does not run; else the value at the last stop or write.
        """
        return [pmc.accumulator & pmc.mask for pmc in bank]

    def set_value(self, pmc: Pmc, value: int) -> None:
        """Set a counter that does not run, without starting anything (an import)."""
        pmc.accumulator = value

    # Building blocks, named as in pmu.c --------------------------------------------------------

    def read(self, pmc: Pmc) -> int:
        """pmc_read_counter: the value, cut to the counter's width."""
        value = pmc.accumulator
        if pmc.event is not None:
            if not pmc.is_paused:
                value += self._perf.read_value(pmc.event)
            elif not self._skip_paused:
                self._perf.tally[REDUNDANT] += 1
                value += self._perf.read_value(pmc.event)
        return value & pmc.mask

    def pause(self, pmc: Pmc) -> None:
        """pmc_pause_counter."""
        event = pmc.event
        if event is None:
            return
        if pmc.is_paused:
            if self._skip_paused:
                return
            self._perf.tally[REDUNDANT] += 1
        pmc.accumulator = pmc.accumulator + self._perf.pause(event) & pmc.mask
        pmc.is_paused = True

    stop = pause
    """How a counter stops whose global enable goes, or that a freeze stops: an axis of a design."""

    def reprogram(self, pmc: Pmc) -> None:
        """reprogram_gp_counter, reprogram_fixed_counter: pause, then start if enabled.

        Starting is pmc_resume_counter where the event still fits, else a new event. This is the one
        place where anything starts to count, and so where the filter is asked. An event that fits
        need not be asked for: one that a new filter denies has lost its ``config``.
        """
        event = pmc.event
        if event is not None and not (pmc.is_paused and self._skip_paused):
            self.pause(pmc)
        if not self.live & pmc.bit or self.held:
            return
        perf = self._perf
        if (
            event is not None
            and pmc.config == pmc.eventsel
            and perf.period(event, pmc.wrap - (pmc.accumulator & pmc.mask))
        ):
            perf.enable(event)
        elif self._filter is not None and not self._allows(self._filter, pmc, pmc.eventsel):
            return
        else:
            self._release(pmc)
            pmc.config = pmc.eventsel
            pmc.event = self._create(pmc)
            if pmc.event is not None:
                self._with_event |= pmc.bit
        pmc.is_paused = False
        if self.reprogram_pmi:
            self.reprogram_pmi &= ~pmc.bit

    def request_reprogram(self, pmc: Pmc) -> None:
        """Start or stop a counter as its control words say: now, or at VM-entry."""
        if self.profile.deferred_reprogram:
            self.reprogram_pmi |= pmc.bit
            self._delivery.requests |= REQUEST_PMU
        else:
            self.reprogram(pmc)

    def start_paused(self) -> None:
        """Start every enabled counter that does not run (COMMIT, after its write took effect)."""
        for pmc in self._among(self.live):
            if pmc.is_paused or pmc.event is None:
                self.request_reprogram(pmc)

    def stop_live(self) -> None:
        """Stop every enabled counter (freeze)."""
        for pmc in self._among(self.live):
            self.stop(pmc)

    def handle_pmu_request(self, *, pause_only: bool) -> None:
        """kvm_pmu_handle_event: reprogram what overflowed, and what was deferred.

        ``pause_only``: the counters are about to be frozen, so that restarting is wasted.
        """
        deferred = self.profile.deferred_reprogram
        for pmc in self._among(self.reprogram_pmi):
            if pmc.event is None or pause_only or deferred:
                self.reprogram_pmi &= ~pmc.bit
            if pmc.event is not None or deferred:
                if pause_only:
                    self.pause(pmc)
                else:
                    self.reprogram(pmc)

    def cleanup(self) -> None:
        """kvm_pmu_cleanup: release events of counters unused and disabled since the last time.

        To be called once for each time the vCPU thread is scheduled in while it has host events,
        at that entry's PMU request (after :meth:`handle_pmu_request`), and after an import of the
        page if the state is FROZEN. A counter with its own enable set is spared whatever
        GLOBAL_CTRL says; so is one whose selector, fixed counter, legacy counter or nibble was
        written, or imported, since the last call. Values stay; the next enable creates the event.
        """
        for pmc in self._among(self._with_event & ~(self.in_use | self.own_enable)):
            pmc.accumulator = self.read(pmc)
            self._release(pmc)
        self.in_use = 0

    # The event filter --------------------------------------------------------------------------

    def set_filter(self, event_filter: EventFilter | None) -> None:
        """Filter events from now on; None allows all. Takes effect at once, also on what runs.

        A denied counter keeps its registers and its value; the event that it had stays allocated
        and paused, as after any other stop, until lazy release or a new event takes its place.
        """
        self._filter = event_filter
        for pmc in self._among(self._with_event):
            if (
                event_filter is not None
                and pmc.config is not None
                and not self._allows(event_filter, pmc, pmc.config)
            ):
                self.pause(pmc)
                pmc.config = None
        for pmc in self._among(self.live):
            self.reprogram(pmc)

    @staticmethod
    def _allows(event_filter: EventFilter, pmc: Pmc, control: int) -> bool:
        if pmc.fixed:
            return event_filter.allows_fixed(pmc.number)
        return event_filter.allows_event(control)

    # Emulated retirement -----------------------------------------------------------------------

    def count_emulated(self, kind: int, count: int, cpl: int) -> bool:
        """kvm_pmu_trigger_event: the host emulated ``count`` instructions or branches at ``cpl``.

        Every enabled counter of that event counts them, fixed counter 0 included, if its ring bits
        and the filter allow; EDGE, INV and CMASK are ignored, as in KVM. An overflow sets status
        and raises a PMI like any other. Nothing happens in a profile that does not count them, for
        other kinds, and while ``held``. Returns whether a counter changed.
        """
        if not self.profile.emulated_counted or kind not in _EMULATED or self.held or not count:
            return False
        mode = MODE_USER if cpl else MODE_KERNEL
        changed = False
        for pmc in self._among(self.live):
            attr, interrupts = wanted_event(pmc)
            if counted_kind(pmc) != kind or not attr.modes & mode:
                continue
            if self._filter is not None and not self._allows(self._filter, pmc, pmc.eventsel):
                continue
            self._add(pmc, count, interrupts=interrupts)
            changed = True
        return changed

    def _add(self, pmc: Pmc, count: int, *, interrupts: bool) -> None:
        self.pause(pmc)
        value = (pmc.accumulator & pmc.mask) + count
        pmc.accumulator = value & pmc.mask
        if value > pmc.mask:
            self.global_status |= pmc.bit
            if interrupts:
                self._delivery.raise_pmi(in_guest=True)
        self.reprogram(pmc)

    # Host events -------------------------------------------------------------------------------

    def _among(self, bitmap: int) -> tuple[Pmc, ...]:
        """The counters of a bitmap, ascending; each bitmap's are looked up once."""
        found = self._sets.get(bitmap)
        if found is None:
            found = tuple(pmc for pmc in self._all if bitmap & pmc.bit)
            self._sets[bitmap] = found
        return found

    def _release(self, pmc: Pmc) -> None:
        if pmc.event is not None:
            self._perf.release(pmc.event)
            pmc.event = None
            self._with_event &= ~pmc.bit
            pmc.config = None
            pmc.is_paused = False

    def _create(self, pmc: Pmc) -> PerfEvent | None:
        attr, interrupts = wanted_event(pmc)

        def on_overflow() -> None:
            self._overflow(pmc, interrupts=interrupts)

        return self._perf.create(attr, sample_period(pmc, pmc.accumulator), on_overflow)

    def _overflow(self, pmc: Pmc, *, interrupts: bool) -> None:
        """kvm_perf_overflow and kvm_perf_overflow_intr, in NMI context."""
        if self.reprogram_pmi & pmc.bit:
            return
        self.reprogram_pmi |= pmc.bit
        self.global_status |= pmc.bit
        self._delivery.requests |= REQUEST_PMU
        if interrupts:
            self._delivery.raise_pmi(in_guest=self.in_guest)
