"""What a real VM needs, or the reason why its tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import ResourceError
from pvpmu.vm import build, kvm
from pvpmu.vm.cpl import user_or_kernel
from pvpmu.vm.session import VmConfig, VmSession, open_session

SHM = Path("/dev/shm")  # noqa: S108 (where the names are)
Open = Callable[..., VmSession]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The guest is built for these tests, and leaves nothing in the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def needs_compiler() -> None:
    try:
        build.compiler()
    except ResourceError as error:
        pytest.skip(f"needs a C compiler: {error}")


@pytest.fixture(scope="session")
def needs_vm(needs_compiler: None) -> None:
    reason = kvm.unusable()
    if reason is not None:
        pytest.skip(f"needs a real VM: {reason}")


@pytest.fixture(scope="session")
def user(needs_vm: None) -> bool:
    """Whether the guest runs at CPL 3 here."""
    return user_or_kernel().user


@pytest.fixture
def open_vm(user: bool) -> Iterator[Open]:
    """Open VMs by design name; all are gone at the end, and so are their names."""
    with ExitStack() as stack:

        def open_one(design: str, **more: object) -> VmSession:
            name = f"test-{os.getpid()}-{design.replace('.', '_')}"
            config = VmConfig(
                design=design_named(design), cpuid=PmuCpuid(), user=user, name=name, **more
            )  # type: ignore[arg-type]
            return stack.enter_context(open_session(config))

        yield open_one
    assert not list(SHM.glob(f"*pvpmu.test-{os.getpid()}-*"))
