"""The figure: made of the document's numbers, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cost.shelf import DEFAULT, models_named
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError
from pvpmu.trace import plot
from pvpmu.trace.analysis import analyse
from pvpmu.trace.document import document
from pvpmu.trace.reading import read_trace

pytest.importorskip("matplotlib", reason="needs the extra report")
MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def answer(source_of: Any, sample: Any) -> Callable[[str], dict[str, Any]]:
    designs = [design_named(name) for name in ("trap", "page")]

    def found(name: str) -> dict[str, Any]:
        source = source_of(sample(name))
        return document(
            source, analyse(read_trace(source), designs, designs[0]), models_named([DEFAULT])
        )

    return found


@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_a_figure_of_each_format(suffix: str, tmp_path: Path, answer: Any) -> None:
    path = tmp_path / f"figure{suffix}"
    plot.check(path)
    plot.draw(answer("mail_2021.txt"), path)
    assert path.read_bytes().startswith(MAGIC[suffix])


def test_the_figure_names_designs_operations_and_models(tmp_path: Path, answer: Any) -> None:
    path = tmp_path / "figure.svg"
    plot.draw(answer("mail_2021.txt"), path)
    text = path.read_text("utf-8")
    for word in ("trap", "page", "timer tick", "icx-2021-2p", "PMU exits that remain"):
        # Glyphs are drawn as paths, each with its text in a comment.
        assert f"<!-- {word} -->" in text


@pytest.mark.parametrize(
    "name", ["perf_kvm_stat_vmexit_synthetic.txt", "perf_script_synthetic.txt"]
)
def test_bounds_and_nothing_attributed_can_be_drawn(name: str, tmp_path: Path, answer: Any) -> None:
    path = tmp_path / "figure.png"
    plot.draw(answer(name), path)
    assert path.stat().st_size > 10_000


def test_other_formats_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot draw .xyz, expected one of .pdf, .png, .svg"):
        plot.check(tmp_path / "figure.xyz")
    with pytest.raises(UsageError, match="cannot draw a file without a suffix"):
        plot.check(tmp_path / "figure")


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pvpmu\[report\]"):
        plot.check(tmp_path / "figure.png")
