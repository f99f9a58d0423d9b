"""The MSR seam: where RDMSR, WRMSR and RDPMC go to the page or exit.

All paravirtualisation of the guest lives here and in :mod:`pvpmu.guest.pvpage`; the driver above
calls ``rdmsr``, ``wrmsr`` and ``rdpmc`` of a :class:`Seam`, or of :class:`Trapped` where there is
no page, and never knows.
"""

from __future__ import annotations

from typing import Protocol

from pvpmu.guest.pvpage import GuestPage, Routes
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import Words
from pvpmu.shared.units import MsrAddress

# Plain ints: an IntEnum member is slow to look up and to combine with flags.
_MSR_READ = int(ExitReason.MSR_READ)
_MSR_WRITE = int(ExitReason.MSR_WRITE)
_RDPMC = int(ExitReason.RDPMC)
_OVF_CTRL = msr.OVF_CTRL


class Exits(Protocol):
    """What the seam needs of a vCPU: a VM-exit that returns the value read."""

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int: ...


class MsrAccess(Protocol):
    """What a driver needs: the three instructions. #GP is raised where it happens."""

    def rdmsr(self, address: MsrAddress) -> int: ...
    def wrmsr(self, address: MsrAddress, value: int) -> None: ...
    def rdpmc(self, ecx: int) -> int: ...


class Trapped:
    """The instructions as they are without a page: each one exits.

    A callable that an instance holds is called fastest as a local, and with all its arguments; all
    traps pass here.
    """

    __slots__ = ("_exit",)

    def __init__(self, cpu: Exits) -> None:
        self._exit = cpu.exit

    def rdmsr(self, address: MsrAddress) -> int:
        """The trapped RDMSR."""
        leave = self._exit
        return leave(_MSR_READ, address, 0)

    def wrmsr(self, address: MsrAddress, value: int) -> None:
        """The trapped WRMSR."""
        leave = self._exit
        leave(_MSR_WRITE, address, value)

    def rdpmc(self, ecx: int) -> int:
        """The trapped RDPMC."""
        leave = self._exit
        return leave(_RDPMC, ecx, 0)


class Seam:
    """Routes accesses of one vCPU. Without a page, every table is empty and everything exits.

    ``losses``: how often the page was gone, or another registration's, at a look (rule GEN-4).
    """

    __slots__ = (
        "_acknowledge",
        "_exit",
        "_generation",
        "_in_pmi",
        "_page",
        "_rdpmc",
        "_rdpmc_word",
        "_read",
        "_read_word",
        "_running",
        "_words",
        "_write",
        "_write_word",
        "losses",
    )

    def __init__(self, cpu: Exits) -> None:
        self._exit = cpu.exit
        self.losses = 0
        self._generation = 0
        self._words: Words = {}
        self._page: GuestPage | None = None
        self._use(Routes())
        self._running = False
        self._in_pmi = False

    @property
    def page(self) -> GuestPage | None:
        """The page in use, if any."""
        return self._page

    @property
    def held(self) -> bool:
        """Whether the page's counters are held for a PMI."""
        return self._page is not None and self._page.held

    def attach(self, guest_page: GuestPage) -> None:
        """Start using a registered page; the host has published it."""
        self._page = guest_page
        self._words = guest_page.words
        self._generation = self._words[page.GENERATION]
        self._use(guest_page.frozen)
        self._running = False
        self.entered()

    def detach(self) -> None:
        """Stop using the page: everything exits again."""
        self._page = None
        self._use(Routes())

    def entered(self) -> None:
        """Follow the state; to be called at every VM-entry, before anything else runs."""
        guest_page = self._page
        if guest_page is not None:
            generation = self._words[page.GENERATION]
            if generation != self._generation:
                self._generation = generation
                self.losses += 1
                if not generation:
                    self.detach()
                    return
            running = self._words[page.LIVE] != 0
            if running != self._running:
                self._running = running
                if running:
                    guest_page.starts_running()
                    self._use(guest_page.running)
                else:
                    self._in_pmi = guest_page.held
                    self._use(guest_page.pmi if self._in_pmi else guest_page.frozen)

    def handler_begins(self) -> None:
        """The NMI handler has just been entered."""
        guest_page = self._page
        if guest_page is not None and self._running and guest_page.handler is not None:
            self._use(guest_page.handler)

    def handler_ends(self) -> None:
        """The NMI handler is about to return."""
        guest_page = self._page
        if guest_page is not None and guest_page.handler is not None:
            if self._running:
                self._use(guest_page.running)
            guest_page.handler_ends()
        if guest_page is None or not guest_page.flushes or self._running or not self._in_pmi:
            return
        self._in_pmi = False
        # Before the exit, whose VM-entry may well be RUNNING.
        self._use(guest_page.frozen)
        guest_page.flush()

    def rdmsr(self, address: MsrAddress) -> int:
        """Return the 64-bit value; raises :class:`GeneralProtectionError`."""
        index = self._read_word.get(address)
        if index is not None:
            return self._words[index]
        if address in self._read:
            return self._read[address]()
        return self._exit(_MSR_READ, address)

    def wrmsr(self, address: MsrAddress, value: int) -> None:
        """Write 64 bits; raises :class:`GeneralProtectionError`."""
        if address == _OVF_CTRL:
            # A place of its own: the interpreter speeds up a call that is always the same.
            self._acknowledge(value)
            return
        # Calls first: they have more to do afterwards than a plain word has.
        if address in self._write:
            self._write[address](value)
            return
        word = self._write_word.get(address)
        if word is not None and not value & word[1]:
            self._words[word[0]] = value
        else:
            self._exit(_MSR_WRITE, address, value)

    def rdpmc(self, ecx: int) -> int:
        """Return a counter, 64 bits (32 in fast mode); raises :class:`GeneralProtectionError`."""
        index = self._rdpmc_word.get(ecx)
        if index is not None:
            return self._words[index]
        if ecx in self._rdpmc:
            return self._rdpmc[ecx]()
        return self._exit(_RDPMC, ecx)

    def _exit_acknowledge(self, value: int) -> None:
        self._exit(_MSR_WRITE, _OVF_CTRL, value)

    def _use(self, routes: Routes) -> None:
        self._read_word = routes.read_word
        self._rdpmc_word = routes.rdpmc_word
        self._write_word = routes.write_word
        self._read = routes.read
        self._rdpmc = routes.rdpmc
        self._write = routes.write
        self._acknowledge = routes.acknowledge or self._exit_acknowledge
