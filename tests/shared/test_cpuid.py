"""CPUID leaf 0xA and the masks that follow from it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError

U64 = (1 << 64) - 1
SHAPES = st.builds(
    PmuCpuid,
    gp=st.integers(1, 8),
    fixed=st.integers(0, 3),
    gp_width=st.integers(32, 48),
    fixed_width=st.integers(32, 48),
    unavailable=st.integers(0, 0x7F),
)


def test_the_default_leaf_is_version_2_with_8_general_and_3_fixed_of_48_bits() -> None:
    eax, ebx, ecx, edx = PmuCpuid().encode()
    assert (eax, ebx, ecx) == (2 | 8 << 8 | 48 << 16 | 7 << 24, 0, 0)
    assert edx == 3 | 48 << 5 | 1 << 15


@given(SHAPES)
@settings(deadline=None, derandomize=True, database=None)
def test_decoding_an_encoded_leaf_gives_the_same_pmu(cpuid: PmuCpuid) -> None:
    eax, ebx, _, edx = cpuid.encode()
    assert PmuCpuid.decode(eax, ebx, edx) == cpuid


@given(SHAPES)
@settings(deadline=None, derandomize=True, database=None)
def test_valid_and_reserved_bits_never_overlap_and_cover_64_bits(cpuid: PmuCpuid) -> None:
    assert cpuid.counters.bit_count() == cpuid.gp + cpuid.fixed
    assert cpuid.counters ^ cpuid.global_ctrl_reserved == U64
    assert ~cpuid.fixed_ctrl_reserved & U64 == sum(0xB << 4 * j for j in range(cpuid.fixed))
    assert ~cpuid.ovf_ctrl_reserved & U64 == cpuid.counters | 3 << 62


@pytest.mark.parametrize(
    "wrong",
    [
        {"gp": 0},
        {"gp": 9},
        {"fixed": -1},
        {"fixed": 4},
        {"gp_width": 31},
        {"gp_width": 49},
        {"fixed_width": 64},
        {"unavailable": 0x80},
        {"version": 1},
        {"version": 3},
    ],
)
def test_a_value_out_of_range_is_a_usage_error_with_the_range(wrong: dict[str, int]) -> None:
    (value,) = wrong.values()
    with pytest.raises(UsageError, match=rf"{value} is outside \d+\.\.\d+"):
        PmuCpuid(**wrong)


def test_masks_have_the_counters_width() -> None:
    cpuid = PmuCpuid(gp_width=40, fixed_width=32)
    assert (cpuid.gp_mask, cpuid.fixed_mask) == (0xFF_FFFF_FFFF, 0xFFFF_FFFF)


def test_lvtpc_keeps_vector_mode_send_pending_and_mask() -> None:
    assert PmuCpuid().lvtpc_kept == 0x1_17FF
    assert PmuCpuid().lvtpc_reserved == 0xFFFF_FFFF_0000_0000
