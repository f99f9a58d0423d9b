"""The kernel's own count of this thread's VM-exits: KVM's tracepoints, counted by perf.

``kvm:kvm_userspace_exit`` fires once for each return to user space, with ``kvm_run.exit_reason``:
it must agree with the loop. ``kvm:kvm_exit`` fires for each exit of the hardware, also those that
KVM handles itself; PVM has none. ``kvm:kvm_msr`` fires for accesses that KVM answers itself: one
that goes to user space is none. ``kvm:kvm_emulate_insn`` fires for each instruction that KVM
emulates.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pvpmu.host import perf_open
from pvpmu.shared.errors import ResourceError
from pvpmu.vm import kvm

_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

TO_USER = {
    "to_user_wrmsr": kvm.EXIT_WRMSR,
    "to_user_rdmsr": kvm.EXIT_RDMSR,
    "to_user_io": kvm.EXIT_IO,
    "to_user_hlt": kvm.EXIT_HLT,
}
"""Returns to user space, by name here, of ``kvm_run.exit_reason``."""
_ALL = {"kvm_exit": "kvm_exit", "kvm_msr": "kvm_msr", "kvm_emulate_insn": "kvm_emulate_insn"}


class ExitCounters:
    """Counters of the calling thread. Raises :class:`ResourceError` with what stands in the way."""

    def __init__(self) -> None:
        self._handles: dict[str, int] = {}
        try:
            for name, reason in TO_USER.items():
                self._handles[name] = _counter("kvm_userspace_exit", f"reason == {reason}")
            for name, event in _ALL.items():
                # What an older kernel lacks is left out.
                with contextlib.suppress(FileNotFoundError):
                    self._handles[name] = _counter(event)
        except FileNotFoundError:
            self.close()
            raise ResourceError("tracefs has no event kvm:kvm_userspace_exit") from None
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, int]:
        """Counts since they were made."""
        return {name: perf_open.value_of(handle) for name, handle in self._handles.items()}

    def close(self) -> None:
        """End them."""
        while self._handles:
            os.close(self._handles.popitem()[1])


def _counter(event: str, condition: str = "") -> int:
    attr = perf_open.Attr(type=perf_open.TYPE_TRACEPOINT, config=_number(event))
    handle = perf_open.opened(attr, f"tracepoint kvm:{event}")
    if condition:
        perf_open.set_filter(handle, condition)
    return handle


def _number(event: str) -> int:
    for folder in _TRACEFS:
        path = folder / "events" / "kvm"
        try:
            if path.is_dir():
                return int((path / event / "id").read_text("ascii"))
        except PermissionError:
            raise ResourceError(f"{folder}: not permitted, root only") from None
    raise ResourceError(
        f"tracefs: not mounted with KVM's events (mount -t tracefs nodev {_TRACEFS[0]})"
    )
