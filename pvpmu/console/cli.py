"""``pvpmu top``: look at running hosts."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pvpmu.console import document, export, lines
from pvpmu.console.attach import Attached, running, unpublished
from pvpmu.console.keys import View, interval_problem
from pvpmu.console.model import Model
from pvpmu.console.priority import before
from pvpmu.console.tables import warnings
from pvpmu.shared.errors import UsageError
from pvpmu.shared.memory import checked_vm_name
from pvpmu.shared.process import at_least_one, seconds, writable, writable_folder, writing

_SCREEN_S, _LINES_S = 0.5, 1.0
_RETRY_S = 0.05


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``top`` to the subparsers of ``pvpmu``."""
    top = commands.add_parser(
        "top",
        help="watch running hosts: exits, PMIs, accesses and latencies, live",
        description="Watch running hosts, read-only: exits and PMIs per second, accesses per "
        "register and path, latencies. Keys as in kvm_stat; h lists them. Latencies and exits "
        "avoided are there when the host or the guest was started with --live. Where the output "
        "is no terminal, or a dumb one, a line per interval.",
    )
    top.set_defaults(command=_top)
    top.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="VM name, as given to pvpmu-host; several stand side by side (the only one running; "
        "else those that run are listed)",
    )
    how = top.add_mutually_exclusive_group()
    how.add_argument("-1", "--once", action="store_true", help="one full report of one interval")
    how.add_argument("--batch", action="store_true", help="a line per interval on terminals too")
    form = top.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="a JSON document per interval, each on one line"
    )
    form.add_argument("--csv", action="store_true", help="rows of CSV per interval")
    top.add_argument(
        "-s",
        "--interval",
        type=_interval,
        default=None,
        metavar="SECONDS",
        help=f"between two updates ({_SCREEN_S:g} on a screen, {_LINES_S:g} elsewhere)",
    )
    top.add_argument(
        "-n", "--updates", type=at_least_one, default=None, metavar="N", help="end after N updates"
    )
    top.add_argument("-f", "--filter", default="", metavar="REGEX", help="registers to show (all)")
    top.add_argument(
        "-p", "--vcpu", type=int, default=None, metavar="N", help="of registers, latencies (all)"
    )
    top.add_argument("--list", action="store_true", help="list the hosts that run, and end")
    top.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="S",
        help="how long to wait for the hosts to start (%(default)g s)",
    )
    top.add_argument(
        "--hgrm",
        metavar="DIR",
        help="at the end write there what was recorded meanwhile, .hgrm files",
    )
    top.add_argument("--hlog", metavar="FILE", help="likewise one HdrHistogram V2 log (extra: hdr)")
    top.add_argument("--svg", metavar="FILE", help="at the end write the screen there as SVG")


def _interval(text: str) -> float:
    try:
        interval = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    problem = interval_problem(interval)
    if problem:
        raise argparse.ArgumentTypeError(problem)
    return interval


def _top(args: argparse.Namespace) -> int:
    if args.list:
        return _list(running())
    names = args.name
    if not names:
        names = running()
        if not names:
            unseen = unpublished()
            if unseen:
                raise UsageError(
                    f"no host publishes for the view (--no-publish): {', '.join(unseen)}"
                )
            raise UsageError("no host is running: start pvpmu-host")
        if len(names) > 1:
            return _list(names)
    _check(args)
    with contextlib.ExitStack() as stack:
        attached = [stack.enter_context(_attach(name, args.wait)) for name in dict.fromkeys(names)]
        if args.vcpu is not None:
            most = max(len(each.read().vcpus) for each in attached)
            if not 0 <= args.vcpu < most:
                raise UsageError(f"--vcpu {args.vcpu}, expected 0 to {most - 1}")
        watch = Watch(attached)
        # Ctrl-C is how a view without an end is ended.
        with contextlib.suppress(KeyboardInterrupt), before([each.host for each in attached]):
            _show(args, watch)
        for line in warnings(watch.model.totals()):
            print(f"pvpmu: {line}", file=sys.stderr)
        _write(args, watch)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.hlog is not None:
        export.needs_hdrhistogram()
    for file in (args.hlog, args.svg):
        if file is not None:
            writable(Path(file))
    if args.hgrm is not None:
        writable_folder(Path(args.hgrm))
    # The filter is checked as the key f checks it.
    from pvpmu.console.keys import ENTER, Prompt, press  # noqa: PLC0415

    answered = press(View(_LINES_S, prompt=Prompt("f", args.filter)), ENTER, 1).view
    if answered.note:
        raise UsageError(f"--filter: {answered.note}")


def _attach(name: str, wait_s: float) -> Attached:
    checked_vm_name(name)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return Attached(name)
        except UsageError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


def _list(names: Sequence[str]) -> int:
    for name in names:
        with contextlib.suppress(UsageError), Attached(name) as attached:
            vm = attached.read()
            print(f"{name}: design {vm.design}, vCPUs: {len(vm.vcpus)}, {vm.condition}")
    if len(names) > 1:
        print(f"{len(names)} hosts are running: pvpmu top NAME watches one, or several names")
    unseen = unpublished()
    for name in unseen:
        print(f"{name}: not published (--no-publish)")
    if not names and not unseen:
        print("no host is running")
    return 0


class Watch:
    """What is looked at, and the model of it."""

    def __init__(self, attached: Sequence[Attached]) -> None:
        self.model = Model()
        self._attached = attached
        self.update()

    def update(self) -> None:
        """Read everything once more."""
        self.model.update(time.monotonic(), [each.read() for each in self._attached])


def _show(args: argparse.Namespace, watch: Watch) -> None:
    if not (args.once or args.batch or args.json or args.csv):
        # rich takes longer to load than all the rest; only a screen needs it.
        from rich.console import Console  # noqa: PLC0415

        from pvpmu.console.live import run_screen, usable  # noqa: PLC0415

        console = Console()
        if usable(console):
            view = _view(args, _SCREEN_S)
            return run_screen(console, watch, view, args.updates)
    view = _view(args, _LINES_S)
    updates = 1 if args.once else args.updates
    if args.json:
        write: Callable[[], None] = _json_writer(watch, view)
    elif args.csv:
        write = _csv_writer(watch, view)
    elif args.once:

        def write() -> None:
            print("\n".join(lines.report(watch.model, view)), flush=True)

    else:
        write = _lines_writer(watch, view)
    for _ in _paced(watch, view.interval_s, updates):
        write()
    return None


def _view(args: argparse.Namespace, interval_s: float) -> View:
    interval = interval_s if args.interval is None else args.interval
    return View(interval, pattern=args.filter, vcpu=args.vcpu)


def _paced(watch: Watch, interval_s: float, updates: int | None) -> Iterator[None]:
    """Once per interval, until every host has ended: their end is told too."""
    due = time.monotonic()
    done = 0
    while updates is None or done < updates:
        due = max(due + interval_s, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
        watch.update()
        yield
        done += 1
        if watch.model.ended:
            for vm in watch.model.vms:
                print(f"pvpmu: {vm.name}: {vm.condition}", file=sys.stderr)
            return


def _json_writer(watch: Watch, view: View) -> Callable[[], None]:
    def write() -> None:
        made = document.document(watch.model, time.time(), view)
        print(json.dumps(made), flush=True)

    return write


def _csv_writer(watch: Watch, view: View) -> Callable[[], None]:
    table = csv.DictWriter(sys.stdout, document.CSV_COLUMNS, lineterminator="\n")
    table.writeheader()

    def write() -> None:
        table.writerows(document.csv_rows(watch.model, time.time(), view))
        sys.stdout.flush()

    return write


def _lines_writer(watch: Watch, view: View) -> Callable[[], None]:
    done = 0
    terminal = sys.stdout.isatty()

    def write() -> None:
        nonlocal done
        titled = not done % lines.REPEAT
        clock = time.strftime("%H:%M:%S")
        width = shutil.get_terminal_size().columns if terminal else lines.ENDLESS
        print("\n".join(lines.update(watch.model, view, clock, titled=titled, width=width)))
        sys.stdout.flush()
        done += 1

    return write


def _write(args: argparse.Namespace, watch: Watch) -> None:
    """What was asked for at the end."""
    vms = watch.model.recorded()
    if (args.hgrm or args.hlog) and not any(vm.series for vm in vms):
        print("pvpmu: no latency was recorded while the view looked", file=sys.stderr)
    if args.hgrm is not None:
        with writing(args.hgrm):
            files = export.write_hgrm(Path(args.hgrm), vms)
        print(f"wrote {len(files)} files to {args.hgrm}", file=sys.stderr)
    if args.hlog is not None:
        text = export.hlog(vms, time.time() - time.monotonic())
        with writing(args.hlog):
            Path(args.hlog).write_text(text, "utf-8")
        print(f"wrote {args.hlog}", file=sys.stderr)
    if args.svg is not None:
        from pvpmu.console.live import write_svg  # noqa: PLC0415

        with writing(args.svg):
            write_svg(Path(args.svg), watch.model, _view(args, _SCREEN_S))
        print(f"wrote {args.svg}", file=sys.stderr)
