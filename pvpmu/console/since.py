"""What happened between two snapshots of a VM: counts, and latencies by bucket. Pure.

``since`` is the earlier snapshot, None for the VM's beginning; ``numbers`` the vCPUs that are
meant. Nothing is ever negative: a guest may store less than it did before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import add, sub

from pvpmu.console.snapshot import Buckets, VmSnapshot
from pvpmu.shared.exits import ExitReason, reason_name
from pvpmu.shared.liveview import HANDLER_KEY, PMI_WORDS, AccessPath, Key

PAGE, EXIT, HANDLER = "page", "exit", "PMI handler"
KINDS = (PAGE, EXIT, HANDLER)
"""What the latency histograms are of: accesses without an exit, those with one, whole handlers."""
EXITS_PER_S, PMIS_PER_S = "exits/s", "PMIs/s"
RATES = (EXITS_PER_S, PMIS_PER_S)

_REGISTERS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)
_KIND_OF = {
    AccessPath.PAGE: PAGE,
    AccessPath.PASSED: PAGE,
    AccessPath.EXIT: EXIT,
    AccessPath.COMMIT: EXIT,
}
_UNKNOWN_REASON = 0xFF


def exits(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[Key, int]:
    """Exits by key."""
    found: dict[Key, int] = {}
    for number in numbers:
        before = since.vcpus[number].exits if since is not None else {}
        for key, count in vm.vcpus[number].exits.items():
            found[key] = found.get(key, 0) + max(count - before.get(key, 0), 0)
    return found


def by_reason(exits: Mapping[Key, int]) -> dict[str, int]:
    """Exits by the name of their reason."""
    found: dict[str, int] = {}
    for key, count in exits.items():
        name = "UNKNOWN" if key.reason == _UNKNOWN_REASON else reason_name(key.reason)
        found[name] = found.get(name, 0) + count
    return found


def pmis(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[str, int]:
    """PMIs by PMI_WORDS."""
    found = dict.fromkeys(PMI_WORDS, 0)
    for number in numbers:
        before = since.vcpus[number].pmis if since is not None else {}
        for name, count in vm.vcpus[number].pmis.items():
            found[name] += max(count - before.get(name, 0), 0)
    return found


def spurious(vm: VmSnapshot | None, numbers: Sequence[int]) -> int:
    """Spurious PMIs as those guests count them."""
    guests = [vm.vcpus[number].guest for number in numbers] if vm is not None else []
    return sum(guest.spurious for guest in guests if guest is not None)


def accesses(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int]) -> dict[Key, int]:
    """Accesses to registers by key: exits as the host counts them, the others as the guest does."""
    found = {
        key: count for key, count in exits(vm, since, numbers).items() if key.reason in _REGISTERS
    }
    for key in {key for number in numbers for key in _series(vm, number)}:
        if kind_of(key) == PAGE:
            found[key] = _recorded(vm, since, numbers, key)
    return found


def count(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int], kind: str) -> int:
    """Exits, PMIs (of RATES) or accesses without an exit (PAGE) since another snapshot."""
    if kind == EXITS_PER_S:
        return sum(exits(vm, since, numbers).values())
    if kind == PMIS_PER_S:
        return pmis(vm, since, numbers)["delivered"]
    keys = {key for number in numbers for key in _series(vm, number) if kind_of(key) == kind}
    return sum(_recorded(vm, since, numbers, key) for key in keys)


def series(
    vm: VmSnapshot, since: VmSnapshot | None, numbers: Iterable[int]
) -> dict[Key, dict[int, int]]:
    """What was recorded since another snapshot, the vCPUs added; series without a value are out."""
    found: dict[Key, dict[int, int]] = {}
    for number in numbers:
        before = _series(since, number)
        for key, counts in _series(vm, number).items():
            merge(found.setdefault(key, {}), _new(counts, before.get(key)))
    return {key: counts for key, counts in found.items() if counts}


def by_kind(recorded: Mapping[Key, Buckets]) -> dict[str, dict[int, int]]:
    """Series added up by what they are of (KINDS); all of KINDS are there."""
    found: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
    for key, counts in recorded.items():
        kind = kind_of(key)
        if kind:
            merge(found[kind], counts)
    return found


def merge(into: dict[int, int], counts: Buckets) -> None:
    """Add counts, bucket by bucket."""
    if not into:
        into.update(counts)
        return
    before = map(into.get, counts, repeat(0))
    into.update(zip(counts, map(add, before, counts.values()), strict=True))


def kind_of(key: Key) -> str:
    """What a series is of (KINDS), or nothing."""
    if key == HANDLER_KEY:
        return HANDLER
    return _KIND_OF.get(key.path, "") if key.reason in _REGISTERS else ""


def _new(counts: Buckets, before: Buckets | None) -> Buckets:
    if not before:
        return counts
    new = map(sub, counts.values(), map(before.get, counts, repeat(0)))
    return {bucket: number for bucket, number in zip(counts, new, strict=True) if number > 0}


def _series(vm: VmSnapshot | None, number: int) -> Mapping[Key, Buckets]:
    guest = vm.vcpus[number].guest if vm is not None else None
    return guest.series if guest is not None else {}


def _recorded(vm: VmSnapshot, since: VmSnapshot | None, numbers: Sequence[int], key: Key) -> int:
    """Values of a series since another snapshot."""
    total = 0
    for number in numbers:
        total += max(_number(vm, number, key) - _number(since, number, key), 0)
    return total


def _number(vm: VmSnapshot | None, number: int, key: Key) -> int:
    guest = vm.vcpus[number].guest if vm is not None else None
    return guest.counts.get(key, 0) if guest is not None else 0
