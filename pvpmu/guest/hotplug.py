"""When a guest kernel gives its vCPU's page up, and when it takes it back (rule END-6).

The memory of a page must not be used for anything else while it is registered: not by the next
kernel after a reboot or a crash, not by hibernation's image, not by a CPU that is gone.
"""

from __future__ import annotations

from pvpmu.guest.cpu import Vcpu


class PageHotplug:
    """The hooks of one vCPU. ``memory`` and ``address``: where its page lies, always the same."""

    def __init__(self, vcpu: Vcpu, memory: memoryview[int], address: int) -> None:
        self._vcpu = vcpu
        self._memory = memory
        self._address = address

    def online(self) -> bool:
        """``cpu_starting``: register; returns whether the page is in use."""
        return self._vcpu.register_page(self._memory, self._address)

    def offline(self) -> None:
        """``cpu_dying``: unregister; harmless without a page."""
        if self._vcpu.seam.page is not None:
            self._vcpu.unregister_page()

    # The other occasions are the same two steps.
    resume = online
    """Syscore resume."""
    suspend = offline
    """Syscore suspend."""
    reboot = offline
    """Reboot notifier."""
    crash = offline
    """Crash shutdown, before the crash kernel runs."""
