"""The target behind any executable that speaks JSON lines on its standard input and output."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from collections.abc import Mapping

from pvpmu.conformance.lines import hello_line, hello_of, iret_line, line_of, reply_of, reset_line
from pvpmu.conformance.target import Hello, Json, OnNmi, Reply
from pvpmu.shared.errors import PeerError, UsageError

_LONGEST = 1 << 20
_CHUNK = 1 << 16
_END_S = 2.0


class AdapterTarget:
    """``command`` is split as a shell would, and started when first asked something.

    Each answer may take ``limit_s``. Whatever goes wrong is a :class:`PeerError`; the command is
    ended then, and started anew at the next reset. Its standard error is this process's.
    """

    def __init__(self, command: str, limit_s: float) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"target adapter:{command}: {error}") from None
        if not self._words:
            raise UsageError("target adapter: no command, expected adapter:COMMAND")
        self._limit_s = limit_s
        self._child: _Child | None = None
        self._hello: Hello | None = None

    def hello(self) -> Hello:
        """What the adapter says of itself; raises :class:`UsageError` if it cannot be used."""
        try:
            self._start()
        except PeerError as error:
            raise UsageError(f"target adapter:{shlex.join(self._words)}: {error}") from None
        assert self._hello is not None
        return self._hello

    def reset(self, config: Mapping[str, Json]) -> None:
        """Make a new VM."""
        self._ask(self._start(), reset_line(config), _no_nmi)

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        """Do one operation."""
        if self._child is None:
            raise PeerError("the adapter has ended")
        return self._ask(self._child, line_of(name, vcpu, fields), on_nmi)

    def close(self) -> None:
        """End the command: its input ends, and if that is not enough it is killed."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _start(self) -> _Child:
        if self._child is None:
            self._child = _Child(self._words, self._limit_s)
            try:
                self._child.send(hello_line())
                self._hello = hello_of(self._child.line())
            except BaseException:
                self.close()
                raise
        return self._child

    def _ask(self, child: _Child, request: bytes, on_nmi: OnNmi) -> Reply:
        try:
            child.send(request)
            while isinstance(reply := reply_of(child.line()), int):
                try:
                    on_nmi(reply)
                except BaseException:
                    # The case ends within a handler, which no request can tell the adapter.
                    self.close()
                    raise
                child.send(iret_line(reply))
        except PeerError:
            self.close()
            raise
        return reply


class _Child:
    """The running command, a line at a time."""

    def __init__(self, words: list[str], limit_s: float) -> None:
        self._limit_s = limit_s
        self._buffer = b""
        try:
            self._process = subprocess.Popen(  # noqa: S603 (the command that the user gave)
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise PeerError(f"{words[0]}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)

    def send(self, line: bytes) -> None:
        """One request. That nobody reads it is found by :meth:`line`, with what was said last."""
        if self._buffer:
            raise PeerError(f"the adapter said {self._buffer[:80]!r} without being asked")
        deadline = time.monotonic() + self._limit_s
        rest = line + b"\n"
        while rest:
            self._wait(self._in.fileno(), select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._in.fileno(), rest) :]
            except BrokenPipeError:
                return

    def line(self) -> bytes:
        """One answer, without its end."""
        deadline = time.monotonic() + self._limit_s
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST:
                raise PeerError(f"the adapter answered a line of more than {_LONGEST} bytes")
            self._wait(self._out.fileno(), select.POLLIN, deadline)
            chunk = os.read(self._out.fileno(), _CHUNK)
            if not chunk:
                raise self._ended()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def end(self) -> None:
        """Nothing is left of it."""
        self._in.close()
        # What it has still to say would keep it waiting.
        self._out.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, handle: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(handle, event)
        left_ms = max(deadline - time.monotonic(), 0.0) * 1000
        if not poll.poll(left_ms):
            raise PeerError(f"the adapter did not answer within {self._limit_s:g} s")

    def _ended(self) -> PeerError:
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return PeerError("the adapter closed its output")
        return PeerError(f"the adapter ended, exit status {status}")


def _no_nmi(vcpu: int) -> None:
    raise PeerError(f"the adapter answered a reset with an NMI of vCPU {vcpu}")
