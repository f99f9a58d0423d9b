"""Histograms for other tools: HdrHistogram's percentile text (.hgrm), and its V2 log."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pvpmu.console.model import Recorded
from pvpmu.console.snapshot import Buckets
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import ExitReason, reason_name
from pvpmu.shared.histogram import SUB_BITS, TOP_BITS, highest_of, value_of
from pvpmu.shared.liveview import HANDLER_KEY, Key
from pvpmu.shared.registers import BY_ADDRESS

_TICKS_PER_HALF = 5
_DIGITS = 2
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def histograms(vm: Recorded) -> Iterator[tuple[str, Buckets]]:
    """Name and counts of each series of a VM."""
    for key, counts in sorted(vm.series.items()):
        yield _UNSAFE.sub("_", f"{vm.vm}.{vm.design}.{series_name(key)}"), counts


def series_name(key: Key) -> str:
    """What a series is of, as part of a file's name."""
    if key == HANDLER_KEY:
        return "PMI_handler"
    path = key.path.name.lower()
    if key.reason == ExitReason.RDPMC:
        return f"RDPMC_{key.address & ~msr.RDPMC_FAST:#x}.{path}"
    if key.reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE):
        register = BY_ADDRESS.get(key.address)
        name = register.name if register is not None else f"MSR_{key.address:#x}"
        return f"{name}.{'write' if key.reason == ExitReason.MSR_WRITE else 'read'}.{path}"
    return f"{reason_name(key.reason)}.{path}"


def hgrm(counts: Buckets) -> str:
    """Percentiles of a histogram, ns, as HdrHistogram prints them: five lines per half distance.

    Values are the largest of their bucket, mean and deviation those of the buckets' middles.
    """
    total = sum(counts.values())
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    seen = 0
    levels = _levels()
    rest, whole = next(levels)
    for bucket in sorted(counts):
        seen += counts[bucket]
        # Whole numbers: above 2**53 the share of all but one value is 1.0, and no level reaches it.
        while rest * total >= whole * (total - seen):
            level, inverse = 1 - rest / whole, whole / rest
            lines.append(f"{highest_of(bucket):12.2f} {level:14.12f} {seen:10d} {inverse:14.2f}")
            if seen == total:
                break
            rest, whole = next(levels)
    top = highest_of(max(counts)) if counts else 0
    lines.append(f"{top:12.2f} {1.0:14.12f} {total:10d}")
    mean, deviation = _moments(counts, total)
    lines += [
        f"#[Mean    = {mean:12.2f}, StdDeviation   = {deviation:12.2f}]",
        f"#[Max     = {top:12.2f}, TotalCount     = {total:12.2f}]",
        f"#[Buckets = {TOP_BITS - SUB_BITS:12d}, SubBuckets     = {2 << SUB_BITS:12d}]",
    ]
    return "\n".join(lines) + "\n"


def _levels() -> Iterator[tuple[int, int]]:
    """What each level leaves above it, as a fraction: five levels, then half of it is left."""
    whole = 2 * _TICKS_PER_HALF
    while True:
        for rest in range(2 * _TICKS_PER_HALF, _TICKS_PER_HALF, -1):
            yield rest, whole
        whole *= 2


def _moments(counts: Buckets, total: int) -> tuple[float, float]:
    if not total:
        return 0.0, 0.0
    mean = sum(value_of(bucket) * count for bucket, count in counts.items()) / total
    square = sum((value_of(bucket) - mean) ** 2 * count for bucket, count in counts.items())
    return mean, math.sqrt(square / total)


def write_hgrm(folder: Path, vms: Iterable[Recorded]) -> list[Path]:
    """One .hgrm file for each series; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for vm in vms:
        for name, counts in histograms(vm):
            path = folder / f"{name}.hgrm"
            path.write_text(hgrm(counts), "utf-8")
            written.append(path)
    return written


def needs_hdrhistogram() -> None:
    """Raise :class:`UsageError` if a log cannot be written here."""
    if importlib.util.find_spec("hdrh") is None:
        raise UsageError("--hlog needs the library hdrhistogram: pip install 'pvpmu[hdr]'")


def encoded(counts: Buckets) -> str:
    """A histogram in HdrHistogram's V2 encoding, compressed, base64."""
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415

    made = HdrHistogram(1, (1 << TOP_BITS) - 1, _DIGITS)
    for bucket, count in counts.items():
        made.record_value(value_of(bucket), count)
    payload: bytes = made.encode()
    return payload.decode("ascii")


def hlog(vms: Sequence[Recorded], epoch_s: float) -> str:
    """An HdrHistogram log (format 1.3): a tagged line for each series, values in ns.

    Each line's interval is that in which its values were recorded. ``epoch_s``: what to add to the
    seconds of ``vms`` for seconds since 1970.
    """
    began = min(vm.begun for vm in vms)
    lines = [
        "#[Histogram log format version 1.3]",
        "#[pvpmu top: latencies, ns]",
        f"#[StartTime: {began + epoch_s:.3f} (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for vm in vms:
        for name, counts in histograms(vm):
            largest = highest_of(max(counts))
            times = f"{vm.begun - began:.3f},{vm.ended - vm.begun:.3f},{largest:.3f}"
            lines.append(f"Tag={name},{times},{encoded(counts)}")
    return "\n".join(lines) + "\n"
