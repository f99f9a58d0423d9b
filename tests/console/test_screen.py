"""The picture, at the sizes that terminals have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pvpmu.console.chart import ASCII, BLOCKS
from pvpmu.console.keys import View, press
from pvpmu.console.model import Model
from pvpmu.console.screen import picture
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import bucket_of
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, Key, State, Status
from pvpmu.shared.registers import REGISTERS

if TYPE_CHECKING:
    from rich.text import Text

SIZES = [(80, 24), (200, 50), (60, 15), (100, 30), (20, 6), (1, 1)]
CTRL = Key(ExitReason.MSR_WRITE, 0x38F, AccessPath.COMMIT)
NMI = Key(ExitReason.EXCEPTION_NMI, 0, AccessPath.EXIT)
FAST, SLOW = bucket_of(180), bucket_of(9000)


def busy(new_vm: Callable[..., Any], name: str = "vm0", design: str = "page", **more: Any) -> Any:
    """Four vCPUs that access every register there is."""
    pages = {
        Key(ExitReason.MSR_READ, register.address, AccessPath.PAGE): {FAST: 1000 + number}
        for number, register in enumerate(REGISTERS)
    }
    series = {**pages, CTRL: {SLOW: 2000}, HANDLER_KEY: {bucket_of(87_000): 300}}
    exits = {CTRL: 2000, NMI: 1_234_567}
    own = {"exits": [exits] * 4, "series": [series] * 4, "pmis": [{"delivered": 300}] * 4}
    return new_vm(name, design, **{**own, **more})


def model_of(*vms: Any) -> Model:
    model = Model()
    model.update(1.0, vms)
    model.update(3.0, vms)
    return model


def lines_of(text: Text) -> list[str]:
    return text.plain.split("\n")


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("several", [1, 3, 13])
def test_the_picture_fits_any_terminal(new_vm: Any, width: int, height: int, several: int) -> None:
    vms = [busy(new_vm, f"vm{number}", f"design-{number}") for number in range(several)]
    for view in (View(0.5), View(0.5, help=True), View(0.5, vcpu=2), View(0.5, pattern="CTR")):
        lines = lines_of(picture(model_of(*vms), view, width, height, BLOCKS))
        assert len(lines) == height
        assert max(map(len, lines)) <= width


def test_80_by_24_has_everything_that_the_view_is_for(new_vm: Any) -> None:
    model = model_of(busy(new_vm, spurious=7))
    lines = lines_of(picture(model, View(0.5), 80, 24, BLOCKS))
    assert lines[0].split("every") == [
        "pvpmu top - vm0, design page, guest 4711".ljust(69),
        " 0.5 s",
    ]
    assert lines[1].split()[:5] == ["vCPU", "state", "gen", "PMIs/s", "exits/s"]
    assert [line.split()[0] for line in lines[2:7]] == ["0", "1", "2", "3", "all"]
    assert lines[2].split()[1] == "RUNNING"
    latencies = {line.split("  ")[0]: line for line in lines[8:11]}
    assert set(latencies) == {"page", "exit", "PMI handler"}
    assert "180ns" in latencies["page"]
    assert "9.02us" in latencies["exit"]
    registers = lines[11].split()
    assert registers[:6] == ["register", "addr", "op", "path", "total", "%"]
    assert registers[6:] == ["per", "s", "p50", "p99", "p99.9", "max"]
    assert lines[12].split()[:5] == ["GLOBAL_CTRL", "38f", "W", "commit", "8,000"]
    assert "more: f filters" in lines[-4]
    assert lines[-3].split()[:3] == ["total", "exits", "avoided"]
    assert "8.00us" in lines[-2]
    assert lines[-1].startswith("q quit")


def test_a_wide_terminal_has_full_names_every_reason_and_tall_bars(new_vm: Any) -> None:
    hlt = Key(ExitReason.HLT, 0, AccessPath.EXIT)
    text = picture(
        model_of(busy(new_vm, exits=[{CTRL: 1, hlt: 5}] * 4)), View(0.5), 200, 50, BLOCKS
    )
    assert "MSR_CORE_PERF_GLOBAL_CTRL" in text.plain
    assert "HLT/s" in text.plain
    assert "bare round trip" in text.plain
    assert "exits/s" in text.plain
    lines = lines_of(text)
    page = next(number for number, line in enumerate(lines) if line.startswith("page "))
    assert "█" in lines[page - 2]


def test_designs_stand_side_by_side_on_one_axis(new_vm: Any) -> None:
    vms = [busy(new_vm, "a", "trap", series=[{CTRL: {SLOW: 5}, HANDLER_KEY: {SLOW: 2}}] * 4)]
    vms.append(busy(new_vm, "b", "page"))
    lines = lines_of(picture(model_of(*vms), View(0.5), 80, 24, BLOCKS))
    first = next(number for number, line in enumerate(lines) if line.startswith("latency"))
    assert [line.split("  ")[0] for line in lines[first + 1 : first + 6]] == [
        "page page", "trap exit", "page exit", "trap PMI handler", "page PMI handler",
    ]  # fmt: skip


def test_without_latencies_rates_and_a_hint_take_their_place(new_vm: Any) -> None:
    text = picture(model_of(new_vm(exits=[{CTRL: 5}])), View(0.5), 80, 24, BLOCKS).plain
    assert "with --live" in text
    assert "exits/s" in text
    recording = picture(model_of(new_vm(series=[{}])), View(0.5), 80, 24, BLOCKS).plain
    assert "with --live" not in recording


def test_a_host_that_asks_for_latencies_needs_no_hint_while_it_waits(new_vm: Any) -> None:
    waiting = replace(new_vm(status=Status.WAITING), wants=True)
    assert "with --live" not in picture(model_of(waiting), View(0.5), 80, 24, BLOCKS).plain


def test_the_end_of_a_host_is_said_and_its_numbers_stay(new_vm: Any) -> None:
    model = model_of(busy(new_vm, status=Status.LOST, lives=False))
    text = picture(model, View(0.5), 80, 24, BLOCKS).plain
    assert "host ended: peer lost; the last numbers stay" in text
    assert "peer lost" in text.split("\n")[2]
    assert "8,000" in text


def test_values_that_found_no_room_are_told_of(new_vm: Any) -> None:
    text = picture(model_of(busy(new_vm, dropped=5)), View(0.5), 80, 24, BLOCKS).plain
    assert "20 values not recorded: no room" in text


def test_a_question_a_note_and_a_pause_are_seen(new_vm: Any) -> None:
    model = model_of(busy(new_vm))
    asked = press(View(0.5), "f", 4).view
    assert lines_of(picture(model, asked, 80, 24, BLOCKS))[-1].startswith("filter registers")
    assert lines_of(picture(model, View(0.5, note="so"), 80, 24, BLOCKS))[-1] == "so"
    assert "PAUSED" in lines_of(picture(model, View(0.5, paused=True), 80, 24, BLOCKS))[0]
    assert "vCPU 2" in lines_of(picture(model, View(0.5, vcpu=2), 80, 24, BLOCKS))[0]


def test_the_help_names_every_key_and_path_and_fits_80_by_24(new_vm: Any) -> None:
    text = picture(model_of(busy(new_vm)), View(0.5, help=True), 80, 24, BLOCKS).plain
    for word in ("quit", "reset", "interval", "filter", "order", "vCPU", "pause", "commit"):
        assert word in text
    assert "~" not in text
    assert "docs/live.md" in text


def test_a_terminal_without_block_letters_gets_ascii(new_vm: Any) -> None:
    for size in SIZES:
        assert picture(model_of(busy(new_vm)), View(0.5), *size, ASCII).plain.isascii()


def test_the_filter_and_the_order_rule_the_registers(new_vm: Any) -> None:
    model = model_of(busy(new_vm))
    view = View(0.5, pattern="GLOBAL", sort="name")
    lines = lines_of(picture(model, view, 80, 24, BLOCKS))
    names = [line.split()[0] for line in lines[12:18] if line]
    assert names == ["GLOBAL_CTRL", "GLOBAL_CTRL", "GLOBAL_OVF_CTRL", "GLOBAL_STATUS"]
    assert lines[-1].startswith("/GLOBAL/")
    for sort in ("total", "rate", "p50", "p99", "max", "address"):
        shown = lines_of(picture(model, View(0.5, sort=sort), 80, 24, BLOCKS))
        first = {"address": "PERFCTR0", "rate": "APIC_LVTPC"}.get(sort, "GLOBAL_CTRL")
        assert shown[12].split()[0] == first


def test_a_vm_that_waits_for_its_guest_has_a_picture(new_vm: Any) -> None:
    vm = new_vm(status=Status.WAITING, state=State.ABSENT)
    assert "waiting for a guest" in picture(model_of(vm), View(0.5), 80, 24, BLOCKS).plain
