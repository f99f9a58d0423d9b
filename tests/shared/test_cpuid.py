"""CPUID leaf 0xA and the masks that follow from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.shared.cpuid import HOST_CAPABILITY, Leaf, PmuCpuid, clamped
from pvpmu.shared.errors import UsageError

U64 = (1 << 64) - 1
SHAPES = st.builds(
    PmuCpuid,
    gp=st.integers(1, 8),
    fixed=st.integers(0, 3),
    gp_width=st.integers(32, 48),
    fixed_width=st.integers(32, 48),
    unavailable=st.integers(0, 0x7F),
    version=st.integers(0, 2),
    events=st.integers(0, 7),
    full_width=st.booleans(),
    pdcm=st.booleans(),
)


def test_the_default_leaf_is_version_2_with_8_general_and_3_fixed_of_48_bits() -> None:
    eax, ebx, ecx, edx = PmuCpuid().encode()
    assert (eax, ebx, ecx) == (2 | 8 << 8 | 48 << 16 | 7 << 24, 0, 0)
    assert edx == 3 | 48 << 5 | 1 << 15


@given(SHAPES)
def test_decoding_an_encoded_leaf_gives_the_same_pmu(cpuid: PmuCpuid) -> None:
    eax, ebx, _, edx = cpuid.encode()
    same = PmuCpuid.decode(eax, ebx, edx, pdcm=cpuid.pdcm, full_width=cpuid.full_width)
    assert same == cpuid


@given(SHAPES)
def test_valid_and_reserved_bits_never_overlap_and_cover_64_bits(cpuid: PmuCpuid) -> None:
    assert cpuid.counters.bit_count() == cpuid.gp + cpuid.fixed
    assert ~cpuid.fixed_ctrl_reserved & U64 == sum(0xB << 4 * j for j in range(cpuid.fixed))
    writable = U64 if cpuid.version == 2 else 0
    assert ~cpuid.global_ctrl_reserved & U64 == cpuid.counters & writable
    assert ~cpuid.ovf_ctrl_reserved & U64 == (cpuid.counters | 3 << 62) & writable


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
        {"version": -1},
        {"version": 3},
        {"events": 8},
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


# Versions and what they lack ---------------------------------------------------------------


def test_version_1_has_gp_counters_and_no_fixed_ones() -> None:
    cpuid = PmuCpuid(version=1, gp=4, fixed=3)
    assert (cpuid.gp, cpuid.fixed, cpuid.counters) == (4, 0, 0xF)
    assert cpuid.encode() == (1 | 4 << 8 | 48 << 16 | 7 << 24, 0, 0, 1 << 15)


def test_version_0_has_nothing_and_its_leaf_is_zero() -> None:
    cpuid = PmuCpuid(version=0)
    assert (cpuid.gp, cpuid.fixed, cpuid.counters) == (0, 0, 0)
    assert not cpuid.pdcm
    assert not cpuid.full_width
    assert cpuid.encode() == (0, 0, 0, 0)
    assert PmuCpuid.decode(0, 0, 0) == cpuid == PmuCpuid(version=0, gp=0, fixed=0)


def test_full_width_writes_need_perf_capabilities() -> None:
    assert not PmuCpuid(pdcm=False).full_width
    assert (PmuCpuid(pdcm=False).feature_ecx, PmuCpuid().feature_ecx) == (0, 1 << 15)


@pytest.mark.parametrize("events", range(8))
def test_an_event_is_available_inside_the_vector_and_with_a_clear_bit(events: int) -> None:
    cpuid = PmuCpuid(events=events, unavailable=0b010_0010)
    assert [kind for kind in range(7) if cpuid.available(kind)] == [
        kind for kind in (0, 2, 3, 4, 6) if kind < events
    ]


def test_a_longer_event_vector_than_is_known_is_cut() -> None:
    eax, _, _, edx = PmuCpuid().encode()
    longer = PmuCpuid.decode(eax & 0xFF_FFFF | 9 << 24, 0xFFFF_FF80, edx)
    assert longer == PmuCpuid()


# A guest's leaf on a host ------------------------------------------------------------------


def leaf(
    version: int = 2, gp: int = 8, width: int = 48, events: int = 7, fixed: int = 3, ebx: int = 0
) -> Leaf:
    eax = version | gp << 8 | width << 16 | events << 24
    return eax, ebx, 0, fixed | width << 5 | 1 << 15


@pytest.mark.parametrize("advertised", range(6))
@pytest.mark.parametrize("supported", range(3))
def test_the_version_is_the_lower_of_the_leafs_and_the_hosts(
    advertised: int, supported: int
) -> None:
    pmu = clamped(leaf(version=advertised), PmuCpuid(version=supported))
    assert pmu.version == min(advertised, supported)
    assert pmu.fixed == (3 if pmu.version == 2 else 0)


def test_every_field_is_the_lower_of_the_leafs_and_the_hosts() -> None:
    host = PmuCpuid(gp=4, fixed=2, gp_width=40, fixed_width=44, events=6)
    assert clamped(leaf(gp=255, fixed=31, width=255, events=255), host) == host
    small = clamped(leaf(gp=2, fixed=1, width=33, events=3), host)
    assert small == PmuCpuid(gp=2, fixed=1, gp_width=33, fixed_width=33, events=3)


def test_a_leaf_without_fixed_counters_needs_no_width_for_them() -> None:
    assert clamped((2 | 4 << 8 | 48 << 16 | 7 << 24, 0, 0, 0)).fixed == 0


@pytest.mark.parametrize("events", [0, 7, 8, 255])
@pytest.mark.parametrize("ebx", [0, 0xFF, 0x80, *(1 << bit for bit in range(7))])
def test_any_event_vector_of_any_length_is_taken(events: int, ebx: int) -> None:
    pmu = clamped(leaf(events=events, ebx=ebx))
    assert pmu.events == min(events, HOST_CAPABILITY.events)
    for kind in range(7):
        assert pmu.available(kind) == (kind < events and not ebx >> kind & 1)


def test_full_width_and_pdcm_are_given_only_where_the_host_has_them() -> None:
    assert clamped(leaf()).full_width
    assert not clamped(leaf(), full_width=False).full_width
    assert not clamped(leaf(), PmuCpuid(full_width=False)).full_width
    assert not clamped(leaf(), pdcm=False).full_width
    assert not clamped(leaf(), PmuCpuid(pdcm=False)).pdcm


@pytest.mark.parametrize(("wrong", "named"), [({"width": 31}, "width"), ({"gp": 0}, "gp counters")])
def test_a_leaf_that_no_pmu_has_is_a_usage_error(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        clamped(leaf(**wrong))
