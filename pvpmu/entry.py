"""Where the commands start: failures are one line from here on, also while modules load."""

from __future__ import annotations

from pvpmu.shared.process import run_command


def pvpmu() -> int:
    """``pvpmu``."""

    def run(argv: list[str]) -> int:
        from pvpmu.cli import run  # noqa: PLC0415

        return run(argv)

    return run_command("pvpmu", run, None)


def host() -> int:
    """``pvpmu-host``."""

    def run(argv: list[str]) -> int:
        from pvpmu.host.cli import run  # noqa: PLC0415

        return run(argv)

    return run_command("pvpmu-host", run, None)


def guest() -> int:
    """``pvpmu-guest``."""

    def run(argv: list[str]) -> int:
        from pvpmu.guest.cli import run  # noqa: PLC0415

        return run(argv)

    return run_command("pvpmu-guest", run, None)
