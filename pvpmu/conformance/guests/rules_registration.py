"""Checks of discovery, registration and the end of a registration."""

from __future__ import annotations

from pvpmu.conformance.guests.rule import PLAIN, End, Rule
from pvpmu.conformance.guests.seen import (
    Ended,
    Exit,
    Handler,
    Offer,
    Words,
    owner_of,
    word_name,
)
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.layout import Owner
from pvpmu.shared.registration import Request, speaks

_ZEROED = (page.VERSION, page.ACKED, page.RELEASE_SEQ, page.PMI_ACK)
_LOOKS = 8
"""Exits after the end of a registration at which the page is still looked at."""


class _Registering(Rule):
    """A check of the write that registers."""

    def look(self, seen: Exit) -> None:
        request = _request(seen, self.offer)
        if request is not None:
            self.registers(seen, request)

    def registers(self, seen: Exit, request: Request) -> None:
        """Look at one such write."""


def _request(seen: Exit, offer: Offer) -> Request | None:
    return Request.decode(seen.value) if seen.writes(offer.address) else None


def _touched(offer: Offer, seen: Exit) -> bool:
    """Whether the exit is an access to one of the two MSRs, at either address."""
    addresses = (offer.address, offer.address + 1, msr.PV_PAGE, msr.PV_STATUS)
    accesses = (ExitReason.MSR_READ, ExitReason.MSR_WRITE)
    return seen.reason in accesses and seen.address in addresses


class Announced(Rule):
    """The MSRs only after the signature."""

    id = "DSC-4"
    title = "touches MSR_PVPMU_PAGE and MSR_PVPMU_STATUS only after the signature matched"
    never = "the guest touched neither MSR"
    homes = (PLAIN, "DSC-3/no-page", "DSC-4/signature", "DSC-4/leaf")

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        self._read = False
        # It is an occasion of its own if nothing must be touched.
        self.occasions += not offer.announced

    def look(self, seen: Exit) -> None:
        if seen.reason == ExitReason.CPUID and seen.address == exits.LEAF_SIGNATURE:
            self._read = True
        elif _touched(self.offer, seen):
            fits = "matches" if self.offer.announced else "does not match"
            read = f"leaf {exits.LEAF_SIGNATURE:#x} {'' if self._read else 'not '}read"
            self.expect(
                seen,
                holds=self.offer.announced and self._read,
                expected="no access before a signature that matches",
                actual=f"{read}, signature {fits}",
            )


class Address(Rule):
    """The MSR where ECX says."""

    id = "DSC-5"
    title = "takes the address of MSR_PVPMU_PAGE from ECX"
    never = "the guest touched neither MSR"
    homes = ("DSC-5/address",)

    def look(self, seen: Exit) -> None:
        if self.offer.address != msr.PV_PAGE and _touched(self.offer, seen):
            self.expect(
                seen,
                holds=seen.address in (self.offer.address, self.offer.address + 1),
                expected=f"MSR {self.offer.address:#x} or the next",
                actual=f"{seen.address:#x}",
            )


class InCommon(_Registering):
    """A version that both speak, and the page's size."""

    id = "DSC-6"
    title = "registers only a version that the host speaks, and a page of 4096 bytes"
    never = "the guest registered no page"
    homes = (PLAIN, "DSC-6/version", "DSC-6/size")

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        unusable = not speaks(offer.versions, page.PAGE_VERSION)
        self.occasions += unusable or offer.size != page.PAGE_SIZE

    def registers(self, seen: Exit, request: Request) -> None:
        versions, size = self.offer.versions, self.offer.size
        spoken = f"versions {versions & 0xFF} to {versions >> 8 & 0xFF}"
        self.expect(
            seen,
            holds=speaks(versions, request.version) and size == page.PAGE_SIZE,
            expected=f"a version of {spoken} and a page of 4096 bytes, or no registration",
            actual=f"version {request.version}, with an offer of {spoken} and {size} bytes",
        )


class Required(_Registering):
    """No registration with a required feature that the guest cannot know."""

    id = "FEA-1"
    title = "does not register where it does not know a required feature"
    never = "no unknown required feature was offered"
    homes = ("FEA-1/required",)

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        self._unknown = offer.unknown & page.FEATURES_REQUIRED
        self.occasions += bool(self._unknown)

    def registers(self, seen: Exit, request: Request) -> None:
        if self._unknown:
            self.expect(
                seen,
                holds=False,
                expected=f"no registration: no version 1 has required feature {self._unknown:#x}",
                actual=f"wants features {request.features:#x}",
            )


class Wanted(_Registering):
    """No bit that is not known."""

    id = "FEA-4"
    title = "wants no feature that version 1 does not define"
    never = "the guest registered no page"
    homes = (PLAIN, "FEA-4/unknown")

    def registers(self, seen: Exit, request: Request) -> None:
        unknown = request.features & ~page.FEATURES_KNOWN
        self.expect(
            seen,
            holds=not unknown,
            expected=f"features within {page.FEATURES_KNOWN:#x}",
            actual=f"{request.features:#x}",
        )


class Prepared(_Registering):
    """The words to store before enable."""

    id = "REG-6"
    title = "clears version, acked, release_seq and pmi_ack, and sets ovf_ctrl, before it enables"
    never = "the guest registered no page"

    def registers(self, seen: Exit, request: Request) -> None:
        words = seen.target
        if words is None:
            self.expect(
                seen, holds=False, expected="a page in guest memory", actual=f"{request.address:#x}"
            )
            return
        wanted = dict.fromkeys(_ZEROED, 0)
        if seen.ovf_ctrl is not None:
            wanted[page.OVF_CTRL] = seen.ovf_ctrl
        wrong = [index for index, value in wanted.items() if words[index] != value]
        at = wrong[0] if wrong else page.VERSION
        self.expect(
            seen,
            holds=not wrong,
            expected=f"{word_name(at)} = {wanted[at]:#x}",
            actual=f"{words[at]:#x}",
        )


class OnePageEach(_Registering):
    """No page for two vCPUs."""

    id = "REG-10"
    title = "registers no page for two vCPUs"
    never = "the guest registered pages for fewer than two vCPUs"

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        self._pages: dict[int, int] = {}

    def registers(self, seen: Exit, request: Request) -> None:
        others = {at for vcpu, at in self._pages.items() if vcpu != seen.vcpu}
        self._pages[seen.vcpu] = request.address
        if others:
            self.expect(
                seen,
                holds=request.address not in others,
                expected="a page of its own",
                actual=f"{request.address:#x}, which another vCPU has registered",
            )


class _Untouched(Rule):
    """A check of the words of a page that is out of use."""

    def unused(self, seen: Exit | None, ended: Ended, what: str) -> None:
        """``seen``: None at the end of the session."""
        changed = _changed(ended.words, ended.now)
        at = changed[0] if changed else page.ACKED
        expected = f"no store to {what}"
        actual = f"{word_name(at)} = {ended.now[at]:#x}, was {ended.words[at]:#x}"
        if seen is None:
            self.expect_end(holds=not changed, expected=expected, actual=actual)
        else:
            self.expect(seen, holds=not changed, expected=expected, actual=actual)

    def trapped(self, seen: Exit | None, handler: Handler) -> None:
        """Its handler reads status (rule PMI-13), which without a page is an exit."""
        holds = any(_reads_status(each) for each in handler.exits)
        expected = "a trapped read of GLOBAL_STATUS in the NMI handler"
        actual = f"{len(handler.exits)} exits, none of them that"
        if seen is None:
            self.expect_end(holds=holds, expected=expected, actual=actual)
        else:
            self.expect(seen, holds=holds, expected=expected, actual=actual)


def _changed(before: Words, now: Words) -> list[int]:
    """Words that a guest would store to while it uses the page."""
    return [
        index
        for index, (was, is_) in enumerate(zip(before, now, strict=True))
        if was != is_ and owner_of(index) in (Owner.GUEST, Owner.TURN)
    ]


def _reads_status(seen: Exit) -> bool:
    return seen.reason == ExitReason.MSR_READ and seen.address == msr.GLOBAL_STATUS


class Refused(_Untouched):
    """No use of a page before `version` says so."""

    id = "REG-8"
    title = "does not use the page before version reads what it wanted"
    never = "no registration was refused"
    homes = ("REG-8/refused",)

    def look(self, seen: Exit) -> None:
        ended = seen.ended
        if ended is not None and ended.why == "refused" and ended.exits < _LOOKS:
            self.unused(seen, ended, "a page that was not registered")


class GivenUp(_Untouched):
    """No use of a page of generation 0."""

    id = "GEN-3"
    title = "stops using a page whose generation is 0, at once and in a handler"
    never = "no page was given up by the host"
    homes = ("GEN-3/exit", "GEN-3/handler")

    def look(self, seen: Exit) -> None:
        ended = seen.ended
        if ended is None or ended.why != "given up" or ended.exits >= _LOOKS:
            return
        self.unused(seen, ended, "a page of generation 0")
        if seen.over is not None and seen.over.entry.words is None:
            self.trapped(seen, seen.over)


class LetGo(_Untouched):
    """No use of a page in the VM-entry of its unregistering write."""

    id = "END-5"
    title = "has stopped using the page when it unregisters it"
    never = "no NMI came at the VM-entry of an unregistering write"
    homes = ("END-5/nmi",)

    def look(self, seen: Exit) -> None:
        if seen.ended is not None:
            self._look(seen, seen.ended)

    def finish(self, end: End) -> None:
        for ended in end.ended:
            self._look(None, ended)

    def _look(self, seen: Exit | None, ended: Ended) -> None:
        if ended.why != "unregistered" or ended.handler is None:
            return
        self.unused(seen, ended, "the page from the handler of an NMI at that VM-entry")
        if seen is None or seen.over is not None:
            self.trapped(seen, ended.handler)


class Unregistered(Rule):
    """No registration at the end."""

    id = "END-6"
    title = "unregisters every page before Bye"
    never = "the session did not end with Bye"

    def finish(self, end: End) -> None:
        vcpus = ", ".join(map(str, end.registered))
        self.expect_end(
            holds=not end.registered,
            expected="no page registered",
            actual=f"pages of vCPU {vcpus}",
        )


RULES = (
    Announced, Address, InCommon, Required, Wanted, Prepared, Refused, OnePageEach, GivenUp, LetGo,
    Unregistered,
)  # fmt: skip
