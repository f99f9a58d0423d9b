"""The model as data: one JSON document per update, or rows of CSV. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pvpmu.console.keys import View
from pvpmu.console.model import Latency, Model, RegisterRow, VcpuRow
from pvpmu.console.tables import arranged

SCHEMA = "pvpmu-top/1"
CSV_COLUMNS = (
    "time", "vm", "design", "vcpu", "kind", "name", "address", "op", "path", "total", "rate",
    "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns",
)  # fmt: skip
"""``kind``: state, exit, pmi, avoided, lost (of a vCPU or all), register, latency."""


def document(model: Model, time: float, view: View) -> dict[str, Any]:
    """One update. ``time``: seconds since 1970; registers and latencies as in the view."""
    registers = arranged(model.register_rows(view.vcpu), view)
    latencies = model.latency_rows(view.vcpu)
    totals, vcpus = model.totals(), model.vcpu_rows()
    return {
        "schema": SCHEMA,
        "time": round(time, 3),
        "interval_s": view.interval_s,
        "vms": [
            {
                "name": vm.name,
                "design": vm.design,
                "condition": vm.condition,
                "ended": vm.ended,
                "records_latencies": vm.records,
                **_vcpu(total),
                "vcpus": [
                    {"vcpu": row.vcpu, "state": row.state, "generation": row.generation}
                    | _vcpu(row)
                    for row in vcpus
                    if row.vm == vm.name and row.vcpu is not None
                ],
                "registers": [_register(row) for row in registers if row.vm == vm.name],
                "latency": [
                    {
                        "what": row.kind,
                        "count": row.latency.count,
                        **_quantiles(row.latency),
                        "buckets": [list(bucket) for bucket in row.buckets],
                    }
                    for row in latencies
                    if row.vm == vm.name
                ],
            }
            for vm, total in zip(model.vms, totals, strict=True)
        ],
    }


def csv_rows(model: Model, time: float, view: View) -> Iterator[dict[str, object]]:
    """One update as rows of CSV_COLUMNS; registers and latencies as in the view."""
    for row in [*(row for row in model.vcpu_rows() if row.vcpu is not None), *model.totals()]:
        own = {"time": f"{time:.3f}", "vm": row.vm, "design": row.design}
        own["vcpu"] = "all" if row.vcpu is None else str(row.vcpu)
        if row.vcpu is not None:
            yield {**own, "kind": "state", "name": row.state}
        for reason, (total, rate) in sorted(row.exits.items()):
            yield {**own, "kind": "exit", "name": reason, "total": total, "rate": _rate(rate)}
        for name, total in row.pmis.items():
            yield {**own, "kind": "pmi", "name": name, "total": total}
        if row.avoided is not None and row.avoided_rate is not None:
            rate = _rate(row.avoided_rate)
            yield {**own, "kind": "avoided", "total": row.avoided, "rate": rate}
            yield {**own, "kind": "lost", "name": "not recorded", "total": row.dropped}
            yield {**own, "kind": "lost", "name": "refused", "total": row.refused}
    chosen = "all" if view.vcpu is None else str(view.vcpu)
    for register in arranged(model.register_rows(view.vcpu), view):
        yield {
            "time": f"{time:.3f}",
            "vm": register.vm,
            "design": register.design,
            "vcpu": chosen,
            "kind": "register",
            "name": register.name,
            "address": f"{register.address:#x}",
            "op": register.op,
            "path": register.path,
            "total": register.total,
            "rate": _rate(register.rate),
            **_quantiles(register.latency),
        }
    for latency in model.latency_rows(view.vcpu):
        yield {
            "time": f"{time:.3f}",
            "vm": latency.vm,
            "design": latency.design,
            "vcpu": chosen,
            "kind": "latency",
            "name": latency.kind,
            "total": latency.latency.count,
            **_quantiles(latency.latency),
        }


def _vcpu(row: VcpuRow) -> dict[str, Any]:
    return {
        "pmis": dict(row.pmis) | ({"spurious": row.spurious} if row.spurious is not None else {}),
        "exits": {
            reason: {"total": total, "rate": _rate(rate)}
            for reason, (total, rate) in sorted(row.exits.items())
        },
        "avoided": row.avoided,
        "rates": {
            "pmis": _rate(row.pmi_rate),
            "exits": _rate(row.exit_rate),
            "avoided": None if row.avoided_rate is None else _rate(row.avoided_rate),
        },
        "floor_ns": row.floor_ns,
        "record_ns": row.record_ns,
        "not_recorded": row.dropped,
        "refused": row.refused,
    }


def _register(row: RegisterRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "address": row.address,
        "rdpmc": row.rdpmc,
        "op": row.op,
        "path": row.path,
        "total": row.total,
        "rate": _rate(row.rate),
        "latency": None if row.latency is None else _quantiles(row.latency),
    }


def _quantiles(latency: Latency | None) -> dict[str, int]:
    if latency is None:
        return {}
    found = asdict(latency)
    names = ("p50", "p90", "p99", "p999")
    return {f"{name}_ns": found[name] for name in names} | {"max_ns": latency.largest}


def _rate(rate: float) -> float:
    return round(rate, 1)
