"""The profiles: what differs, and GLOBAL_CTRL after power-on and RESET."""

import pytest

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, PROFILES, STRICT_SDM, Profile, profile_named

CPUID = PmuCpuid(gp=4, fixed=2)


@pytest.mark.parametrize(
    ("profile", "power_on", "reset"),
    [
        (KVM_5_14, 0x3_0000_000F, 0),
        (KVM_6_12, 0xF, 0xF),
        (STRICT_SDM, 0xF, 0xF),
    ],
)
def test_global_ctrl_after_power_on_and_after_reset(
    profile: Profile, power_on: int, reset: int
) -> None:
    assert profile.power_on_global_ctrl(CPUID) == power_on
    assert profile.reset_global_ctrl(CPUID) == reset


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_below_version_2_every_gp_counter_is_enabled_always(profile: Profile) -> None:
    version_1 = PmuCpuid(version=1, gp=4)
    assert profile.power_on_global_ctrl(version_1) == profile.reset_global_ctrl(version_1) == 0xF
    assert profile.power_on_global_ctrl(PmuCpuid(version=0)) == 0


def test_a_profile_is_found_by_name_and_an_unknown_one_names_the_known() -> None:
    assert [profile_named(name) for name in PROFILES] == [KVM_5_14, KVM_6_12, STRICT_SDM]
    with pytest.raises(UsageError, match=r"'kvm'; known: kvm-5.14, kvm-6.12, strict-sdm"):
        profile_named("kvm")
