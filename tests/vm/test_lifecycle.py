"""Whatever ends a VM is one line, and nothing of it stays."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.registration import ENABLE, VERSION_SHIFT, Registration
from pvpmu.vm import build, cpu, kvm, layout
from pvpmu.vm.cpu import VmCpu
from pvpmu.vm.layout import Command, MemoryMap
from pvpmu.vm.session import VmConfig, open_session

from .conftest import SHM, Open

PAGES = 4
JUMP_TO_ITSELF = b"\xeb\xfe"
DIVIDE_BY_ZERO = b"\x31\xc9\xf7\xf1"
Make = Callable[..., VmCpu]


@pytest.fixture
def make(user: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a vCPU in this process; ``code`` is what it does instead of the guest's program."""
    made: list[VmCpu] = []

    def one(design: str = "page", code: bytes = b"", limit_s: float = 10.0) -> VmCpu:
        program = code + build.program()[len(code) :]
        monkeypatch.setattr(cpu.build, "program", lambda: program)
        where = MemoryMap(1, len(program), PAGES)
        memory = memoryview(mmap.mmap(-1, where.memory_bytes)).cast("Q")
        slots = memoryview(mmap.mmap(-1, PAGE_SIZE)).cast("Q")
        slot = slots[: PAGE_SIZE // 8]
        host = HostVcpu(slot, memory[: PAGES * PAGE_SIZE // 8], design_named(design), PmuCpuid())
        at_3 = user and not code
        made.append(
            VmCpu(
                memory, slots, host, slot,
                vcpus=1, number=0, user=at_3, limit_s=limit_s, pages=PAGES,
            )
        )  # fmt: skip
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def ticking() -> Iterator[None]:
    """As in a worker: a signal now and then."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_guest_that_never_ends_its_command_is_stopped(make: Make, ticking: None) -> None:
    with pytest.raises(PeerError, match=r"vCPU 0: the guest does not end its command in 0\.3 s"):
        make(code=JUMP_TO_ITSELF, limit_s=0.3)


def test_a_fault_outside_an_access_says_where(make: Make) -> None:
    with pytest.raises(PeerError, match="a fault outside an access"):
        make(code=DIVIDE_BY_ZERO)


def test_a_triple_fault_is_one_line(make: Make) -> None:
    vcpu = make()
    special = vcpu.machine.vcpu.special
    special.idt.limit = special.cs.dpl = 0
    vcpu.machine.vcpu.special = special
    registers = vcpu.machine.vcpu.registers
    # Somewhere in the zeros behind its stack's end: a page that is not there, and no IDT.
    registers.rip = 3 << 30
    vcpu.machine.vcpu.registers = registers
    with pytest.raises(PeerError, match="shut down by a triple fault at 0x"):
        vcpu.command(Command.READ, msr.GLOBAL_STATUS)


def test_a_guest_that_reaches_where_no_memory_is_says_where(make: Make) -> None:
    load = b"\xb8" + (layout.SLOTS + (1 << 24)).to_bytes(4, "little") + b"\x8b\x00"
    with pytest.raises(PeerError, match=rf"reached {layout.SLOTS + (1 << 24):#x}, where no memory"):
        make(code=load)


def test_a_port_where_nothing_is_ends_it(make: Make) -> None:
    out = b"\x66\xba\x34\x12\xee"
    with pytest.raises(PeerError, match="wrote to port 0x1234, where nothing is"):
        make(code=out)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (kvm.EXIT_INTERNAL_ERROR, "KVM gives up with internal error"),
        (kvm.EXIT_FAIL_ENTRY, "KVM cannot enter the guest: hardware reason"),
        (4, "KVM exit DEBUG, which this guest never makes"),
        (99, "KVM exit 99"),
    ],
)
def test_what_kvm_says_of_itself_is_one_line(make: Make, reason: int, words: str) -> None:
    error = str(make().machine.refuse(reason))
    assert error.startswith(words)
    assert "\n" not in error


# A hostile guest ---------------------------------------------------------------------------------


def register(vcpu: VmCpu, address: int, version: int = page.PAGE_VERSION) -> Registration:
    """Write MSR_PVPMU_PAGE as no seam does; returns MSR_PVPMU_STATUS."""
    box = vcpu.machine.box
    vcpu.command(Command.WRITE, msr.PV_PAGE, address | version << VERSION_SHIFT | ENABLE)
    assert not box[layout.FAULT]
    vcpu.command(Command.READ, msr.PV_STATUS)
    return Registration(box[layout.RESULT])


@pytest.mark.parametrize(
    "address", [PAGES * PAGE_SIZE, 1 << 30, (1 << 52) - PAGE_SIZE, (1 << 64) - PAGE_SIZE]
)
def test_a_page_outside_the_guest_s_memory_is_refused(make: Make, address: int) -> None:
    vcpu = make()
    assert register(vcpu, address) is Registration.OUTSIDE_MEMORY
    vcpu.command(Command.READ, msr.PV_PAGE)
    assert vcpu.machine.box[layout.RESULT] == 0


def test_a_page_that_moves_while_it_is_used_takes_its_registers_along(make: Make) -> None:
    vcpu = make()
    box = vcpu.machine.box
    vcpu.command(Command.REGISTER)
    assert box[layout.REGISTERED]
    vcpu.command(Command.WRITE, msr.GLOBAL_CTRL, 0)
    vcpu.command(Command.WRITE, msr.address_of(msr.Role.PMC, 0), 77)
    for address in (2 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE):
        assert register(vcpu, address) is Registration.OK
        assert vcpu.memory[address // 8 + page.PMC] == 77
        # The seam is still at page 0, which the host has given up: it traps from here on.
        vcpu.command(Command.READ, msr.address_of(msr.Role.PMC, 0))
        assert (box[layout.RESULT], box[layout.REGISTERED]) == (77, 0)


@pytest.mark.parametrize("word", [page.EVTSEL, page.PMC, page.FIXED_CTR_CTRL, page.GLOBAL_CTRL])
def test_a_word_that_no_register_can_hold_is_refused_at_commit(make: Make, word: int) -> None:
    vcpu = make()
    box, words = vcpu.machine.box, vcpu.memory
    vcpu.command(Command.REGISTER)
    vcpu.command(Command.WRITE, msr.GLOBAL_CTRL, 0)
    vcpu.command(Command.WRITE, msr.FIXED_CTR_CTRL, 0x3)
    words[word] |= 1 << 63
    vcpu.command(Command.WRITE, msr.GLOBAL_CTRL, 1 << 32)
    assert box[layout.FAULT]
    assert words[page.REJECTED] == 1 << word - page.TURN_FIRST
    vcpu.command(Command.WRITE, msr.FIXED_CTR_CTRL, 0x3)
    vcpu.command(Command.WRITE, msr.GLOBAL_CTRL, 1 << 32)
    assert (box[layout.FAULT], words[page.LIVE]) == (0, 1 << 32)


def test_a_guest_that_fills_its_slot_with_anything_hurts_itself_alone(make: Make) -> None:
    vcpu = make("trap")
    for value in (0, (1 << 64) - 1, 0x5A5A_5A5A_5A5A_5A5A):
        for word in range(128):
            vcpu.slot[word] = value
        vcpu.command(Command.READ, msr.GLOBAL_CTRL)
        assert vcpu.machine.box[layout.FAULT] == 0


# Processes ---------------------------------------------------------------------------------------


def start_host(name: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pvpmu.host.cli", "--vm", "--name", name, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def left(name: str) -> list[Path]:
    return list(SHM.glob(f"*pvpmu.{name}*"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("end", "status", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupted_vm_says_so_and_leaves_nothing(
    needs_vm: None, end: signal.Signals, status: int, words: str
) -> None:
    name = f"end-{os.getpid()}-{int(end)}"
    host = start_host(name, "--design", "page")
    assert host.stdout is not None
    assert "a real VM" in host.stdout.readline()
    host.send_signal(end)
    _, errors = host.communicate(timeout=300)
    assert (host.returncode, errors) == (status, f"pvpmu-host: {words}\n")
    assert left(name) == []


@pytest.mark.process
def test_a_killed_vm_s_processes_end_and_its_names_are_cleaned_up(needs_vm: None) -> None:
    name = f"kill-{os.getpid()}"
    host = start_host(name, "--design", "trap", "--vcpus", "2")
    assert host.stdout is not None
    host.stdout.readline()
    host.kill()
    # Its workers hold the other ends of these pipes until they end.
    host.communicate(timeout=300)
    subprocess.run(
        [sys.executable, "-m", "pvpmu.cli", "cleanup"], check=True, capture_output=True, timeout=300
    )
    assert left(name) == []


@pytest.mark.process
def test_a_vm_publishes_unless_it_is_told_not_to(open_vm: Open) -> None:
    open_vm("trap")
    open_vm("page", publish=False)
    names = {path.name for path in SHM.glob(f"pvpmu.test-{os.getpid()}-*.host*")}
    seen, unseen = f"pvpmu.test-{os.getpid()}-trap.host", f"pvpmu.test-{os.getpid()}-page.host"
    assert names == {seen, f"{seen}-live", unseen}


@pytest.mark.process
def test_a_name_in_use_is_one_line(open_vm: Open, user: bool) -> None:
    open_vm("trap")
    (segment,) = SHM.glob(f"pvpmu.test-{os.getpid()}-trap.host")
    name = segment.name.split(".")[1]
    host = start_host(name)
    _, errors = host.communicate(timeout=300)
    assert host.returncode == 1
    assert "in use by a live process" in errors
    assert errors.count("\n") == 1


@pytest.mark.process
def test_a_vm_with_its_pmis_done_ends_with_status_0_and_was_seen_by_the_live_view(
    needs_vm: None,
) -> None:
    name = f"done-{os.getpid()}"
    host = start_host(name, "--design", "page", "--vcpus", "2", "--pmis", "30")
    output, errors = host.communicate(timeout=300)
    assert (host.returncode, errors) == (0, "")
    assert "30 PMIs on each vCPU; page, 1.00 MSR exits per PMI; page, 1.00" in output
    assert left(name) == []


@pytest.mark.process
def test_top_looks_at_a_real_vm(needs_vm: None) -> None:
    name = f"top-{os.getpid()}"
    host = start_host(name, "--design", "trap")
    assert host.stdout is not None
    host.stdout.readline()
    host.stdout.readline()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pvpmu.cli", "top", "--once", "--json", name],
            check=True, capture_output=True, timeout=300, text=True,
        )  # fmt: skip
    finally:
        host.send_signal(signal.SIGINT)
        host.communicate(timeout=300)
    assert json.loads(done.stdout)


def test_a_worker_that_fails_ends_the_session_with_its_own_words(
    user: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VmConfig(
        design=design_named("xen-style"), cpuid=PmuCpuid(), user=user, name=f"no-{time.time_ns()}"
    )
    with pytest.raises(UsageError, match="cannot run on a real VM"), open_session(config):
        pass
