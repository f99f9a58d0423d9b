"""What a guest does to have a page: find the interface by CPUID, register, give it up.

Source: docs/protocol.md, sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pvpmu.guest.msr import Seam, Trapped
from pvpmu.guest.pvpage import GuestPage
from pvpmu.guest.reload import ReloadPage
from pvpmu.guest.routing import DesignedPage
from pvpmu.shared import cpuid as leaf_a
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import GuestDesign
from pvpmu.shared.errors import GeneralProtectionError, PeerError, UsageError
from pvpmu.shared.exits import ExitReason, SlotWords
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.registration import Request, speaks

_MSR_READ = int(ExitReason.MSR_READ)
_MSR_WRITE = int(ExitReason.MSR_WRITE)


class PageUser:
    """The page side of :class:`pvpmu.guest.cpu.Vcpu`, which brings ``exit`` and ``_slot``.

    ``cross``: hand over to the host and wait for VM-entry; with a page the seam looks after each.
    ``refusals``: COMMITs that the host refused at first.
    """

    # Slots are looked up fastest, however many; the dict is for whoever watches an instance.
    __slots__ = (
        "__dict__",
        "_bare_cross",
        "_cross",
        "_page_register",
        "refusals",
        "seam",
        "trapped",
    )

    _slot: SlotWords

    def __init__(self, cross: Callable[[], object]) -> None:
        self._cross = self._bare_cross = cross
        self._page_register = msr.PV_PAGE
        self.refusals = 0
        self.trapped = Trapped(self)
        self.seam = Seam(self)

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int:
        """Exit, and return the value read."""
        raise NotImplementedError

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        """CPUID: EAX, EBX, ECX, EDX."""
        low = self.exit(ExitReason.CPUID, leaf)
        high = self._slot[exits.RESULT_HIGH]
        return low & 0xFFFF_FFFF, low >> 32, high & 0xFFFF_FFFF, high >> 32

    def pmu_cpuid(self) -> PmuCpuid:
        """Decode leaf 0xA, with what else says which registers there are.

        Raises :class:`PeerError` for a PMU that cannot be.
        """
        eax, ebx, _, edx = self.cpuid(leaf_a.LEAF)
        pdcm = bool(self.cpuid(leaf_a.FEATURE_LEAF)[2] & leaf_a.PDCM)
        capabilities = self.exit(_MSR_READ, msr.CAPABILITIES) if pdcm else 0
        full_width = bool(capabilities & msr.FULL_WIDTH_WRITES)
        try:
            return PmuCpuid.decode(eax, ebx, edx, pdcm=pdcm, full_width=full_width)
        except UsageError as error:
            raise PeerError(f"the host's CPUID leaf {leaf_a.LEAF:#x}: {error}") from None

    def register_page(
        self,
        memory: memoryview[int],
        address: int,
        features: int = page.FEATURES_KNOWN,
        guest: GuestDesign | None = None,
        *,
        retry: bool = False,
    ) -> bool:
        """Find the paravirtual leaf, register the page at guest-physical ``address``, use it.

        ``features``: those to ask for where they are offered. A page in use is given up first.
        ``guest``: the guest's side of a design, else the protocol's. ``retry``: make a refused
        COMMIT once more (rule CMT-7); else its #GP is seen.
        Returns False when the host offers none or refuses: then everything keeps trapping.
        """
        if self.seam.page is not None:
            self.unregister_page()
        eax, *signature = self.cpuid(exits.LEAF_SIGNATURE)
        if tuple(signature) != exits.SIGNATURE or eax < exits.LEAF_FEATURES:
            return False
        versions, offered, register, size = self.cpuid(exits.LEAF_FEATURES)
        unknown = offered & page.FEATURES_REQUIRED & ~page.FEATURES_KNOWN
        if not speaks(versions, page.PAGE_VERSION) or size != PAGE_SIZE or unknown:
            return False
        words = memory[address // 8 : (address + PAGE_SIZE) // 8]
        if len(words) * 8 != PAGE_SIZE:
            return False
        # What it must accept, it does: it knows all of those.
        wanted = offered & (features & page.FEATURES_KNOWN | page.FEATURES_REQUIRED)
        request = Request(address=address, version=page.PAGE_VERSION, features=wanted)
        # Until it is registered the page is the guest's, and it may hold anything: a ready word of
        # an earlier life, spare bits of acked, and not what OVF_CTRL was last written with.
        for index in (page.VERSION, page.ACKED, page.RELEASE_SEQ, page.PMI_ACK):
            words[index] = 0
        cpuid = self.pmu_cpuid()
        words[page.OVF_CTRL] = self.exit(_MSR_READ, msr.OVF_CTRL) if cpuid.has_globals else 0
        self._page_register = register
        self.exit(_MSR_WRITE, register, request.encode())
        if words[page.VERSION] != page.PAGE_VERSION:
            return False
        seam = self.seam
        self._cross = _then(self._bare_cross, seam.entered)
        seam.attach(
            _page_of(guest or GuestDesign())(
                words,
                cpuid,
                exit_read=self.trapped.rdmsr,
                exit_rdpmc=self.trapped.rdpmc,
                exit_write=self.trapped.wrmsr,
                exit_commit=self._commit if retry else None,
            )
        )
        return True

    def _commit(self, address: int, value: int) -> None:
        """The WRMSR of a COMMIT, twice if the host refuses a word of the page.

        Only memory that somebody else stored to can bring that about; the word is right again.
        """
        try:
            self.trapped.wrmsr(address, value)
        except GeneralProtectionError:
            guest_page = self.seam.page
            if guest_page is None or not guest_page.words[page.REJECTED]:
                raise
            self.refusals += 1
            self.trapped.wrmsr(address, value)

    def unregister_page(self) -> None:
        """Give the page up; everything traps from here on.

        The seam lets go first: the VM-entry of the exit may bring a PMI, whose handler must not
        find a page that the host has left.
        """
        self.forget_page()
        self.exit(_MSR_WRITE, self._page_register, 0)

    def forget_page(self) -> None:
        """The page is gone (unregistered, or a vCPU reset): everything traps."""
        self._cross = self._bare_cross
        self.seam.detach()


def _page_of(guest: GuestDesign) -> Callable[..., GuestPage]:
    """What makes the guest's half of a page under a design."""
    if guest.keeps_protocol:
        return GuestPage
    return partial(ReloadPage if guest.reload else DesignedPage, guest=guest)


def _then(first: Callable[[], object], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both
