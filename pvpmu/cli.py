"""``pvpmu``: which command lives where. A command loads what it needs and no other's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from pvpmu import __version__
from pvpmu.shared.process import CommandParser, run_command

_COMMANDS = {
    "bench": "pvpmu.bench.cli",
    "conform": "pvpmu.conformance.cli",
    "cost": "pvpmu.cost.cli",
    "calibrate": "pvpmu.cost.cli",
    "design": "pvpmu.designcli",
    "sweep": "pvpmu.sweep.cli",
    "top": "pvpmu.console.cli",
    "whatif": "pvpmu.trace.cli",
    "replay": "pvpmu.trace.cli",
    "trace": "pvpmu.recording.cli",
    "registers": "pvpmu.toolscli",
    "abi": "pvpmu.toolscli",
    "cleanup": "pvpmu.toolscli",
}
"""Command to the module whose ``add_commands`` adds it, in the order of the help."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("pvpmu", run, argv)


def run(argv: list[str]) -> int:
    """Run the command's body; raises its errors."""
    args = _parser(argv).parse_args(argv, argparse.Namespace(argv=argv))
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


def _parser(argv: Sequence[str]) -> CommandParser:
    """The parser of the command that ``argv`` begins with; of all if it begins with none."""
    parser = CommandParser(prog="pvpmu", description="Design, measure and prove a paravirtual PMU.")
    parser.add_argument("--version", action="version", version=f"pvpmu {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    asked = _COMMANDS.get(argv[0]) if argv else None
    for module in dict.fromkeys([asked] if asked else _COMMANDS.values()):
        import_module(module).add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
