"""Workers get rings with what they are handed."""

from __future__ import annotations

from pathlib import Path

from pvpmu.recording.file import RecordingFile
from pvpmu.recording.handed import handed, tracer_of
from pvpmu.recording.reader import Recording
from pvpmu.shared.handoff import Handoff


def handoff(vcpu: int) -> Handoff:
    return Handoff(
        vcpu=vcpu,
        cpu=-1,
        segment="",
        segment_bytes=0,
        slot_bytes=0,
        memory="",
        memory_bytes=0,
        exit_semaphore="",
        entry_semaphore="",
    )


def test_without_a_recording_nothing_is_traced() -> None:
    with handed(None, "host", [handoff(0)]) as (handoffs, inherited):
        assert handoffs == [handoff(0)]
        assert inherited == []
        assert tracer_of(handoffs[0]) is None


def test_each_vcpu_has_a_stream_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with handed(RecordingFile(path, {}), "guest", [handoff(0), handoff(3)]) as (own, inherited):
        assert [each.ring for each in own] == inherited
        for each in own:
            tracer = tracer_of(each)
            assert tracer is not None
            tracer.mark(each.vcpu)
    with Recording(path) as recording:
        found = {s.vcpu: [r.code for r in s.records()] for s in recording.streams}
    assert found == {0: [0], 3: [3]}
