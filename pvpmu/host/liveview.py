"""What a host publishes of its vCPUs for the live view: counts of exits and PMIs, and the state.

Pure: words, counts and states are given. Cheap enough to be on where nothing is measured:
docs/live.md has the cost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pvpmu.host.pmi import PmiCounts
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, liveview
from pvpmu.shared.errors import PeerError
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.liveview import EXIT_KEYS, PMI_WORDS, AccessPath, State, Status
from pvpmu.shared.page import Words

# Plain ints and names of this module, as in pvpmu.host.vcpu: this runs at every exit.
_ADDRESS, _REPLY = exits.ADDRESS, exits.REPLY
_FLOOR = int(ExitReason.FLOOR)
_MSR_WRITE = int(ExitReason.MSR_WRITE)
_INJECTS = exits.INJECT_NMI | exits.INJECT_IRQ
_TRAP_ONLY, _FROZEN, _RUNNING = int(State.TRAP_ONLY), int(State.FROZEN), int(State.RUNNING)
_LAST_OF_PMIS = int(ExitReason.NMI_WINDOW)
"""Exit reasons up to this one are those that bring interrupts."""
_RAISED, _DELIVERED = liveview.HOST_PMI, liveview.HOST_PMI + 1

_REASON_BITS = 8
_WORD_OF = {
    key.address << _REASON_BITS | key.reason: liveview.HOST_EXITS + number
    for number, key in enumerate(EXIT_KEYS)
    if key.path is AccessPath.EXIT
}
COMMIT_WORD_OF = {
    key.address: liveview.HOST_EXITS + number
    for number, key in enumerate(EXIT_KEYS)
    if key.path is AccessPath.COMMIT
}
_UNKNOWN = liveview.HOST_EXITS + len(EXIT_KEYS) - 1


class VmLive:
    """The words of a VM's main process. ``name``: of their segment, empty for none."""

    def __init__(self, name: str, words: Words) -> None:
        self.name = name
        self._words = words

    @classmethod
    def unpublished(cls) -> VmLive:
        """Words that nobody sees; there is no segment, and so no name."""
        return cls("", memoryview(bytearray(liveview.VM.size)).cast("Q"))

    @contextlib.contextmanager
    def serving(self, guest: int, vcpus: int) -> Iterator[None]:
        """A guest is served meanwhile: its process id, the vCPUs that it uses."""
        words = self._words
        words[liveview.VM_GUEST] = guest
        words[liveview.VM_GUEST_VCPUS] = vcpus
        words[liveview.VM_STATUS] = Status.SERVING
        try:
            yield
        except PeerError:
            words[liveview.VM_STATUS] = Status.LOST
            raise
        except BaseException:
            words[liveview.VM_STATUS] = Status.STOPPED
            raise
        words[liveview.VM_STATUS] = Status.DONE


class HostLive:
    """One vCPU's words, and who stores to them: whoever serves its exits. They begin at 0."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.state = 0
        self._generation = 0
        self._counts: PmiCounts | None = None
        self._before = [0] * len(PMI_WORDS)
        self._rest = 0

    def served(self, reason: int, address: int, state: int, *, injected: bool = False) -> None:
        """An exit was served: its reason number, MSR address or RDPMC index, the state after it.

        ``injected``: the VM-entry brings an interrupt, which may have frozen the counters again.
        """
        words = self.words
        leaves = self.state == _FROZEN and (state == _RUNNING or injected)
        if reason == _MSR_WRITE and leaves and address in COMMIT_WORD_OF:
            words[COMMIT_WORD_OF[address]] += 1
        else:
            words[word_of(reason, address)] += 1
        if state != self.state:
            self.state = words[liveview.HOST_STATE] = state

    def entered(self, state: int, generation: int) -> None:
        """The state at a VM-entry, and the generation of the page's registration, 0 without."""
        if state != self.state:
            self.state = self.words[liveview.HOST_STATE] = state
        if generation != self._generation:
            self._generation = self.words[liveview.HOST_GENERATION] = generation

    def pmis(self, counts: PmiCounts) -> None:
        """PMIs since the counting of ``counts`` began; another object begins at 0 again."""
        if counts is not self._counts:
            if self._counts is not None:
                ended = [getattr(self._counts, name) for name in PMI_WORDS]
                self._before = [a + b for a, b in zip(self._before, ended, strict=True)]
            self._counts = counts
            self._rest = -1
        words, before = self.words, self._before
        words[_RAISED] = before[0] + counts.raised
        words[_DELIVERED] = before[1] + counts.delivered
        # The others change rarely.
        rest = counts.coalesced + counts.dropped + counts.late + counts.stray
        if rest != self._rest:
            self._rest = rest
            for number, name in enumerate(PMI_WORDS):
                words[_RAISED + number] = before[number] + getattr(counts, name)


def word_of(reason: int, address: int) -> int:
    """The word that counts an exit: others than those of registers go by their reason."""
    at = _WORD_OF.get(address << _REASON_BITS | reason)
    if at is None:
        at = _WORD_OF.get(liveview.OTHER << _REASON_BITS | reason)
    return at if at is not None else _WORD_OF.get(reason, _UNKNOWN)


def publishing(vcpu: HostVcpu, slot: Words, live: HostLive) -> Callable[[], int]:
    """Wrap a vCPU's ``serve`` so that each exit is published before the guest enters again."""
    serve, words, word = vcpu.serve, live.words, _WORD_OF
    was = live.state

    def published() -> int:
        nonlocal was
        address = slot[_ADDRESS]
        reason = serve()
        page = vcpu.page
        state = _TRAP_ONLY if page is None else _RUNNING if page.entered_running else _FROZEN
        if state == was and (reason != _MSR_WRITE or state != _FROZEN):
            try:
                # As HostLive.served, which a call to would cost as much again.
                words[word[address << _REASON_BITS | reason]] += 1
            except KeyError:
                rare(reason, address, state)
        else:
            rare(reason, address, state)
        if reason <= _LAST_OF_PMIS:
            live.pmis(vcpu.delivery.counts)
        return reason

    def rare(reason: int, address: int, state: int) -> None:
        nonlocal was
        if reason < _FLOOR:
            live.served(reason, address, state, injected=bool(slot[_REPLY] & _INJECTS))
        else:
            live.pmis(vcpu.delivery.counts)
        live.entered(state, vcpu.generation if vcpu.page is not None else 0)
        was = state

    return published
