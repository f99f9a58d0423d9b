"""perf_event_open's refusals."""

from __future__ import annotations

import pytest

from pvpmu.host import perf_open
from pvpmu.host.perf_open import MissingEventError

pytestmark = pytest.mark.usefixtures("needs_perf")


def test_a_refusal_names_the_call_and_the_level_of_paranoia() -> None:
    with pytest.raises(MissingEventError, match=r"open of a wrong type: .*no such event"):
        perf_open.opened(perf_open.Attr(type=99), "a wrong type")
    assert "CAP_PERFMON" in perf_open._refusal("x", 13)
