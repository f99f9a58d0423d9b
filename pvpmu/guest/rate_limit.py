"""How many samples a tick may bring, and how Linux lowers that when its NMI handler takes long.

Source: ``perf_proc_update_handler``, ``perf_cpu_time_max_percent_handler`` and
``perf_sample_event_took`` of ``kernel/events/core.c``. Pure: what a handler took is passed in.
"""

from __future__ import annotations

from pvpmu.shared.units import NS_PER_S, Ns

_ACCUMULATED = 128
"""NR_ACCUMULATED_SAMPLES: a handler counts for a 128th in the running mean."""
_NEVER = (0, 100)
"""Values of ``cpu_time_max_percent`` that switch the lowering off."""


class RateLimit:
    """``kernel.perf_event_max_sample_rate`` and ``kernel.perf_cpu_time_max_percent`` at work.

    ``max_per_tick``: samples of one event in one tick that throttle it. ``rate``: the present
    maximal sample rate, Hz. ``lowered``: how often it was lowered; it is never raised again.
    """

    def __init__(self, *, hz: int, max_sample_rate: int, cpu_time_max_percent: int) -> None:
        self._hz = hz
        self._tick_ns = NS_PER_S // hz
        self._percent = cpu_time_max_percent
        self.max_per_tick = -(-max_sample_rate // hz)
        self.rate = max_sample_rate
        self.lowered = 0
        self._running: Ns = 0
        self._allowed: Ns = 0
        if cpu_time_max_percent not in _NEVER:
            period: Ns = NS_PER_S // max_sample_rate
            self._allowed = period * cpu_time_max_percent // 100 or 1

    def took(self, length: Ns) -> None:
        """perf_sample_event_took: an NMI handler took so long."""
        if not self._allowed:
            return
        self._running += length - self._running // _ACCUMULATED
        # Too low until a handler has been seen so many times, as in Linux.
        mean = self._running // _ACCUMULATED
        if mean <= self._allowed:
            return
        self._allowed = mean + mean // 4
        budget = self._tick_ns // 100 * self._percent
        self.max_per_tick = budget // self._allowed if self._allowed < budget else 1
        self.rate = self.max_per_tick * self._hz
        self.lowered += 1
