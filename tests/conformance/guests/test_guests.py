"""The kit as host of real guests: those of this project pass, broken ones fail by name."""

from __future__ import annotations

import subprocess
from typing import Any, NamedTuple

import pytest

from pvpmu.conformance.guests import runner
from pvpmu.conformance.guests.runner import GuestRunner
from pvpmu.conformance.verdict import Verdict
from pvpmu.shared import memory

from .conftest import Build, Play

pytestmark = pytest.mark.process

OWN_SESSIONS = (
    "FEA-9/page", "FEA-6/auto", "DSC-3/no-page", "PMI-11/foreign", "CMT-7/handler",
    "GEN-3/handler", "BND-7/encoding", "BND-11/exit",
)  # fmt: skip


@pytest.mark.rule("PMI-13", "CMT-7", "BND-10", "BND-11")
def test_the_c_guest_passes_every_case(play: Play, build: Build) -> None:
    results = play(build())
    assert {id_: r for id_, r in results.items() if r.verdict is not Verdict.PASS} == {
        "REG-10": results["REG-10"]
    }
    assert results["REG-10"].verdict is Verdict.SKIP


@pytest.mark.rule("PMI-13", "CMT-7", "BND-10", "BND-11")
def test_pvpmu_guest_passes(play: Play) -> None:
    results = play("", *OWN_SESSIONS)
    assert {id_: r for id_, r in results.items() if r.verdict is not Verdict.PASS} == {}


class Broken(NamedTuple):
    """``old`` is replaced by ``new``; ``case`` fails, and says ``actual``."""

    case: str
    old: str
    new: str
    actual: str


MADE = "    return header;\n"
ENABLE = "    pvpmu_drv_write(d, PVPMU_MSR_CORE_PERF_GLOBAL_CTRL, d->all);"
UNLINK = "    if (owned)\n        shm_unlink(mine);"
BROKEN = {
    "never looks whether its host lives": Broken(
        "BND-11/exit",
        "        if (recv(control, NULL, 0, MSG_DONTWAIT) >= 0 || errno != EAGAIN)",
        "        if (0)",
        "still running after 2 s",
    ),
    "leaves its memory's name when its host dies": Broken(
        "BND-11/handler",
        UNLINK,
        UNLINK.replace("owned", "owned && !host_gone"),
        "left in /dev/shm: pvpmu.",
    ),
    "leaves its memory's name at its end": Broken(
        "FEA-9/page",
        UNLINK,
        UNLINK.replace("owned", "owned && host_gone"),
        "left in /dev/shm: pvpmu.",
    ),
    "takes a refused COMMIT for one that was done": Broken(
        "CMT-7/program",
        "    if (fault && d->g->page && d->g->page->rejected) {",
        "    if ((fault = 0)) {",
        "still running after 2 s",
    ),
    "takes any version of Welcome": Broken(
        "BND-10/version",
        "if (field(\"version\", 'i').n != PVPMU_CONTROL_VERSION || ",
        "if (",
        "status 0",
    ),
    "reads signed integers of msgpack at a wrong width": Broken(
        "BND-7/encoding", '= "12481248', '= "12481247', "status 1, 1 lines"
    ),
    "lets others read its memory": Broken(
        "BND-3", "O_CLOEXEC | flags, 0600)", "O_CLOEXEC | flags, 0644)", "mode 0o644"
    ),
    "stores to turn words in RUNNING": Broken(
        "OWN-8", "    if (p->live) { /* RUNNING", "    if (0) { /* RUNNING", "0x0"
    ),
    "never stores pmi_ack": Broken(
        "PMI-8", "        p->pmi_ack = g->pmi_seen = seq;", "        g->pmi_seen = seq;", "0x0"
    ),
    "stores the value of a COMMIT": Broken(
        "CMT-2",
        ENABLE,
        "    d->g->page->global_ctrl = 1ull << 33 | 1;\n"
        + ENABLE.replace("d->all", "1ull << 33 | 1"),
        "0x200000001, was 0x7000000ff",
    ),
    "runs past overflows": Broken(
        "BND-17/missed",
        "            due |= n >= l->distance[i];\n"
        "            l->distance[i] = n < l->distance[i] ? l->distance[i] - n : 0;",
        "            l->distance[i] -= n; due |= l->distance[i] == -70000ull;",
        "70000 counts",
    ),
    "shrinks its memory": Broken(
        "FEA-9/page",
        MADE,
        "    if (ftruncate(shm_open(mine, O_RDWR, 0), 0)) errx(1, mine);\n" + MADE,
        "code 3",
    ),
}


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host or guest on this machine cleans up just before the kit looks at names."""
    look = runner._names_of

    def cleaned(vm: str) -> list[str]:
        memory.cleanup()
        return look(vm)

    monkeypatch.setattr(runner, "_names_of", cleaned)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_c_guest_fails_by_name(play: Play, build: Build, mistake: str) -> None:
    case, old, new, actual = BROKEN[mistake]
    result = play(build((old, new)), case, limit_s=2.0)[case]
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert actual in result.failure.actual


def test_a_name_left_behind_is_seen_also_when_the_guest_ends_before_the_report(
    play: Play, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kit's host is told to stop then, and removes what the guest left."""

    def only_the_end(_: object, guest: subprocess.Popen[bytes], __: object) -> tuple[Any, None]:
        return guest.wait(), None

    monkeypatch.setattr(GuestRunner, "_watch", only_the_end)
    case, old, new, actual = BROKEN["leaves its memory's name at its end"]
    result = play(build((old, new)), case)[case]
    assert result.failure is not None
    assert actual in result.failure.actual
