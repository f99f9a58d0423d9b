"""What crosses the pipe between the kit and its host: jobs there, reports back."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvpmu.conformance.guests.cases import Session
from pvpmu.conformance.verdict import Failure
from pvpmu.shared.cpuid import PmuCpuid

LISTENING = "listening"
STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One session to hold. ``until_broken``: it may end as soon as a rule is broken."""

    name: str
    session: Session
    vcpus: int
    shape: PmuCpuid
    until_broken: bool = False


@dataclass(slots=True, kw_only=True)
class Report:
    """What the host saw of a session.

    ``admitted``: the guest got its Welcome; ``refused``: why the kit turned it away. ``bye``: it
    said so. ``registered``: it used a page. ``fired``: how often the fault happened, and how many
    overflows came after the first time; ``died``: it ended the host. ``broken`` and ``occasions``
    by rule. ``trouble``: what the guest did that ended the session; ``error``: what the kit did.
    ``last``: the last exit.
    """

    admitted: bool = False
    refused: str = ""
    bye: bool = False
    registered: bool = False
    fired: int = 0
    died: bool = False
    overflows_after: int = 0
    broken: dict[str, Failure] = field(default_factory=dict)
    occasions: dict[str, int] = field(default_factory=dict)
    trouble: str = ""
    error: str = ""
    last: str = ""
