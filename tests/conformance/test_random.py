"""The random layer: no difference, and every difference that there is gets found and replayed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pvpmu.conformance import fuzz, oracle, race, replay
from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.lockstep import compare, expected_trace
from pvpmu.conformance.oracle import EVENTS, Oracle, Seen
from pvpmu.conformance.program import GUARD, OF_PAGE, UNSEEN, Author, Player, Program
from pvpmu.conformance.shrink import shrink
from pvpmu.conformance.vector import PATHS, PROFILES, parse_vectors
from pvpmu.conformance.verdict import Verdict
from pvpmu.host import vpmu as host_vpmu
from pvpmu.host.pmi import PmiDelivery
from pvpmu.host.pvpage import HostPage
from pvpmu.shared import page
from pvpmu.shared.snapshot import read_words

SEED = 20261124
OPERATIONS = 100_000


def test_dif_01_random_programs_show_no_difference() -> None:
    print(f"seed {SEED}")
    outcome = fuzz.run(InlineTarget(), operations=OPERATIONS, seed=SEED)
    assert outcome.found is None, f"seed {outcome.found.seed}: {outcome.found.difference}"
    assert outcome.operations >= OPERATIONS


@pytest.mark.parametrize("profile", PROFILES)
def test_programs_do_what_is_worth_doing(profile: str) -> None:
    """Else the layer would find nothing: PMIs, nested ones, faults, and values that are not 0."""
    print(f"seed {SEED}")
    programs = [Author(Random(SEED + n), profile, fuzz.LENGTH).write() for n in range(100)]
    traces = [expected_trace(program) for program in programs]
    steps = [step for trace in traces for step in trace]
    assert sum(name == "NMI" for _, name, _ in steps) > 100
    assert sum(seen == oracle.FAULT for _, _, seen in steps) > 300
    assert sum(seen == oracle.REFUSED for _, _, seen in steps) > 5
    assert sum(bool(seen[0]) for _, name, seen in steps if name == "rd") > 1000
    assert {name for _, name, _ in steps} >= {"migrate", "filter", "reset", "host_set", "iflag"}
    assert sum(op[0] == "move" for program in programs for op in program.ops) > 20
    assert sum(map(_vectors_taken, programs)) > 10


def _vectors_taken(program: Program) -> int:
    """How often LVTPC's vector interrupts, rather than an NMI."""
    machine, taken = Oracle(program.config), 0

    def do(name: str, fields: Any, on_nmi: Callable[[], None]) -> Seen:
        def handler() -> None:
            nonlocal taken
            taken += machine.in_service and not machine.blocked
            on_nmi()

        return machine.op("restore" if name == "migrate" else name, fields, handler)

    Player(program, do).play()
    return taken


def test_a_seed_is_a_program() -> None:
    first, again = (Author(Random(SEED), "kvm-6.12", 30).write() for _ in range(2))
    assert first == again
    assert first != Author(Random(SEED + 1), "kvm-6.12", 30).write()


MISTAKES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "no import": (HostPage, "import_words", lambda _: True),
    "no acknowledgement": (HostPage, "load_status", lambda _: None),
    "no sign extension": (host_vpmu, "sign_extended", lambda value: value),
    "no PMI": (PmiDelivery, "raise_pmi", lambda *_, **__: None),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_dif_08_a_shrunk_difference_fails_again(
    name: str, monkeypatch: pytest.MonkeyPatch, inline_runner: Any
) -> None:
    owner, attribute, wrong = MISTAKES[name]
    target = InlineTarget()
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, wrong)
        found = fuzz.run(target, operations=50_000, seed=SEED).found
        assert found is not None
        again = fuzz.run(target, operations=1, seed=found.seed, profile=found.profile).found
        assert again is not None
        assert again.program == found.program
        smallest = found.program
        assert len(smallest.ops) + sum(map(len, smallest.handlers)) <= 16
        for position in range(len(smallest.ops)):
            assert compare(smallest.without({(-1, position)}), target) is None
        text = replay.vector_file(smallest, found.difference)
        (vector,) = parse_vectors(text, "shrunk").vectors
        failed = [result.verdict for result in inline_runner().run_vector(vector)]
        assert Verdict.FAIL in failed
    sound = [result.verdict for result in inline_runner().run_vector(vector)]
    assert sound == [Verdict.PASS] * 3


def test_a_target_that_raises_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Author(Random(SEED), "kvm-5.14", 20).write()

    def breaks(_: HostPage) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(HostPage, "publish", breaks)
    difference = compare(program, InlineTarget())
    assert difference is not None
    assert str(difference).endswith("expected no error, actual ValueError: broken")


def test_shrinking_keeps_what_matters_and_nothing_else() -> None:
    program = Author(Random(SEED), "kvm-5.14", 40).write()

    def fails(candidate: Program) -> bool:
        return sum(name == "wr" for name, _ in candidate.ops) >= 2

    assert [name for name, _ in shrink(program, fails).ops] == ["wr", "wr"]


def test_the_command_prints_seed_and_replay_and_writes_a_vector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from pvpmu.cli import run

    assert run(["conform", "random", "--ops", "500", "--seed", "5"]) == 0
    assert capsys.readouterr().out.startswith("seed 5\n")
    with monkeypatch.context() as patch:
        patch.setattr(host_vpmu, "sign_extended", lambda value: value)
        out = tmp_path / "found.json"
        words = ["conform", "random", "--seed", "5", "--profile", "kvm-6.12", "--out", str(out)]
        assert run(words) == 1
        replayed = capsys.readouterr().err.split("replay: ")[1].splitlines()[0]
        assert run(shlex.split(replayed)[1:]) == 1
        assert run(["conform", "run", "RND", "--extra", str(tmp_path)]) == 1
    assert run(["conform", "run", "RND", "--extra", str(tmp_path)]) == 0


# The page under a guest that keeps to no rule, and under a reader on another CPU ----------------


def _config(**changes: Any) -> dict[str, Any]:
    program = Author(Random(SEED), "kvm-5.14", 1).program
    shape = {"gp": 4, "fixed": 3, "gp_width": 48, "fixed_width": 48, "version": 2}
    return program.config | shape | {"freeze": True, "pdcm": True, "full_width": True} | changes


def _ask(target: InlineTarget, name: str, vcpu: int = 0, **fields: Any) -> int | None:
    return target.op(name, vcpu, fields, lambda _: None).value


@pytest.mark.parametrize("seed", range(20))
def test_pvp_34_random_bytes_in_the_page_harm_that_vcpu_alone(seed: int) -> None:
    random = Random(SEED + seed)
    print(f"seed {SEED + seed}")
    target = InlineTarget()
    target.reset(_config(vcpus=2, pages=4))
    for vcpu in (0, 1):
        _ask(target, "register", vcpu)
    _ask(target, "wr", 1, msr=oracle.EVTSEL, value=0x5300C4)
    counts = dict.fromkeys(EVENTS, 0) | {"branches": 3, "cpl": 0, "emulated": False}
    for turn in range(1, 60):
        for _ in range(random.randrange(1, 20)):
            word = random.randrange(512)
            _ask(target, "page.write", word=word, value=random.getrandbits(random.choice((9, 64))))
        name, fields = random.choice(
            (
                ("sync", {}),
                ("run", counts),
                ("host_get", {"msr": oracle.FULL}),
                ("wr", {"msr": oracle.GLOBAL_CTRL, "value": random.choice((0, 0xF))}),
                ("wr", {"msr": oracle.FIXED, "value": 5}),
                ("nmi", {}),
            )
        )
        target.op(name, 0, fields, lambda _: None)
        value = _ask(target, "host_get", msr=oracle.LEGACY)
        assert value is not None
        assert value < 1 << 48
        _ask(target, "run", 1, **counts)
        assert _ask(target, "rd", 1, msr=oracle.LEGACY) == 3 * turn
    assert _ask(target, "register") == 1
    _ask(target, "wr", msr=oracle.GLOBAL_CTRL, value=0)
    _ask(target, "wr", msr=oracle.LEGACY, value=7)
    assert _ask(target, "host_get", msr=oracle.LEGACY) == 7


class _Watched(race.RacingWords):
    """After each store of the host a reader on another CPU takes a snapshot."""

    WORDS = (page.LIVE, page.RAISED, page.GLOBAL_CTRL, page.PMC, page.PMC + 1, page.FIXED_CTR)
    seen: ClassVar[list[tuple[int, bool]]] = []

    def __setitem__(self, where: int, value: int) -> None:
        super().__setitem__(where, value)
        values = read_words(self.words, self.WORDS, self.words[page.GENERATION], attempts=1)
        self.seen.append((where, values is not None))


def test_pvp_24_a_reader_on_another_cpu_sees_no_half_of_a_publication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(race, "RacingWords", _Watched)
    monkeypatch.setattr(_Watched, "seen", [])
    print(f"seed {SEED}")
    for number in range(20):
        program = Author(Random(SEED + number), "kvm-5.14", fuzz.LENGTH).write()
        program.config["race"] = True
        assert compare(program, InlineTarget(), PATHS[2:]) is None
    believed_after = [where for where, believed in _Watched.seen if believed]
    assert len(_Watched.seen) > 2000
    assert len(believed_after) > 200
    assert set(believed_after) == {page.SEQ}, "the last store of a publication, and no other"


# The same in lock-step, by hypothesis -------------------------------------------------------------

ADDRESSES = st.sampled_from(
    [
        *(first + i for first in (0xC1, 0x4C1, 0x186) for i in range(3)), 0x309, 0x30B, 0x30C,
        0x345, 0x38D, 0x38E, 0x38F, 0x390, 0x834,
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [0, 1, 3, 0xB, 0xBB, 0x400, 0x1_0400, 0x5300C0, 0x5300C4, 0x4300C0, 0x7_0000_0003,
         0xFFFF_FFFF_FFFB, 0xFFFF_FFFD, 1 << 48, 1 << 63]
    ),
    st.integers(0, (1 << 64) - 1),
)  # fmt: skip


@settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck))
class LockStep(RuleBasedStateMachine):
    """Each operation on all machines before the next."""

    machines: dict[str, Callable[..., Seen]]

    @initialize(profile=st.sampled_from(PROFILES))
    def start(self, profile: str) -> None:
        config = _config(gp=2, profile=profile)
        book = Oracle(config)
        self.nmis: dict[str, list[Seen]] = {}
        self.machines = {"oracle": book.op}
        for path in PATHS:
            target = InlineTarget()
            target.reset(config | {"freeze": path == "page+freeze"})
            if path != "trap":
                _ask(target, "register")
            self.machines[path] = self._asking(target, path)
        self.do("wr", msr=oracle.LVTPC, value=0x400)

    @staticmethod
    def _asking(target: InlineTarget, path: str) -> Callable[..., Seen]:
        def do(name: str, fields: Any, on_nmi: Callable[[], None]) -> Seen:
            if name in OF_PAGE and path == "trap":
                return oracle.DONE
            if name == "restore":
                target.op("save", 0, {"name": "moved"}, lambda _: on_nmi())
            reply = target.op(name, 0, fields, lambda _: on_nmi())
            if name in UNSEEN:
                return oracle.DONE
            return reply.value, reply.fault, reply.refused

        return do

    def do(self, name: str, /, **fields: Any) -> None:
        seen = {who: self._one(who, name, fields) for who in self.machines}
        for who in PATHS:
            assert seen[who] == seen["oracle"], f"{who}: {name} {fields}"

    def _one(self, who: str, name: str, fields: dict[str, Any]) -> list[Seen]:
        machine, heard = self.machines[who], []

        def handler() -> None:
            heard.append(machine(*GUARD, handler))
            heard.append(machine("rd", {"msr": oracle.STATUS}, handler))
            heard.append(machine("wr", {"msr": oracle.OVF_CTRL, "value": 3}, handler))
            if len(heard) < 60:
                value = {"msr": oracle.FULL, "value": 0xFFFF_FFFF_FFFE}
                heard.append(machine("wr", value, handler))
                heard.append(machine("wr", {"msr": oracle.LVTPC, "value": 0x400}, handler))
                on = {"msr": oracle.GLOBAL_CTRL, "value": 0x7_0000_0003}
                heard.append(machine("wr", on, handler))

        heard.append(machine(name, fields, handler))
        return heard

    @rule(address=ADDRESSES, value=VALUES)
    def write(self, address: int, value: int) -> None:
        self.do("wr", msr=address, value=value)

    @rule(number=st.integers(0, 2), sure=st.sampled_from([0x5300C0, 0x5300C4]))
    def select(self, number: int, sure: int) -> None:
        self.do("wr", msr=oracle.EVTSEL + number, value=sure)

    @rule(instructions=st.integers(0, 9), branches=st.integers(0, 9), cpl=st.sampled_from([0, 3]))
    def run(self, instructions: int, branches: int, cpl: int) -> None:
        counts = dict.fromkeys(EVENTS, 0) | {"instructions": instructions, "branches": branches}
        self.do("run", **counts, cpl=cpl, emulated=False)

    @rule()
    def interrupt(self) -> None:
        self.do("nmi")

    @rule(address=ADDRESSES, value=VALUES)
    def set_from_outside(self, address: int, value: int) -> None:
        if address != oracle.CAPS:
            self.do("host_set", msr=address, value=value)

    @rule(vector=st.sampled_from([0x20, 0x40, 0xFE]), flag=st.booleans())
    def interrupt_by_vector(self, vector: int, flag: bool) -> None:
        self.do("wr", msr=oracle.LVTPC, value=vector)
        self.do("iflag", value=flag)

    @rule(fresh=st.booleans())
    def migrate(self, fresh: bool) -> None:
        self.do("restore", name="moved", fresh=fresh)

    @rule(name=st.sampled_from(["register", "unregister", "sync", "move", "preempt"]))
    def do_what_a_guest_does_not_see(self, name: str) -> None:
        self.do(name, times=1)

    @invariant()
    def all_read_the_same(self) -> None:
        for address in (oracle.STATUS, oracle.GLOBAL_CTRL, oracle.LEGACY, oracle.FIXED):
            self.do("rd", msr=address)


TestLockStep = LockStep.TestCase
