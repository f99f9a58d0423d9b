"""Broken guests that join a VM: ``python -m pvpmu.conformance.guests.broken MISTAKE NAME``.

Each is this project's guest, in one process, with one deliberate mistake of registration, of the
page's use or of the process binding. ``pvpmu conform selftest`` has them caught by a case.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pvpmu.conformance.mutants_guest import GUEST
from pvpmu.conformance.mutation import Mutant, in_force, was
from pvpmu.guest import registration
from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.machine import Machine, RunJob
from pvpmu.guest.pmu import PmuDriver
from pvpmu.guest.pvpage import GuestPage
from pvpmu.guest.registration import PageUser
from pvpmu.guest.scenario import load_scenario
from pvpmu.guest.session import join
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.process import run_command

Write = Callable[[int], None]
RIGHT = "none"
"""The mistake of the guest that makes none."""
_WAIT_S = 10.0

_register_page = was(PageUser, "register_page")
_cpuid = was(PageUser, "cpuid")
_entered_with = was(Vcpu, "_entered_with")
_handle_pmi = was(PmuDriver, "handle_pmi")


class _Words:
    """A window of words of which some loads lie, or some stores do nothing."""

    def __init__(self, words: Any, lies: dict[int, int], deaf: frozenset[int]) -> None:
        self._words, self._lies, self._deaf = words, lies, deaf

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> int:
        return self._lies[index] if index in self._lies else int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        if value or index not in self._deaf:
            self._words[index] = value


class _Memory:
    """Guest memory whose slices are such windows."""

    def __init__(self, memory: Any, lies: dict[int, int], deaf: frozenset[int]) -> None:
        self._memory, self._lies, self._deaf = memory, lies, deaf

    def __getitem__(self, where: slice) -> _Words:
        return _Words(self._memory[where], self._lies, self._deaf)


def _believes(self: Any, memory: Any, address: int, **options: Any) -> bool:
    lying = _Memory(memory, {page.VERSION: page.PAGE_VERSION}, frozenset())
    done: bool = _register_page(self, lying, address, **options)
    return done


def _unprepared(self: Any, memory: Any, address: int, **options: Any) -> bool:
    deaf = frozenset((page.ACKED, page.RELEASE_SEQ, page.PMI_ACK))
    done: bool = _register_page(self, _Memory(memory, {}, deaf), address, **options)
    return done


def _no_signature(self: Any, leaf: int) -> tuple[int, ...]:
    if leaf == exits.LEAF_SIGNATURE:
        return exits.LEAF_FEATURES, *exits.SIGNATURE
    found: tuple[int, ...] = _cpuid(self, leaf)
    return found


def _fixed_address(self: Any, leaf: int) -> tuple[int, ...]:
    eax, ebx, ecx, edx = _cpuid(self, leaf)
    return eax, ebx, msr.PV_PAGE if leaf == exits.LEAF_FEATURES else ecx, edx


def _no_requirements(self: Any, leaf: int) -> tuple[int, ...]:
    eax, ebx, ecx, edx = _cpuid(self, leaf)
    if leaf == exits.LEAF_FEATURES:
        ebx &= ~page.FEATURES_REQUIRED
    return eax, ebx, ecx, edx


def _uncounted_ack(self: Any) -> Write:
    words, mask = self.words, self.words[page.STATUS_MASK]

    def write(value: int) -> None:
        words[page.ACKED] ^= (words[page.RAISED] ^ words[page.ACKED]) & value & mask
        words[page.OVF_CTRL] = value

    return write


def _trapped_ack(self: Any) -> Write:
    return lambda value: self._exit_write(msr.OVF_CTRL, value)


def _commit_without_release(self: Any) -> Write:
    def write(value: int) -> None:
        if value:
            self._exit_commit(msr.GLOBAL_CTRL, value)
        else:
            self.words[page.GLOBAL_CTRL] = value

    return write


def _keeps_page(self: Any) -> None:
    self.forget_page()


def _lets_go_late(self: Any) -> None:
    self._cross = self._bare_cross
    self.exit(exits.ExitReason.MSR_WRITE, self._page_register, 0)
    self.forget_page()


def _spurious_ignored(self: Any, on_sample: Any) -> int:
    return int(_handle_pmi(self, on_sample)) if self._rdmsr(msr.GLOBAL_STATUS) else 0


def _always_enables(self: Any, on_sample: Any) -> int:
    handled = int(_handle_pmi(self, on_sample))
    self._wrmsr(msr.GLOBAL_CTRL, self._all_on)
    return handled


def _no_window(self: Any, reply: int) -> None:
    _entered_with(self, reply & ~exits.WANT_NMI_WINDOW)


def _pmis_only(self: Any, reply: int) -> None:
    words = self.seam.page.words if self.seam.page is not None else {page.PMI_SEQ: -1}
    if words[page.PMI_SEQ] == getattr(self, "seq_before", 0):
        reply &= ~exits.INJECT_NMI
    self.seq_before = words[page.PMI_SEQ]
    _entered_with(self, reply)


def _stays_blocked(self: Any, reply: int) -> None:
    _entered_with(self, reply)
    if reply & exits.INJECT_NMI:
        self._flags |= exits.NMI_BLOCKED


def _joined(
    name: str, mistake: str, owner: Any, attribute: str, wrong: Callable[..., Any], *likely: str
) -> Mutant:
    return Mutant(
        name=f"joined-{name}", role="guest", mistake=mistake,
        patches=((owner, attribute, wrong),), likely=likely,
    )  # fmt: skip


def _again(name: str, *likely: str) -> Mutant:
    """A mistake that vectors catch too."""
    (mutant,) = (mutant for mutant in GUEST if mutant.name == name)
    return Mutant(
        name=f"joined-{name}", role="guest", mistake=mutant.mistake,
        patches=mutant.patches, likely=likely,
    )  # fmt: skip


JOINED = (
    _joined("no-signature", "registers without looking for the signature", PageUser, "cpuid",
            _no_signature, "DSC-4"),
    _joined("fixed-address", "knows the address of MSR_PVPMU_PAGE by heart", PageUser, "cpuid",
            _fixed_address, "DSC-5"),
    _joined("any-version", "registers with a host of any version", registration, "speaks",
            lambda *_: True, "DSC-6"),
    _joined("no-requirements", "does not look for required features", PageUser, "cpuid",
            _no_requirements, "FEA-1"),
    _joined("unprepared", "registers a page with old words", PageUser, "register_page",
            _unprepared, "REG-6"),
    _joined("believes", "uses the page without looking at version", PageUser, "register_page",
            _believes, "REG-8"),
    _again("ignores-generation", "GEN-3"),
    _joined("lets-go-late", "uses the page until after it unregistered", PageUser,
            "unregister_page", _lets_go_late, "END-5"),
    _joined("keeps-page", "ends with its page registered", PageUser, "unregister_page",
            _keeps_page, "END-6"),
    _joined("always-enables", "enables counters in the handler whatever was before", PmuDriver,
            "handle_pmi", _always_enables, "OWN-9"),
    _joined("commit-first", "COMMITs without a release", GuestPage, "_global_ctrl_write",
            _commit_without_release, "ACC-2/release"),
    _joined("ack-uncounted", "does not count exchanges of acked", GuestPage, "_whole_ack",
            _uncounted_ack, "STA-4"),
    _joined("ack-trapped", "acknowledges overflows by exits", GuestPage, "_acknowledge",
            _trapped_ack, "STA-6"),
    _joined("pmis-only", "ignores NMIs that are no PMI", Vcpu, "_entered_with",
            _pmis_only, "PMI-13"),
    _joined("spurious-ignored", "returns from a spurious PMI at once", PmuDriver, "handle_pmi",
            _spurious_ignored, "FRZ-10"),
    _joined("no-window", "never makes the NMI-window exit", Vcpu, "_entered_with",
            _no_window, "BND-14"),
    _joined("stays-blocked", "leaves NMIs blocked after its handler", Vcpu, "_entered_with",
            _stays_blocked, "BND-15"),
)  # fmt: skip


def run(argv: list[str]) -> int:
    """Be that guest once."""
    name, vm = argv
    with ExitStack() as stack:
        for mutant in JOINED:
            if mutant.name == name:
                stack.enter_context(in_force(mutant))
        admission = stack.enter_context(join(vm, 1, wait_s=_WAIT_S, memory_bytes=PAGE_SIZE))
        attached = admission.handoffs[0].attach()

        def cross() -> None:
            attached.exit_semaphore.release()
            attached.entry_semaphore.acquire()

        machine = Machine(attached.slot, cross, attached.memory.words, 0)
        try:
            RunJob(load_scenario("short"), seed=1).do(machine, lambda _: None)
        except GeneralProtectionError as fault:
            raise PeerError(f"the host raised {fault}") from None
        admission.leave()
    return 0


if __name__ == "__main__":
    # Here and now: what still looks into the segments cannot be unmapped in order.
    os._exit(run_command("broken", run, None))
