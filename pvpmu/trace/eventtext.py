"""The text of one event line: where it is cut, and what its parts mean.

Everything that repeats is bounded in length: no line, however odd, takes longer than lines do.
"""

from __future__ import annotations

import re

from pvpmu.shared.units import NS_PER_S
from pvpmu.trace.names import READ, WRITE, exit_number_name

PREFIX = re.compile(
    rb"\s{0,40}(?:(?P<comm>\S(?:.{0,62}?\S)??)??(?:(?P<dash>-)|\s)\s{0,20})?"
    rb"(?P<pid>\d{1,10})(?:/(?P<tid>\d{1,10}))?\s{1,20}(?:\(\s{0,20}[-\d]{1,10}\)\s{1,20})?"
    # perf script's CPU may be left out (-F); a dash without one is no tracer's.
    rb"(?P<cpu>(?:\[\d{1,5}\]|\d{1,5}[\w.#]{4,6})(?:\s{1,20}[\w.#]{4,6})?\s{1,20})?"
    rb"(?(dash)(?(cpu)|(?!)))(?P<stamp>\d{1,12}\.\d{1,12}):\s"
)
NEARLY = re.compile(rb"(?:.{0,120}[\s:])?kvm:kvm_(?:exit|entry|msr):\s")
"""An event of perf script, whatever stands before it."""
TICKS = re.compile(
    rb".{1,80}(?:\[\d{1,5}\]|\s\d{1,5}[\w.#]{4,6})(?:\s{1,20}[\w.#]{4,6})?\s{1,20}\d{1,20}:\s{1,40}"
    rb"(?:kvm:)?kvm_(?:exit|entry|msr):\s"
)
"""An event whose time stamp is no time: a tracer's clock that counts cycles or events."""
LOST = re.compile(
    rb"(?:CPU:\d+ \[.*(?:LOST|DROPPED).*\]|.*\bLOST \d+ events|.*\[\d+ EVENTS DROPPED\]"
    rb"|.*: PERF_RECORD_LOST(?:_SAMPLES)? lost \d+)"
)
HEADING = re.compile(rb"\s*(?:#|cpus=\d|version = |CPU \d+ is empty)|\s*\Z")
CHAIN = re.compile(rb"\t\s{0,15}[0-9a-f]{1,16}(?: \S|\s*\Z)")
"""One address of a call chain, which perf script prints below an event of ``perf record -g``."""
EVENT = re.compile(
    rb"\s{0,40}(?:(?:\d{1,20}|\(\+\d{1,20}\))\s{1,20})?(?:[\w-]{1,64}:)?([\w-]{1,64})\s{0,40}\Z"
)
"""Before the name perf script prints the period, if asked, and trace-cmd a difference of time."""
VCPU = re.compile(rb"\bvcpu(?:_id=| )(\d{1,6})\b")
COMM_VCPU = re.compile(rb"CPU (\d{1,6})/KVM\Z")
_FIELD = re.compile(rb"\b(\w+)=(0x[0-9a-fA-F]{1,16}|\w{1,20})\b")
FAULT = b" (#GP)"
_MSR_TEXT = re.compile(
    rb"\s*msr_(?P<op>read|write) (?P<ecx>[0-9a-f]{1,8}) = 0x(?P<data>[0-9a-f]{1,16})"
    rb"(?P<fault> \(#GP\))?(?:\s{1,40}[0-9a-f]{1,16}(?:\s.*)?)?\s*\Z"
)
_UNKNOWN_REASON = re.compile(rb"reason UNKNOWN \((\d{1,10})\)")
_NAME = re.compile(rb"\w{1,40}\Z")
_UNPARSED = b"[FAILED TO PARSE]"
_MAX_ADDRESS = 0xFFFF_FFFF
_MAX_VALUE = (1 << 64) - 1


def is_event(line: bytes) -> bool:
    """Whether this is an event line."""
    found = PREFIX.match(line)
    return (
        found is not None and EVENT.match(line[found.end() - 1 :].partition(b": ")[0]) is not None
    )


def parse_msr(body: bytes) -> tuple[int, int, int, bool] | None:
    """READ or WRITE, address, value and whether it faulted, of a kvm_msr event; None: neither."""
    plain = _MSR_TEXT.match(body)
    if plain is not None:
        op = WRITE if plain["op"] == b"write" else READ
        return op, int(plain["ecx"], 16), int(plain["data"], 16), plain["fault"] is not None
    fields = dict(_FIELD.findall(body))
    # The fallback prints unsigned numbers in decimal, -R as the event's own format.
    base = 10 if _UNPARSED in body else 16
    try:
        op = WRITE if int(fields[b"write"]) else READ
        address, value = (
            int(fields[name], 16 if fields[name].startswith(b"0x") else base)
            for name in (b"ecx", b"data")
        )
        fault = int(fields.get(b"exception", b"0")) != 0
    except (KeyError, ValueError):
        return None
    return (op, address, value, fault) if address <= _MAX_ADDRESS and value <= _MAX_VALUE else None


def value_of(body: bytes) -> int:
    """The value of a kvm_msr event that was understood; 0 for RDPMC's empty body."""
    parsed = parse_msr(body)
    return parsed[2] if parsed is not None else 0


def reason_text(body: bytes) -> tuple[bytes, bool]:
    """How a kvm_exit event gives its reason, if not by the kernel's name; and whether it is AMD's.

    The text is a number or a name: of a field, or of trace-cmd's plugin; empty: there is none.
    """
    if b"exit_reason=" in body:
        number = body.partition(b"exit_reason=")[2].partition(b" ")[0]
    else:
        unknown = _UNKNOWN_REASON.search(body)
        number = unknown[1] if unknown else b""
    return number[:_LONGEST], b" isa=2" in body


def reason_named(number: bytes, *, amd: bool) -> bytes:
    """The name of an exit given by number, or by name; empty: neither."""
    try:
        code = int(number, 0)
    except ValueError:
        return number if _NAME.match(number) else b""
    return exit_number_name(code if amd else code & 0xFFFF, amd=amd).encode("ascii")


def ns_of(stamp: bytes) -> int:
    """A time stamp, seconds with up to 9 decimals, in ns."""
    seconds, _, fraction = stamp.partition(b".")
    return int(seconds) * NS_PER_S + int(fraction.ljust(9, b"0")[:9])


_LONGEST = 40
