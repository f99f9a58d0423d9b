"""The whole exit mix: what was made, what the scenario gives, and the PMU's share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pvpmu.bench.background import exit_mix, given_exits, mix_rows
from pvpmu.bench.document import Json
from pvpmu.bench.reference import load_reference
from pvpmu.guest.scenario import Background, load_scenario

PMU_OF_MAIL = {"MSR_READ": 16_948, "MSR_WRITE": 44_881, "RDPMC": 9_710}


def test_given_exits_and_the_pmus_add_up_to_the_mails_trace() -> None:
    reference = load_reference("kvm-2021")
    assert reference is not None
    for name in ("br_instr", "br_instr-trace"):
        total = Counter(PMU_OF_MAIL)
        for row in given_exits(load_scenario(name), 1):
            total[row["reason"]] += row["exits"]
        # The NMIs are the design's to make.
        nmis = {"EXCEPTION_NMI": 7295, "NMI_WINDOW": 107}
        assert dict(total) | nmis == reference.all_exits


def test_rates_count_guest_clock_and_counts_count_runs() -> None:
    scenario = replace(
        load_scenario("br_instr"),
        duration_us=250_000,
        background=(
            Background(reason="HLT", per_second=1000),
            Background(reason="CPUID", count=7, what="boot", fastpath=True),
        ),
    )
    assert given_exits(scenario, 3) == [
        {"reason": "HLT", "what": "", "exits": 750, "fastpath": False},
        {"reason": "CPUID", "what": "boot", "exits": 21, "fastpath": True},
    ]


def design(pmu: int, nmis: int) -> Json:
    return {"pmu_exits": pmu, "exits": {"MSR_WRITE": pmu, "EXCEPTION_NMI": nmis}}


def test_a_share_is_of_all_exits_given_and_made() -> None:
    given = given_exits(load_scenario("br_instr-trace"), 1)
    trap, page = design(71_541, 7308), design(8503, 7308)
    mix = exit_mix(page, trap, given)
    assert mix is not None
    assert mix["given"] == 232_779
    assert mix["given_fastpath"] == 80_802 + 618
    assert mix["all"] == 232_779 + 8503 + 7308
    # A page takes a fifth of all exits away; more than 23 % are not the PMU's to give.
    assert mix["fewer_than_baseline"] == 0.202286
    ideal = exit_mix(design(0, 7308), trap, given)
    assert ideal is not None
    assert ideal["fewer_than_baseline"] < 0.23
    assert ideal["pmu_share"] == 0


def test_without_given_exits_there_is_no_mix() -> None:
    assert exit_mix(design(1, 1), design(1, 1), []) is None


def test_the_table_tells_given_from_made_and_adds_them(result: Json) -> None:
    rows = [
        (label, [value(each) for each in result["designs"]], published)
        for label, value, published in mix_rows(result)
    ]
    table = {label: (cells, published) for label, cells, published in rows}
    runs = result["runs"] * result["vcpus"]
    assert table["EXTERNAL_INTERRUPT, given"] == ([f"{runs * 146_820:,}"] * 3, "146,820")
    labels = [label for label, _, _ in rows]
    at = labels.index("MSR_WRITE")
    assert labels[at + 1 : at + 4] == [
        "  made",
        "  given, not named in the mail, fastpath",
        "  given, IA32_X2APIC_ICR, fastpath",
    ]
    for number, entry in enumerate(result["designs"]):
        whole, made, unnamed, icr = (
            int(cells[number].replace(",", "")) for _, cells, _ in rows[at : at + 4]
        )
        assert whole == made + unnamed + icr
        assert made == entry["exits"]["MSR_WRITE"]
    assert table["all exits"][1] == "311,720"
    assert table["fewer exits than trap"][0][1] == "0.00%"


def test_the_table_has_no_such_section_without_given_exits(result: Json) -> None:
    assert list(mix_rows({**result, "background": []})) == []
