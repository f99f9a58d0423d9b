"""Make docs/images/top.svg anew: four vCPUs run, and ``pvpmu top`` writes what it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

IMAGE = Path(__file__).parent / "images" / "top.svg"
NAME = "screenshot"
UPDATES, INTERVAL_S = 90, 0.5


def start(module: str, *args: str) -> subprocess.Popen[bytes]:
    """Start a command of this project on the VM."""
    return subprocess.Popen(
        [sys.executable, "-m", module, "--name", NAME, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Run host, guest and view; the first two end with the last."""
    IMAGE.parent.mkdir(exist_ok=True)
    host = start("pvpmu.host.cli", "--design", "page", "--vcpus", "4")
    guest = start("pvpmu.guest.cli", "--scenario", "four-vcpus", "--runs", "100000", "--live")
    view = ["top", NAME, "--wait", "30", "--batch", "-s", str(INTERVAL_S), "-n", str(UPDATES)]
    try:
        subprocess.run(
            [sys.executable, "-m", "pvpmu.cli", *view, "--svg", str(IMAGE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    finally:
        for process in (guest, host):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
