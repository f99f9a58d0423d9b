"""What a vCPU's host side does with pages: discovery, registration, generation, and their end.

Source: docs/protocol.md, sections 1 to 3 and 15.

**Invariants**: at most one page is registered; its generation is none that the guest may have seen;
a page that was given up is never touched again.
"""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.host.lean import LeanVpmu, nothing_to_reload
from pvpmu.host.pmi import PmiDelivery
from pvpmu.host.pvpage import Hold, HostPage, next_generation
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import cpuid as leaf_a
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import Leaf, PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.profile import Profile
from pvpmu.shared.registration import Registration, Request, check, versions_leaf


class PageRegistrar:
    """The page side of :class:`pvpmu.host.vcpu.HostVcpu`, which brings ``vpmu`` and ``delivery``.

    ``generation``: the last one. ``dirty_frames``: guest-physical page numbers stored to since
    somebody last cleared the set. ``takeovers``: how often state was lost (rule SAV-8).
    """

    # Slots are looked up fastest, however many; the dict is for whoever watches an instance.
    __slots__ = (
        "__dict__",
        "_design",
        "_memory",
        "_pv_status",
        "cpuid",
        "dirty_frames",
        "generation",
        "page",
        "profile",
        "pv_page",
        "takeovers",
    )

    vpmu: Vpmu
    delivery: PmiDelivery

    def __init__(
        self, memory: memoryview[int], design: Design, cpuid: PmuCpuid, profile: Profile
    ) -> None:
        self._memory = memory
        self._design = design
        self.cpuid = cpuid
        self.profile = profile
        self.page: HostPage | None = None
        self.pv_page = 0
        self._pv_status = Registration.NONE
        self.generation = 0
        self.takeovers = 0
        self.dirty_frames: set[int] = set()

    def leaf(self, number: int) -> Leaf:
        """CPUID: EAX, EBX, ECX, EDX; zeros for a leaf that is not the PMU's."""
        if number == leaf_a.LEAF:
            return self.cpuid.encode()
        if number == leaf_a.FEATURE_LEAF:
            return 0, 0, self.cpuid.feature_ecx, 0
        if number == exits.LEAF_SIGNATURE and self._design.page:
            ebx, ecx, edx = exits.SIGNATURE
            return exits.LEAF_FEATURES, ebx, ecx, edx
        if number == exits.LEAF_FEATURES and self._design.page:
            return versions_leaf(), self.offered, msr.PV_PAGE, page.PAGE_SIZE
        return 0, 0, 0, 0

    @property
    def memory_bytes(self) -> int:
        """Size of the guest's memory."""
        return len(self._memory) * 8

    @property
    def offered(self) -> int:
        """Features that a guest may ask for."""
        if not self._design.page:
            return 0
        # Without GLOBAL_CTRL a hold could not end.
        freeze = page.FEATURE_FREEZE if self._design.freeze and self.cpuid.has_globals else 0
        # Where delivery does not mask, there is nothing to unmask.
        auto = self._design.lvtpc_auto and self.profile.lvtpc_masked
        return freeze | (page.FEATURE_LVTPC_AUTO if auto else 0)

    def _pv_readers(self) -> dict[int, Callable[[], int]]:
        if not self._design.page:
            return {}
        return {msr.PV_PAGE: lambda: self.pv_page, msr.PV_STATUS: lambda: int(self._pv_status)}

    def _pv_writers(self) -> dict[int, Callable[[int], bool]]:
        return {msr.PV_PAGE: self._write_pv_page} if self._design.page else {}

    def _write_pv_page(self, value: int) -> bool:
        """Register or unregister the page; a refusal leaves a code and everything trapping."""
        self.end_registration()
        request = Request.decode(value)
        if request is None:
            self._pv_status = Registration.NONE
            return True
        self._pv_status = check(request, memory_bytes=self.memory_bytes, offered=self.offered)
        if self._pv_status is Registration.OK:
            self.register(request)
        return True

    def register(self, request: Request, hold: Hold | None = None) -> HostPage:
        """Take the page that a checked request names into use, under a new generation."""
        words = self._window(request)
        self.generation = next_generation(self.generation, words[page.GENERATION])
        self.page = HostPage(
            words,
            self.vpmu,
            self.delivery,
            frame=request.address // page.PAGE_SIZE,
            features=request.features,
            generation=self.generation,
            hold=hold,
        )
        self.pv_page = request.encode()
        self._pv_status = Registration.OK
        if self._design.reload and isinstance(self.vpmu, LeanVpmu):
            self.page.reloads = True
            self.vpmu.reload_of = self.page.reload_of
        return self.page

    def disown(self, request: Request) -> None:
        """Tell the guest of a page that this host does not serve: its words become invalid."""
        if self.page is None and request.address + page.PAGE_SIZE <= self.memory_bytes:
            words = self._window(request)
            words[page.VERSION] = 0
            words[page.GENERATION] = 0
            self.dirty_frames.add(request.address // page.PAGE_SIZE)
        self.end_registration()

    def _window(self, request: Request) -> memoryview[int]:
        first = request.address // 8
        return self._memory[first : first + page.PAGE_SIZE // 8]

    def end_registration(self) -> None:
        """Give the page up, with what it holds; what is live counts on by the trap path."""
        if self.page is not None:
            self._import(self.page)
            self._detach(self.page)
            # A hold has ended, or words that a broken guest stored have made a counter live.
            self.vpmu.start_paused()

    def discard_registration(self) -> None:
        """Give the page up, without what it holds (RESET)."""
        if self.page is not None:
            self._detach(self.page)
        self.forget_registration()

    def forget_registration(self) -> None:
        """MSR_PVPMU_STATUS reads that nothing was asked for (rule ERR-1)."""
        self._pv_status = Registration.NONE

    def _detach(self, page_half: HostPage) -> None:
        page_half.detach()
        if isinstance(self.vpmu, LeanVpmu):
            self.vpmu.reload_of = nothing_to_reload
        self.dirty_frames.add(page_half.frame)
        self.page = None
        self.pv_page = 0

    def import_page(self) -> None:
        """Take what the guest may have stored (rule IMP-1)."""
        if self.page is not None:
            self._import(self.page)

    @staticmethod
    def _import(page_half: HostPage) -> None:
        """Take what the guest may have stored, as a trapped access must find it."""
        if page_half.running:
            page_half.take_ovf_ctrl()
        else:
            page_half.import_words()
