"""Run the guest under test once for each session, and judge the cases."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO

from pvpmu import __version__
from pvpmu.conformance.guests import judge
from pvpmu.conformance.guests.cases import RuleCase, Session, sessions_of
from pvpmu.conformance.guests.judge import Outcome
from pvpmu.conformance.guests.wire import LISTENING, STOP, Job, Report
from pvpmu.conformance.target import Hello
from pvpmu.conformance.verdict import CaseResult, RunResult, Verdict, tally
from pvpmu.shared import memory
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.shared.workers import Worker, python_command, python_environment, workers

PATH = "guest"
"""What the report has for a path."""
_HOST = "pvpmu.conformance.guests.host:serve_sessions"
_SHM = Path("/dev/shm")  # noqa: S108 (where shm_open(3) keeps names)
_GRACE_S = 2.0
_serial = count()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """What to run.

    ``command`` has ``{name}`` for the VM's name; empty: ``pvpmu-guest``. ``limit_s``: for one
    session.

    ``until_broken``: a session ends as soon as a rule is broken.
    """

    command: str
    vcpus: int = 1
    shape: PmuCpuid = PmuCpuid()  # noqa: RUF009 (frozen)
    limit_s: float = 10.0
    strict: bool = False
    until_broken: bool = False
    ours: bool = False


class KitHost:
    """The process that plays the host: started when it is needed, and anew when it has ended."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._worker: Worker | None = None

    def worker(self) -> Worker:
        """It, ready for a job."""
        if self._worker is None:
            self._worker = self._stack.enter_context(workers("kit", _HOST, [None]))[0]
        return self._worker

    def close(self) -> None:
        """End it, and remove what it left."""
        self._worker = None
        self._stack.close()
        memory.cleanup()


class GuestRunner:
    """Holds sessions of the guest that a command starts with ``host``, which others may use too.

    Raises :class:`UsageError` for a command that cannot be started.
    """

    def __init__(self, config: GuestConfig, host: KitHost) -> None:
        self._words = _command(config.command)
        self._ours = config.ours or not config.command
        self._config = config
        self._host = host

    def run(
        self,
        cases: Sequence[Session | RuleCase],
        on_session: Callable[[Session], None] = lambda _: None,
    ) -> RunResult:
        """Hold the sessions that the cases need; ``on_session`` hears of each before it begins.

        Raises :class:`UsageError` if the command cannot be started.
        """
        outcomes: dict[Session, Outcome] = {}
        for session in sessions_of(cases):
            on_session(session)
            outcomes[session] = self.hold(session)
            if outcomes[session].cut:
                break
        results = tuple(self._result(case, outcomes) for case in cases)
        return RunResult(
            pvpmu=__version__,
            target=Hello(
                name=Path(self._words[0]).name if self._config.command else "pvpmu-guest",
                version="",
                features=(),
                profiles=(),
            ),
            path=PATH,
            strict=self._config.strict,
            tally=tally(results),
            results=results,
        )

    # One session ------------------------------------------------------------------------------

    def hold(self, session: Session) -> Outcome:
        """Hold one session."""
        config = self._config
        name = f"guest-{os.getpid()}-{next(_serial)}"
        host = self._host.worker()
        host.send(
            Job(
                name=name,
                session=session,
                vcpus=config.vcpus,
                shape=config.shape,
                until_broken=config.until_broken,
            )
        )
        if host.receive() != LISTENING:
            raise PeerError("the kit's host does not listen")
        with tempfile.TemporaryFile() as errors:
            with memory.watched(name):
                with self._guest(name, errors) as guest:
                    status, report = self._watch(guest, host)
                # Before STOP, at which the kit's host removes them.
                names = _names_of(name)
            if report is None:
                report = self._stop(host)
                stopped = True
            else:
                stopped = False
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        killed = report is not None and report.died
        # A host that lives removes its own.
        left = (
            names
            if killed
            else [each for each in names if each == memory.segment_name(name, "guest")]
        )
        if killed or report is None:
            self._host.close()
        elif not stopped:
            host.send(STOP)
        memory.cleanup()
        cut = config.until_broken and report is not None and bool(report.broken)
        return Outcome(status=status, cut=cut, errors=said, left=tuple(left), report=report)

    @contextlib.contextmanager
    def _guest(self, name: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """The guest, in a process group of its own, of which nothing outlives the session."""
        words = [word.replace("{name}", name) for word in self._words]
        try:
            process = subprocess.Popen(  # noqa: S603 (what the user asked for)
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env=python_environment() if self._ours else None,
            )
        except OSError as error:
            raise UsageError(f"{words[0]}: cannot be started: {error.strerror}") from None
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _watch(
        self, guest: subprocess.Popen[bytes], host: Worker
    ) -> tuple[int | None, Report | None]:
        """Wait for the guest's end; its exit status, and what the host has reported by then."""
        deadline = time.monotonic() + self._config.limit_s
        report: Report | None = None
        end = os.pidfd_open(guest.pid)
        try:
            ready: list[object] = [host.pipe]
            while ready and end not in ready:
                left = max(deadline - time.monotonic(), 0)
                ready = [*wait([end] if report else [end, host.pipe], left)]
                if host.pipe in ready:
                    report = self._received(host)
                    if report is None or (self._config.until_broken and report.broken):
                        break
        finally:
            os.close(end)
        return guest.poll(), report

    # The host ---------------------------------------------------------------------------------

    def _stop(self, host: Worker) -> Report | None:
        """End a session of which nothing was reported: its guest has gone, or never came."""
        with contextlib.suppress(PeerError):
            host.send(STOP)
        return self._received(host) if host.pipe.poll(_GRACE_S) else None

    @staticmethod
    def _received(host: Worker) -> Report | None:
        """The report; None if the host has ended without one."""
        try:
            report = host.receive()
        except PeerError:
            return None
        assert isinstance(report, Report)
        return report

    # Verdicts ---------------------------------------------------------------------------------

    def _result(self, case: Session | RuleCase, outcomes: Mapping[Session, Outcome]) -> CaseResult:
        if isinstance(case, Session):
            outcome = outcomes.get(case)
            judged = judge.of_session(case, outcome, self._config.limit_s)
        else:
            judged = judge.of_rule(case, outcomes)
        verdict = judged.verdict
        if verdict is Verdict.FAIL and case.level != "MUST" and not self._config.strict:
            verdict = Verdict.NON_STRICT
        unwell = verdict not in (Verdict.PASS, Verdict.SKIP)
        words = ["pvpmu", "conform", "guest", case.id, *judged.also]
        if self._config.command:
            words += ["--command", self._config.command]
        return CaseResult(
            id=case.id,
            path=PATH,
            profile=judged.profile,
            verdict=verdict,
            title=case.title,
            clause=case.clause,
            level=case.level,
            reason=judged.reason,
            failure=judged.failure,
            replay=shlex.join(words) if unwell else "",
        )


def _command(text: str) -> list[str]:
    """The words to start; raises :class:`UsageError`."""
    if not text:
        options = ("--name", "{name}", "--scenario", "short", "--check")
        return python_command("pvpmu.guest.cli", *options)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--command: {error}") from None
    if not any("{name}" in word for word in words):
        raise UsageError("--command: expected {name} in it, where the VM's name goes")
    if shutil.which(words[0]) is None:
        raise UsageError(f"--command: {words[0]}: no such program")
    return words


def _names_of(vm: str) -> list[str]:
    """Files of /dev/shm that bear the VM's name."""
    return sorted(path.name for path in _SHM.iterdir() if f".{vm}." in path.name)
