"""Named segments and semaphores: owners, dead owners, cleanup."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from pvpmu.shared import memory
from pvpmu.shared.errors import NameInUseError, PeerError, ResourceError, UsageError
from pvpmu.shared.memory import (
    SEGMENT_HEADER,
    Copies,
    Segment,
    attach_semaphore,
    checked_vm_name,
    cleanup,
    create_semaphore,
    live_vms,
    remove_semaphore,
    segment_name,
    semaphore_name,
    watched,
)

SHM = Path("/dev/shm")  # noqa: S108 (where the names are)
READY, VERSION, PID, START = (field.index for field in SEGMENT_HEADER.fields)
ENDS = ("exit", "entry")
_numbers = count()


@pytest.fixture
def vm() -> Iterator[str]:
    """A VM name of this test's own, which nobody else cleans up; what is left of it goes away."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    with watched(name):
        yield name
    for path in SHM.iterdir():
        if f".{name}." in path.name:
            path.unlink()


def left(vm: str) -> list[str]:
    return sorted(path.name for path in SHM.iterdir() if f".{vm}." in path.name)


def run_python(code: str, *arguments: str) -> str:
    """Run ``code`` in another interpreter to its end; returns what it wrote, stderr included."""
    prelude = "import os, sys\nfrom pvpmu.shared.memory import *\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stdout


def abandon(vm: str, side: str = "host", *, semaphores: bool = False) -> str:
    """Let another process make a segment and die without removing it."""
    name = segment_name(vm, side)
    output = run_python(
        """
        segment = Segment.create(sys.argv[1], 4096)
        segment.words[0] = 77
        if sys.argv[2] == "True":
            create_semaphore(semaphore_name(sys.argv[3], 0, "exit"))
            create_semaphore(semaphore_name(sys.argv[3], 0, "entry"))
        os._exit(0)
        """,
        name,
        str(semaphores),
        vm,
    )
    assert output == ""
    assert name in left(vm)
    return name


# Segments ----------------------------------------------------------------------------------------


@pytest.mark.rule("BND-2")
def test_a_segment_is_zeroed_and_names_its_owner(vm: str) -> None:
    with Segment.create(segment_name(vm, "host"), 4096) as segment:
        assert segment.name == f"pvpmu.{vm}.host"
        assert segment.header[PID] == os.getpid()
        assert segment.header[READY] == memory.MAGIC
        assert segment.words.tolist() == [0] * 512
        assert left(vm) == [segment.name]
    assert left(vm) == []


def test_what_one_mapping_stores_the_other_loads(vm: str) -> None:
    with Segment.create(segment_name(vm, "guest"), 4096) as owner:
        with Segment.attach(owner.name, 4096) as other:
            other.words[511] = 12
            assert owner.words[511] == 12
        assert left(vm) == [owner.name], "leaving an attached segment removes nothing"


@pytest.mark.rule("BND-4", "BND-12")
def test_a_name_in_use_by_a_live_process_is_refused_and_stays(vm: str) -> None:
    with Segment.create(segment_name(vm, "host"), 4096) as segment:
        segment.words[0] = 5
        with pytest.raises(NameInUseError, match=f"^{segment.name}: in use by a live process"):
            Segment.create(segment.name, 4096)
        assert segment.words[0] == 5
        with Segment.attach(segment.name, 4096) as again:
            assert again.words[0] == 5


@pytest.mark.rule("BND-3")
def test_a_dead_owners_name_is_replaced(vm: str) -> None:
    name = abandon(vm)
    with Segment.create(name, 8192) as segment:
        assert segment.header[PID] == os.getpid()
        assert len(segment.words) == 1024
        assert segment.words[0] == 0


@pytest.mark.rule("BND-4")
def test_a_process_that_reuses_the_owners_id_is_not_the_owner(vm: str) -> None:
    name = segment_name(vm, "host")
    with Segment.create(name, 4096) as segment:
        segment.words[0] = 77
        segment.header[START] -= 1
        with Segment.create(name, 4096) as again:
            assert again.words[0] == 0


@pytest.mark.rule("BND-4")
def test_a_live_process_that_does_not_map_the_segment_is_not_the_owner(vm: str) -> None:
    """A guest can store into its segment's header whatever it likes."""
    name = segment_name(vm, "guest")
    with subprocess.Popen(["sleep", "60"]) as other:
        start = memory._start_time(other.pid)
        with Segment.create(name, 4096) as segment:
            segment.header[PID], segment.header[START] = other.pid, start or 0
            removed, kept = cleanup(vm)
            assert (left(vm), name in removed, name in kept) == ([], True, False)
        other.kill()


@pytest.mark.rule("BND-4")
def test_an_owner_whose_memory_nobody_may_look_at_lives(
    vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> str:
        raise PermissionError

    with Segment.create(segment_name(vm, "host"), 4096) as segment, monkeypatch.context() as patch:
        patch.setattr(memory, "_maps_of", refuse)
        assert memory._owner_lives(SHM / segment.name)


def test_attaching_to_no_segment_is_a_peer_error(vm: str) -> None:
    with pytest.raises(PeerError, match="No such file"):
        Segment.attach(segment_name(vm, "host"), 4096)


@pytest.mark.rule("BND-5")
@pytest.mark.parametrize(
    ("index", "value", "message"),
    [(READY, 0, "not ready: 0x0, expected"), (VERSION, 9, "version 9, expected 1")],
)
def test_attaching_to_a_wrong_header_is_a_peer_error(
    vm: str, index: int, value: int, message: str
) -> None:
    with Segment.create(segment_name(vm, "host"), 4096) as segment:
        segment.header[index] = value
        with pytest.raises(PeerError, match=message):
            Segment.attach(segment.name, 4096)
        assert left(vm) == [segment.name]


@pytest.mark.rule("BND-5")
def test_attaching_to_a_segment_that_is_too_small_is_a_peer_error(vm: str) -> None:
    with (
        Segment.create(segment_name(vm, "guest"), 4096) as segment,
        pytest.raises(PeerError, match="4096 bytes, expected at least 4097"),
    ):
        Segment.attach(segment.name, 4097)


@pytest.mark.parametrize("size", [0, 1, 8, 100, 4095])
def test_attaching_to_a_file_smaller_than_a_header_is_a_peer_error(vm: str, size: int) -> None:
    path = SHM / segment_name(vm, "guest")
    path.write_bytes(b"\1" * size)
    with pytest.raises(PeerError, match=path.name):
        Segment.attach(path.name, 4096)


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300, "a\0b"])
def test_attaching_to_an_impossible_name_is_a_peer_error(name: str) -> None:
    with pytest.raises(PeerError):
        Segment.attach(name, 4096)


def test_memory_that_the_machine_refuses_is_a_resource_error_that_leaves_no_name(vm: str) -> None:
    with pytest.raises(ResourceError, match="bytes left"):
        Segment.create(segment_name(vm, "host"), 1 << 62)
    assert left(vm) == []


def test_a_name_that_was_removed_meanwhile_does_not_fail_the_close(vm: str) -> None:
    output = run_python(
        """
        segment = Segment.create(sys.argv[1], 4096)
        os.unlink("/dev/shm/" + sys.argv[1])
        segment.close()
        segment.close()
        """,
        segment_name(vm, "host"),
    )
    assert output == ""


@pytest.mark.rule("BND-5")
def test_a_process_that_attached_and_ended_leaves_the_owners_name(vm: str) -> None:
    with Segment.create(segment_name(vm, "guest"), 4096) as segment:
        for end in ("segment.close()", "os._exit(0)"):
            output = run_python(
                f"""
                segment = Segment.attach(sys.argv[1], 4096)
                segment.words[0] += 1
                {end}
                """,
                segment.name,
            )
            assert output == ""
        assert left(vm) == [segment.name]
        assert segment.words[0] == 2


# Semaphores --------------------------------------------------------------------------------------


def test_a_semaphore_starts_at_zero_also_when_a_leftover_had_another_value(vm: str) -> None:
    name = semaphore_name(vm, 0, "exit")
    leftover = create_semaphore(name)
    leftover.release()
    leftover.close()
    semaphore = create_semaphore(name)
    assert semaphore.value == 0
    other = attach_semaphore(name)
    other.release()
    assert semaphore.value == 1
    other.close()
    remove_semaphore(semaphore)
    assert left(vm) == []


def test_removing_a_semaphore_whose_name_has_gone_is_fine(vm: str) -> None:
    semaphore = create_semaphore(semaphore_name(vm, 0, "entry"))
    (path,) = (SHM / name for name in left(vm))
    path.unlink()
    remove_semaphore(semaphore)


def test_attaching_to_no_semaphore_is_a_peer_error(vm: str) -> None:
    with pytest.raises(PeerError, match=semaphore_name(vm, 0, "exit")):
        attach_semaphore(semaphore_name(vm, 0, "exit"))


# Cleanup -----------------------------------------------------------------------------------------


@pytest.mark.rule("BND-4")
def test_cleanup_removes_what_dead_owners_left_and_keeps_what_live_ones_use(vm: str) -> None:
    live = f"{vm}-live"
    dead_names = [abandon(vm, semaphores=True), abandon(vm, "guest")]
    with Segment.create(segment_name(live, "host"), 4096) as segment:
        semaphore = create_semaphore(semaphore_name(live, 0, "exit"))
        removed, kept = cleanup(vm)
        assert {*dead_names, *(f"sem.pvpmu.{vm}.0.{end}" for end in ENDS)} <= set(removed)
        assert {segment.name, f"sem.pvpmu.{live}.0.exit"} <= set(kept)
        assert not set(kept) & set(removed)
        assert left(live) == sorted([segment.name, f"sem.pvpmu.{live}.0.exit"])
        remove_semaphore(semaphore)
    assert left(vm) == []
    assert left(live) == []


@pytest.mark.rule("BND-4")
def test_cleanup_removes_semaphores_without_a_host_segment(vm: str) -> None:
    create_semaphore(semaphore_name(vm, 3, "exit")).close()
    with Segment.create(segment_name(vm, "guest"), 4096) as segment:
        removed, kept = cleanup(vm)
        assert f"sem.pvpmu.{vm}.3.exit" in removed
        assert segment.name in kept
        assert left(vm) == [segment.name]


@pytest.mark.rule("BND-4")
def test_names_of_a_vm_that_somebody_watches_are_removed_by_its_own_side_only(vm: str) -> None:
    names = sorted([abandon(vm, semaphores=True), *(f"sem.pvpmu.{vm}.0.{end}" for end in ENDS)])
    removed, kept = cleanup()
    assert set(names) <= set(kept)
    assert not set(names) & set(removed)
    assert left(vm) == names
    assert run_python("cleanup('another')") == ""
    assert left(vm) == names
    assert run_python("cleanup(sys.argv[1])", vm) == ""
    assert left(vm) == []


def test_a_vm_is_watched_once_at_a_time_and_no_longer_than_its_watcher_runs(vm: str) -> None:
    with (
        pytest.raises(NameInUseError, match="cannot be watched: Address already in use"),
        watched(vm),
    ):
        pass
    output = run_python("w = watched(sys.argv[1]); w.__enter__(); os._exit(0)", f"{vm}-2")
    assert output == ""
    with watched(f"{vm}-2"):
        pass


def test_cleanup_tells_what_it_removed_and_what_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that no other process cleans."""
    monkeypatch.setattr(memory, "_SHM", tmp_path)
    monkeypatch.setattr(memory, "_owner_lives", lambda path: ".live." in path.name)
    dead = [
        "pvpmu.dead.guest",
        "pvpmu.dead.guest-live",
        "pvpmu.dead.host",
        "pvpmu.dead.host-live",
        "sem.pvpmu.dead.0.entry",
        "sem.pvpmu.half.0.exit",
    ]
    live = ["pvpmu.live.host", "pvpmu.live.host-live", "sem.pvpmu.live.0.exit"]
    for name in (*dead, *live, "pvpmu.live.other"):
        (tmp_path / name).write_bytes(b"")
    assert cleanup() == (dead, live)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*live, "pvpmu.live.other"])


@pytest.mark.rule("BND-4")
def test_cleanup_never_touches_a_foreign_file(vm: str) -> None:
    names = [
        f"other.{vm}.host",
        f"pvpmu.{vm}.host.bak",
        f"pvpmu.{vm}.disk",
        f"sem.pvpmu.{vm}.x.exit",
        f"sem.other.{vm}.0.exit",
    ]
    for name in names:
        (SHM / name).write_bytes(b"")
        os.utime(SHM / name, (0, 0))
    removed, kept = cleanup()
    assert left(vm) == sorted(names)
    assert not set(names) & {*removed, *kept}


# Reading without mapping -------------------------------------------------------------------------


def test_copies_read_the_words_and_know_whether_the_owner_lives(vm: str) -> None:
    name = segment_name(vm, "host-live")
    with Segment.create(name, 4096) as segment, Copies(name, 4096) as copies:
        segment.words[511] = 1 << 63
        assert copies.words(510, 2).tolist() == [0, 1 << 63]
        assert copies.owner_lives()
        assert vm in live_vms("host-live")
        assert vm not in live_vms("guest-live")


def test_copies_still_read_what_was_removed(vm: str) -> None:
    name = segment_name(vm, "host-live")
    with Segment.create(name, 4096) as segment:
        segment.words[0] = 77
        copies = Copies(name, 4096)
    with copies:
        assert copies.words(0, 1)[0] == 77
        assert not copies.owner_lives()
        # Another one of that name is not the one that is read.
        with Segment.create(name, 4096):
            assert copies.words(0, 1)[0] == 77
            assert not copies.owner_lives()


def test_copies_of_a_segment_that_its_owner_cut_are_an_error_and_no_signal(vm: str) -> None:
    name = segment_name(vm, "guest-live")
    with Segment.create(name, 8192), Copies(name, 8192) as copies:
        os.truncate(SHM / name, 8192)
        assert len(copies.words(0, 512)) == 512
        with pytest.raises(PeerError, match=r"0 bytes, expected 8: it was cut"):
            copies.words(512, 1)


def test_there_are_no_copies_of_what_does_not_exist(vm: str) -> None:
    with pytest.raises(PeerError, match="No such file"):
        Copies(segment_name(vm, "host-live"), 4096)


# Names -------------------------------------------------------------------------------------------


@pytest.mark.rule("BND-1")
@pytest.mark.parametrize("name", ["a", "vm-1_B", "x" * 48])
def test_a_plain_vm_name_is_accepted(name: str) -> None:
    assert checked_vm_name(name) == name


@pytest.mark.rule("BND-1")
@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "a b", "é", "x" * 49, "a\n"])
def test_a_name_that_could_leave_the_folder_or_break_a_message_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 48 letters"):
        checked_vm_name(name)
