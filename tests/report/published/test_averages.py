"""Published averages beside measured ones, against arithmetic done by hand on synthetic records."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from helpers.records import quality

from oodbench.report import Leaderboard
from oodbench.report.formats import FORMATS
from oodbench.report.published.average_matching import compare_averages
from oodbench.report.published.averages import (
    Average,
    AverageRow,
    ComparedAverages,
    agreement,
    population_spread,
)
from oodbench.report.site.scatter_plots import scatter_plots
from oodbench.report.tables import averages_layout
from oodbench.report.writers import averages_exports
from oodbench.report.writers.run_files import PUBLISHED_FILES, RUN_FILES, files_of
from oodbench.report.writers.terminal import render_document
from oodbench.specs import PublishedReference, PublishedSpec
from oodbench.storage.records import QualityRecord

T_975 = 4.302652730
"""Quantile of Student's t with two degrees of freedom, from a printed table."""

SETS = {"a": "near", "b": "near", "c": "far"}
MEASURES = {
    "near_auroc": {"metric": "auroc", "group": "near", "source": "board"},
    "far_auroc": {"metric": "auroc", "group": "far", "source": "board"},
    "near_fpr95": {
        "metric": "fpr95_ood_positive",
        "group": "near",
        "source": "again",
        "origin": "independent re-run",
    },
    "id_accuracy": {"metric": "id_accuracy", "source": "board"},
    "far_again": {
        "metric": "auroc",
        "group": "far",
        "source": "again",
        "origin": "independent re-run",
        "overview": False,
    },
}


def entry(postprocessor: str, network: str = "Net18", **values: list[float]) -> dict[str, Any]:
    named = {"training": "Cross", "network": network, "postprocessor": postprocessor}
    return {**named, "values": values}


PUBLISHED: dict[str, Any] = {
    "schema_version": 1,
    "name": "paper",
    "title": "A board",
    "sources": {
        "board": {"citation": "A. Author. A Board. 2020.", "url": "https://example.org"},
        "again": {"citation": "B. Other. Again. 2021."},
    },
    "caveats": ["Nobody ran it twice."],
    "averages": {
        "tuning": "GRID",
        "tuned": ["KNN"],
        "detectors": {"MSP": "msp", "KNN": "knn", "Old": "old", "Idle": "idle"},
        "measures": MEASURES,
        "contested": [
            {"postprocessors": ["Old"], "reason": "A bug was fixed.", "url": "https://x.example"},
            {"benchmarks": ["other"], "postprocessors": ["MSP"], "reason": "Elsewhere alone."},
        ],
        "benchmarks": {
            "small": {
                "title": "Small",
                "caveats": ["It is small."],
                "entries": [
                    entry(
                        "MSP",
                        near_auroc=[86.35, 0.5],
                        far_auroc=[95.0, 0.0],
                        near_fpr95=[40.0, 1.0],
                        id_accuracy=[95.06],
                        far_again=[95.01, 0.1],
                    ),
                    entry("KNN", near_auroc=[99.0, 0.1], far_auroc=[95.0, 0.1]),
                    entry("Old", near_auroc=[10.0, 0.1], far_auroc=[20.0, 0.1]),
                    entry("Idle", near_auroc=[50.0]),
                    entry("Unknown", near_auroc=[60.0]),
                    entry("MSP", network="Net50", near_auroc=[70.0]),
                ],
            },
            "other": {"title": "Other", "entries": [entry("MSP", near_auroc=[1.0])]},
        },
    },
}
NEAR = {0: (0.80, 0.90), 1: (0.82, 0.90), 2: (0.84, 0.92)}
"""AUROC on a and b of each checkpoint; the means are 0.85, 0.86 and 0.88."""
SPREAD = math.sqrt((0.04**2 + 0.01**2 + 0.05**2) / 3) / 3
"""Their deviations from the mean are -0.04 / 3, -0.01 / 3 and 0.05 / 3."""


def records(detector: str, seeds: int = 3, **changes: Any) -> list[QualityRecord]:
    """The records of a detector; every interval is [value - 0.02, value + 0.01]."""
    known = {"model": "Model", "detector": detector, **changes}
    found = []
    for seed in range(seeds):
        values = dict(zip("abc", (*NEAR[seed], 0.95), strict=True))
        for name, value in values.items():
            group = {"ood_group": SETS[name]}
            found.append(quality(f"Model+{detector}", seed, name, value, **group, **known))
            fpr = {**group, "metric": "fpr95_ood_positive"}
            found.append(quality(f"Model+{detector}", seed, name, 0.5, **fpr, **known))
        found.append(quality(f"Model+{detector}", seed, None, 0.95, **known))
    return found


def board(seeds: int = 3, detectors: str = "msp knn old plain") -> Leaderboard:
    found = [each for name in detectors.split() for each in records(name, seeds)]
    made = Leaderboard.from_records(found, [])
    return replace(made, published=compared(made))


def compared(made: Leaderboard, **changes: Any) -> ComparedAverages:
    reference: dict[str, Any] = {
        "file": "paper",
        "benchmark": "small",
        "models": {"Model": {"training": "Cross", "network": "Net18"}},
    }
    spec = PublishedSpec.model_validate(PUBLISHED)
    return compare_averages(made, spec, PublishedReference.model_validate(reference | changes))


def averages(seeds: int = 3) -> ComparedAverages:
    found = board(seeds).published
    assert found is not None
    return found


def row(found: ComparedAverages, detector: str) -> AverageRow:
    return next(each for each in found.rows if each.detector == detector)


def average(found: ComparedAverages, name: str) -> Average:
    return next(each for each in found.averages if each.measure.name == name)


# --- values --------------------------------------------------------------------------------------


def test_the_mean_over_sets_is_taken_before_the_spread_over_checkpoints() -> None:
    found = row(averages(), "msp").measured["near_auroc"]
    assert found.by_seed == pytest.approx({0: 0.85, 1: 0.86, 2: 0.88})
    assert found.mean == pytest.approx(2.59 / 3)
    # The sample deviation of the leaderboard is larger by sqrt(3 / 2).
    assert population_spread(found) == pytest.approx(SPREAD)
    assert found.std == pytest.approx(SPREAD * math.sqrt(1.5))


def test_three_checkpoints_have_an_interval_of_images_and_of_checkpoints() -> None:
    found = row(averages(), "msp").measured["near_auroc"]
    student = T_975 * SPREAD * math.sqrt(1.5) / math.sqrt(3)
    assert found.ci_low == pytest.approx(found.mean - math.hypot(0.02, student))
    assert found.ci_high == pytest.approx(found.mean + math.hypot(0.01, student))


def test_one_checkpoint_has_an_interval_of_images_alone_and_two_have_none() -> None:
    one = row(averages(1), "msp").measured["near_auroc"]
    assert (one.ci_low, one.ci_high) == pytest.approx((0.83, 0.86))
    assert population_spread(one) is None
    two = averages(2)
    cell = row(two, "msp").compared(average(two, "near_auroc"))
    assert cell is not None
    assert (cell.covered, cell.difference) == (None, pytest.approx(0.855 - 0.8635))


def test_differences_and_whether_the_interval_contains_the_published_value() -> None:
    found = averages()
    near = average(found, "near_auroc")
    msp, knn = (row(found, name).compared(near) for name in ("msp", "knn"))
    assert msp is not None
    assert knn is not None
    assert msp.difference == pytest.approx(2.59 / 3 - 0.8635)
    assert (msp.covered, knn.covered) == (True, False)
    # 0.86 is the end of the interval; 86.004 rounds to it, 86.01 does not.
    one = averages(1)
    for published, covered in ((0.86, True), (0.8601, False)):
        values = {"near_auroc": row(one, "msp").published["near_auroc"]._replace(mean=published)}
        cell = replace(row(one, "msp"), published=values).compared(near)
        assert cell is not None
        assert cell.covered is covered


def test_every_method_and_entry_has_its_place() -> None:
    found = averages()
    assert [each.detector for each in found.compared] == ["knn", "msp"]
    assert [each.detector for each in found.contested] == ["old"]
    assert [each.detector for each in found.unpublished] == ["plain"]
    assert [(r.postprocessor, r.detector) for r in found.unmeasured] == [
        ("Idle", "idle"),
        ("Unknown", ""),
    ]
    assert found.others == 1
    # An entry that is contested in another benchmark alone is not contested here.
    assert row(found, "msp").contested == ""
    assert row(found, "old").contested == "A bug was fixed. https://x.example"
    assert [each.searched for each in found.compared] == ["GRID", ""]


def test_no_cell_is_filled_from_the_other_column() -> None:
    found = averages()
    near = average(found, "near_auroc")
    assert row(found, "plain").compared(near) is None
    idle = row(found, "idle").compared(near)
    assert idle is not None
    assert (idle.measured, idle.difference, idle.covered) == (None, None, None)
    assert row(found, "msp").compared(average(found, "near_fpr95")) is not None
    assert row(found, "knn").compared(average(found, "near_fpr95")) is None


def test_a_model_that_is_not_in_the_publication_has_no_published_values() -> None:
    made = Leaderboard.from_records([*records("msp"), *records("knn", model="Other")], [])
    found = compared(made)
    assert [(r.model, r.postprocessor) for r in found.rows if r.method] == [
        ("Other", ""),
        ("Model", "MSP"),
    ]


def test_agreement_leaves_contested_entries_out() -> None:
    found = averages()
    near = agreement(found.compared, average(found, "near_auroc"))
    gaps = {"msp": 2.59 / 3 - 0.8635, "knn": 2.59 / 3 - 0.99}
    assert (near.entries, near.with_interval, near.covered, near.reproduced) == (2, 2, 1, 1)
    assert near.size == pytest.approx((abs(gaps["msp"]) + abs(gaps["knn"])) / 2)
    assert near.largest == pytest.approx(gaps["knn"])
    assert near.where == "Model+knn"
    assert agreement(found.contested, average(found, "near_auroc")).entries == 1
    assert agreement((), average(found, "near_auroc")).size is None


@pytest.mark.parametrize(("published", "reproduced"), [(0.8995, 1), (0.8994, 0)])
def test_reproduced_is_a_difference_of_0_05_points_beside_rounding(
    published: float, reproduced: int
) -> None:
    found = averages()
    far = average(found, "far_auroc")
    values = {"far_auroc": row(found, "msp").published["far_auroc"]._replace(mean=published)}
    measured = {"far_auroc": replace(row(found, "msp").measured["far_auroc"], mean=0.90)}
    changed = replace(row(found, "msp"), published=values, measured=measured)
    assert agreement((changed,), far).reproduced == reproduced
    # Half a unit of the second decimal more.
    slightly = {"far_auroc": values["far_auroc"]._replace(mean=published - 0.00004)}
    assert agreement((replace(changed, published=slightly),), far).reproduced == reproduced


# --- reports -------------------------------------------------------------------------------------


def test_every_format_of_a_leaderboard_shows_the_comparison() -> None:
    made = board()
    for name, write in FORMATS.items():
        text, without = write(made), write(replace(made, published=None))
        value = "0.8635" if name in ("csv", "json") else "86.35"
        assert value in text, name
        assert value not in without, name


def test_the_terminal_shows_values_in_80_columns() -> None:
    lines = board().to_text(80).splitlines()
    assert max(map(len, lines)) <= 80
    first = next(line for line in lines if line.startswith("Model+msp") and "86.35" in line)
    near, far = "86.35 86.33 -0.02=", "95.00 95.00 0.00="
    assert first.split() == ["Model+msp", "-", "-", *near.split(), *far.split()]
    knn = next(line for line in lines if line.startswith("Model+knn") and "99.00" in line)
    assert knn.split()[1:3] == ["GRID", "-"]
    assert "-12.67 " in knn  # no sign: the interval does not contain 99.00


def test_reasons_counts_and_caveats_are_said() -> None:
    text = " ".join(render_document(averages_layout.document(averages())).split())
    for words in (
        "Old (old), contested: A bug was fixed. https://x.example",
        "1 published entry of these models has no detector here: Unknown.",
        "1 published entry of these models has a detector here that this run did not measure: Idle",
        "1 other entries of the publication (A board, Small)",
        "published values: independent re-run",
        "Nobody ran it twice. - It is small.",
        "A. Author. A Board. 2020.",
        "B. Other. Again. 2021.",
    ):
        assert words in text, words
    assert "Elsewhere" not in text


def test_columns_without_any_value_are_left_out() -> None:
    def titles(seeds: int) -> set[str]:
        found = averages(seeds)
        rows = tuple(
            replace(
                row, published={name: v._replace(spread=None) for name, v in row.published.items()}
            )
            for row in found.rows
        )
        table = averages_layout.average_tables(replace(found, rows=rows))[0]
        return {heading.title for heading in table.headings}

    assert titles(3) - titles(1) == {"± over checkpoints"}


def test_entries_of_some_networks_alone_are_named_with_them() -> None:
    made = Leaderboard.from_records([*records("msp"), *records("knn", model="Large")], [])
    names = {"training": "Cross", "network": "Net18"}
    found = compared(made, models={"Model": names, "Large": names | {"network": "Net50"}})
    text = " ".join(render_document(averages_layout.document(found)).split())
    assert "did not measure: KNN (Net18), Old (Net18), Idle (Net18), MSP (Net50)." in text


def test_accuracy_has_a_row_for_each_published_value() -> None:
    found = averages()
    tables = {table.title: table for table in averages_layout.average_tables(found)}
    table = tables["Published beside measured: test accuracy (%)"]
    rows = [[cell.text for cell in each] for each in table.sections[0].rows]
    assert rows == [["Model", "all entries", "95.06", "95.00", "0.00", "-0.06"]]


def test_csv_has_a_line_for_each_method_or_entry_and_measure() -> None:
    lines = list(csv.DictReader(io.StringIO(averages_exports.to_csv(averages()))))
    assert lines[0].keys() == set(averages_exports.CSV_FIELDS)
    by_place = {(line["postprocessor"], line["method"], line["measure"]): line for line in lines}
    msp = by_place["MSP", "Model+msp", "near_auroc"]
    assert (msp["published"], msp["published_spread"]) == ("0.8635", "0.005")
    assert (msp["measured"], msp["measured_spread"]) == ("0.863333", f"{SPREAD:.6f}")
    assert (msp["checkpoints"], msp["covered"]) == ("3", "true")
    again = by_place["MSP", "Model+msp", "far_again"]
    assert (again["origin"], again["published"]) == ("independent re-run", "0.9501")
    unpublished = by_place["", "Model+plain", "near_auroc"]
    assert (unpublished["published"], unpublished["difference"], unpublished["covered"]) == (
        "",
        "",
        "",
    )
    unmeasured = by_place["Unknown", "", "near_auroc"]
    assert (unmeasured["published"], unmeasured["measured"]) == ("0.6", "")
    # A measure that tables leave out is not listed for a method that has no published value of it.
    assert ("KNN", "Model+knn", "far_again") not in by_place


def test_csv_of_a_leaderboard_has_published_values_beside_the_measured_ones() -> None:
    lines = [
        line
        for line in csv.DictReader(io.StringIO(board().to_csv()))
        if line["method"] == "Model+msp" and line["published"]
    ]
    assert [(line["metric"], line["column"], line["published"]) for line in lines] == [
        ("auroc", "near", "0.8635"),
        ("auroc", "far", "0.95"),
        ("fpr95_ood_positive", "near", "0.4"),
        ("id_accuracy", "digits", "0.9506"),
    ]
    assert (lines[0]["covered"], lines[2]["origin"]) == ("true", "independent re-run")


def test_json_has_all_values() -> None:
    content = json.loads(averages_exports.to_json(averages()))
    assert content["models"] == {"Model": {"training": "Cross", "network": "Net18"}}
    assert content["entries_of_other_models"] == 1
    assert content["caveats"] == ["Nobody ran it twice.", "It is small."]
    near = next(each for each in content["agreement"] if each["measure"] == "near_auroc")
    assert (near["contested"], near["entries"], near["covered"]) == (False, 2, 1)
    of_board = json.loads(board().to_json())["published"]
    assert of_board == {key: value for key, value in content.items() if key != "schema_version"}


def test_a_run_writes_the_comparison_if_it_has_one() -> None:
    made = board()
    assert files_of(made).keys() == {*RUN_FILES, *PUBLISHED_FILES}
    assert files_of(replace(made, published=None)).keys() == {*RUN_FILES}


def test_a_plot_has_a_point_for_each_pair_of_values_and_rings_for_contested_ones() -> None:
    plots = {plot.title: plot for plot in scatter_plots(averages())}
    assert plots.keys() == {"AUROC, near-OOD", "AUROC, far-OOD", "FPR95 (OOD positive), near-OOD"}
    near = plots["AUROC, near-OOD"]
    assert {(p.text.split(":")[0], p.hollow) for p in near.points} == {
        ("Model+msp", False),
        ("Model+knn", False),
        ("Model+old", True),
    }
    # The guide joins equal values: from the lower left to the upper right corner.
    msp = next(p for p in near.points if p.text.startswith("Model+msp"))
    left, bottom, right, top = 44, 280, 324, 8
    share = (msp.x - left) / (right - left)
    on_line = bottom + share * (top - bottom)
    assert abs(msp.y - on_line) < 1  # 86.33 beside 86.35
    knn = next(p for p in near.points if p.text.startswith("Model+knn"))
    assert knn.y > bottom + (knn.x - left) / (right - left) * (top - bottom) + 10
