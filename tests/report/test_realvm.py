"""The report's part on a real VM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvpmu.bench import realvm
from pvpmu.report import collect
from pvpmu.report.page import Items, Table, Text
from pvpmu.report.realvm import real_vm
from pvpmu.shared.errors import ResourceError

from ..bench.test_realvm import result_of  # noqa: TID252 (tests are no package)

if TYPE_CHECKING:
    import pytest


def test_without_a_real_vm_there_is_no_section_or_the_reason() -> None:
    assert real_vm({}) is None
    assert real_vm({"real_vm": None}) is None
    section = real_vm({"real_vm": "/dev/kvm: absent"})
    assert section is not None
    (said,) = section.blocks
    assert said == Text("None could be had where this was measured: /dev/kvm: absent.")


def test_the_section_has_the_bench_s_tables_ratios_and_environment() -> None:
    section = real_vm({"real_vm": {"model": result_of()}})
    assert section is not None
    text = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    assert "With the model's perf." in text
    assert "kvm_pvm: CPL 0 emulated" in text
    assert "All checks of the real VM's runs hold." in text
    tables = [block for block in section.blocks if isinstance(block, Table)]
    (exits,) = (table for table in tables if table.caption == "VM-exits to the loop")
    assert list(exits.rows[0]) == ["MSR exits per PMI", "8.00", "1.00"]
    items = [item for block in section.blocks if isinstance(block, Items) for item in block.items]
    assert any(item.startswith("handler trap / page: 8.00") for item in items)


def test_a_check_that_fails_is_said() -> None:
    result = result_of()
    result["checks"][0]["ok"] = False
    section = real_vm({"real_vm": {"model": result}})
    assert section is not None
    assert Items(["FAILED: no PMI lost"]) in section.blocks


def test_what_stands_in_the_way_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> realvm.RealMeasured:
        raise ResourceError("/dev/kvm: absent")

    monkeypatch.setattr(collect, "measure_real", refuse)
    assert collect.on_a_real_vm(["icx-2021"], "modelled", lambda *_: None) == "/dev/kvm: absent"
