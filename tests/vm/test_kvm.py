"""What stands in the way of a VM is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvpmu.shared.errors import ResourceError
from pvpmu.vm import kvm


def test_no_device_is_one_line_that_says_what_to_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    reason = kvm.unusable()
    assert reason is not None
    assert "absent" in reason
    assert "kvm_intel" in reason


def test_a_device_that_is_not_permitted_names_its_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "kvm"
    device.touch()

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(kvm, "DEVICE", device)
    monkeypatch.setattr(kvm.os, "open", refuse)
    assert kvm.unusable() == f"{device}: not permitted; join the group {device.group()}"


def test_what_is_no_kvm_is_refused_with_the_failing_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(kvm, "DEVICE", device)
    reason = kvm.unusable()
    assert reason is not None
    assert reason.startswith("KVM_GET_API_VERSION: ")


def test_a_capability_that_the_kernel_lacks_is_named(
    needs_vm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kvm._NEEDED, 9999, "KVM_CAP_OF_TOMORROW")
    assert kvm.unusable() == "/dev/kvm: this kernel has no KVM_CAP_OF_TOMORROW"


def _open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_nothing_stays_open(needs_vm: None) -> None:
    before = _open_files()
    system = kvm.Kvm()
    vm = system.vm()
    vcpu = vm.vcpu()
    system.close()
    vcpu.close()
    vm.close()
    assert _open_files() == before


def test_a_refused_argument_names_the_call(needs_vm: None) -> None:
    system = kvm.Kvm()
    vm = system.vm()
    system.close()
    words = memoryview(bytearray(64)).cast("Q")
    with pytest.raises(ResourceError, match="KVM_SET_USER_MEMORY_REGION: Invalid argument"):
        vm.map(0, 1, words, 64)
    vm.close()
