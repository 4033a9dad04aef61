"""Comparisons with published tables, against arithmetic done by hand on synthetic records."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from oodbench.errors import UserError
from oodbench.report import PublishedComparison
from oodbench.report.formats import FORMATS
from oodbench.report.published.agreement import agreements, orders
from oodbench.report.published.compared_tables import ComparedTable, Place
from oodbench.report.seed_means import of_runs
from oodbench.report.training_curves import accuracy_curves, histories, last_epochs
from oodbench.specs import PublishedSpec, SuiteSpec
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.suite_directory import MemberRecords

T_975 = {2: 4.302652730}
"""Quantiles of Student's t from a printed table."""

PUBLISHED: dict[str, Any] = {
    "schema_version": 1,
    "name": "paper",
    "title": "A paper",
    "sources": {"paper": {"citation": "A. Author. A Paper. 2020.", "url": "https://example.org"}},
    "caveats": ["Nothing is known of their spread."],
    "tables": {
        "detection": {
            "source": "paper",
            "place": "Table 1",
            "title": "Detection",
            "columns": ["Base", "Ours"],
            "measures": {"auroc": {"unit": "percent", "decimals": 1}},
            "notes": ["The values of Base are those of other networks."],
            "rows": [
                {"network": "Net", "id": "Digits", "ood": "Letters", "values": {"auroc": [80, 90]}},
                {"network": "Net", "id": "Digits", "ood": "Noise", "values": {"auroc": [85, 84]}},
                {"network": "Net", "id": "Other", "ood": "Noise", "values": {"auroc": [70, 71]}},
            ],
        },
        "training": {
            "source": "paper",
            "place": "Table 2",
            "title": "Training",
            "columns": ["SoftMax"],
            "measures": {
                "test_loss": {"unit": "nats", "decimals": 3},
                "test_accuracy": {"unit": "percent", "decimals": 1},
            },
            "rows": [
                {
                    "network": "Net",
                    "id": "Digits",
                    "values": {"test_loss": [1.164], "test_accuracy": [95.0]},
                }
            ],
        },
    },
}
SUITE: dict[str, Any] = {
    "schema_version": 1,
    "name": "suite",
    "version": 2,
    "title": "A suite",
    "summary": "For tests",
    "members": {"one": {"network": "Net", "id": "Digits"}},
    "ood": {"letters": "Letters", "noise": "Noise"},
    "published": "paper",
    "tables": {
        "t1": {
            "about": "detection",
            "title": "Table 1",
            "published": "detection",
            "measures": ["auroc"],
            "columns": {"Base": "SoftMax+MaxProb", "Ours": "DisMax+Entropy"},
        },
        "t2": {
            "about": "training",
            "title": "Table 2",
            "published": "training",
            "measures": ["test_loss", "test_accuracy"],
            "columns": {"SoftMax": "SoftMax"},
        },
    },
}
LETTERS, NOISE = Place("Net", "Digits", "Letters"), Place("Net", "Digits", "Noise")


def quality(method: str, ood: str, value: float, seed: int = 0, **changes: Any) -> QualityRecord:
    """An AUROC record whose interval is [value - 0.01, value + 0.01]."""
    known: dict[str, Any] = {
        "run_id": "run",
        "benchmark": "one",
        "benchmark_version": 1,
        "method": method,
        "model": method.split("+")[0],
        "loss": "some",
        "detector": "some",
        "detector_params": {},
        "tuned_on": "none",
        "seed": seed,
        "id_dataset": "digits",
        "ood_dataset": ood,
        "ood_group": "far",
        "metric": "auroc",
        "value": value,
        "ci_low": value - 0.01,
        "ci_high": value + 0.01,
        "n_id": 100,
        "n_ood": 50,
    }
    return QualityRecord(**(known | changes))


def epoch(number: int, seed: int = 0, **changes: Any) -> TrainingRecord:
    known: dict[str, Any] = {
        "run_id": "run",
        "benchmark": "one",
        "model": "SoftMax",
        "loss": "some",
        "seed": seed,
        "epoch": number,
        "learning_rate": 0.1,
        "train_loss": 0.1,
        "train_accuracy": 0.99,
        "test_loss": 1.0,
        "test_accuracy": 0.9,
        "seconds": 1.0,
    }
    return TrainingRecord(**(known | changes))


def comparison(
    *quality: QualityRecord, training: tuple[TrainingRecord, ...] = (), **changes: Any
) -> PublishedComparison:
    return PublishedComparison.from_records(
        SuiteSpec.model_validate(SUITE | changes),
        PublishedSpec.model_validate(PUBLISHED),
        [MemberRecords("one", changes.pop("named", "one"), "complete", None, quality, training)],
    )


def table(found: PublishedComparison, name: str = "t1") -> ComparedTable:
    return next(each for each in found.tables if each.name == name)


# --- cells ----------------------------------------------------------------------------------------


def test_a_cell_has_published_and_measured_in_the_units_of_records() -> None:
    found = comparison(quality("DisMax+Entropy", "letters", 0.93))
    cell = table(found).cells[LETTERS, "auroc", "Ours"]
    assert cell.published == 0.9
    assert cell.rounding == pytest.approx(0.0005)
    assert cell.measured is not None
    assert cell.measured.mean == 0.93
    assert cell.difference == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("value", "covered"),
    [
        (0.9, True),
        (0.89, True),  # the end of the interval is the published value itself
        (0.91, True),
        (0.9104, True),  # 0.9004 is printed as 90.0, too
        (0.9106, False),
        (0.8896, True),
        (0.8894, False),
    ],
)
def test_covered_is_whether_the_interval_reaches_what_is_printed_alike(
    value: float, covered: bool
) -> None:
    cell = table(comparison(quality("DisMax+Entropy", "letters", value))).cells[
        LETTERS, "auroc", "Ours"
    ]
    assert cell.covered is covered


def test_the_interval_is_the_leaderboards() -> None:
    values = (0.85, 0.87, 0.92)
    found = comparison(
        *(quality("DisMax+Entropy", "letters", value, seed) for seed, value in enumerate(values))
    )
    cell = table(found).cells[LETTERS, "auroc", "Ours"].measured
    assert cell is not None
    mean = sum(values) / 3
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    half = math.hypot(0.01, T_975[2] * std / math.sqrt(3))
    assert cell.mean == pytest.approx(mean)
    assert cell.ci_low == pytest.approx(mean - half)
    assert cell.ci_high == pytest.approx(min(1.0, mean + half))


def test_what_was_not_measured_is_empty() -> None:
    found = comparison(quality("DisMax+Entropy", "letters", 0.93))
    cell = table(found).cells[NOISE, "auroc", "Ours"]
    assert (cell.measured, cell.difference, cell.covered) == (None, None, None)
    assert cell.published == 0.84
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    empty = next(line for line in lines if line["ood"] == "Noise" and line["column"] == "Ours")
    assert empty["published"] == "0.84"
    for name in ("measured", "ci_low", "ci_high", "difference", "covered"):
        assert empty[name] == "", f"{name} of a cell that was not measured"


def test_a_skipped_method_is_not_measured() -> None:
    skipped = replace(
        quality("DisMax+Entropy", "letters", 0.5),
        value=None,
        ci_low=None,
        ci_high=None,
        status="skipped",
    )
    found = comparison(skipped, quality("SoftMax+MaxProb", "letters", 0.8))
    assert table(found).cells[LETTERS, "auroc", "Ours"].measured is None
    assert table(found).cells[LETTERS, "auroc", "Base"].measured is not None


def test_without_any_records() -> None:
    found = comparison()
    assert all(cell.measured is None for cell in table(found).cells.values())
    assert [each.mean for each in agreements(found)] == [None] * 4
    for name in ("table", "md", "html", "latex"):
        text = FORMATS[name](found)
        assert "Nothing is measured yet for: Table 1; Table 2." in text, name
        assert "80.0" not in text, f"{name}: a table without a measured value"


def test_rows_are_those_of_the_suites_members() -> None:
    # Net trained on Other is in the published table and not in the suite.
    assert list(table(comparison()).rows) == [LETTERS, NOISE]
    assert set(table(comparison()).rows.values()) == {"one"}


def test_an_interval_is_missing_where_the_records_have_none() -> None:
    found = comparison(quality("DisMax+Entropy", "letters", 0.9, ci_low=None, ci_high=None))
    cell = table(found).cells[LETTERS, "auroc", "Ours"]
    assert cell.measured is not None
    assert cell.covered is None
    assert agreements(found)[1].with_interval == 0


def test_records_of_another_benchmark() -> None:
    with pytest.raises(UserError, match="'one' are of benchmark 'two'"):
        comparison(quality("DisMax+Entropy", "letters", 0.9, benchmark="two"))


def test_a_changed_member_has_its_own_name() -> None:
    suite = SuiteSpec.model_validate(SUITE | {"training": {"recipe": "quick"}, "suffix": "fast"})
    records = MemberRecords(
        "one", "one-fast", "complete", None, [quality("DisMax+Entropy", "letters", 0.9,
                                                      benchmark="one-fast")]
    )  # fmt: skip
    found = PublishedComparison.from_records(
        suite, PublishedSpec.model_validate(PUBLISHED), [records]
    )
    assert [member.name for member in found.members] == ["one-fast"]
    assert table(found).cells[LETTERS, "auroc", "Ours"].measured is not None
    for name in ("table", "md", "html", "latex"):
        text = " ".join(FORMATS[name](found).split())
        assert "NOT THE PUBLISHED PROTOCOL" in text, name
        assert "recipe: quick" in text, name
    assert json.loads(found.to_json())["deviations"]


# --- training -------------------------------------------------------------------------------------


def test_training_is_what_the_last_epoch_ended_with() -> None:
    found = comparison(
        training=(
            epoch(2, test_loss=1.1, test_accuracy=0.94),
            epoch(1, test_loss=9.0, test_accuracy=0.1),
            epoch(1, 1, test_loss=9.0, test_accuracy=0.1),
            epoch(2, 1, test_loss=1.3, test_accuracy=0.96),
            epoch(2, 2, test_loss=1.2, test_accuracy=0.95),
        )
    )
    place = Place("Net", "Digits", None)
    loss = table(found, "t2").cells[place, "test_loss", "SoftMax"]
    accuracy = table(found, "t2").cells[place, "test_accuracy", "SoftMax"]
    assert loss.published == 1.164
    assert loss.rounding == pytest.approx(0.0005)
    assert loss.measured is not None
    assert accuracy.measured is not None
    assert (loss.measured.mean, accuracy.measured.mean) == pytest.approx((1.2, 0.95))
    half = T_975[2] * 0.1 / math.sqrt(3)
    assert loss.measured.ci_high == pytest.approx(1.2 + half), "a loss is not cut at 1"
    assert loss.measured.ci_low == pytest.approx(1.2 - half)
    assert accuracy.measured.ci_high == pytest.approx(0.95 + half / 10)
    assert accuracy.covered
    steep = of_runs({0: 0.02, 1: 0.9, 2: 0.99}, ceiling=1.0)
    assert steep is not None
    assert (steep.ci_low, steep.ci_high) == (0.0, 1.0)


def test_two_trainings_show_their_values() -> None:
    """Student's t with one degree of freedom says nothing."""
    found = comparison(training=(epoch(2, test_loss=1.1), epoch(2, 1, test_loss=1.34)))
    cell = table(found, "t2").cells[Place("Net", "Digits", None), "test_loss", "SoftMax"]
    assert cell.measured is not None
    assert (cell.measured.ci_low, cell.measured.ci_high, cell.covered) == (None, None, None)
    for text in (found.to_markdown(), found.to_text(200)):
        assert "1.100, 1.340" in text
        assert "2 seeds: no interval over seeds" in re.sub(r"\s+", " ", text)


def test_one_training_has_no_interval() -> None:
    found = of_runs({0: 0.7})
    assert found is not None
    assert (found.mean, found.std, found.ci_low, found.ci_high) == (0.7, None, None, None)
    assert of_runs({}) is None


def test_epochs_that_were_not_tested() -> None:
    trainings = histories([epoch(1), epoch(2, test_accuracy=None, test_loss=None)])
    assert last_epochs(trainings, "SoftMax", "test_accuracy") == {}
    assert last_epochs(trainings, "SoftMax", "train_loss") == {0: 0.1}
    assert last_epochs(trainings, "DisMax", "train_loss") == {}


def test_curves_have_the_mean_and_the_range_over_seeds() -> None:
    (curve,) = accuracy_curves(
        histories(
            [
                epoch(1, test_accuracy=0.5),
                epoch(2, test_accuracy=0.8),
                epoch(1, 1, test_accuracy=0.7),
                epoch(2, 1, test_accuracy=0.9),
                epoch(3, 1, test_accuracy=0.95),  # the other seed has not got so far
            ]
        )
    )
    assert curve.epochs == (1, 2)
    assert curve.mean == (pytest.approx(0.6), pytest.approx(0.85))
    assert (curve.low, curve.high) == ((0.5, 0.8), (0.7, 0.9))
    assert curve.seeds == 2


def test_an_accuracy_of_zero_is_a_point() -> None:
    (curve,) = accuracy_curves(histories([epoch(1, test_accuracy=0.0), epoch(2)]))
    assert curve.epochs == (1, 2)


def test_an_epoch_that_is_recorded_twice() -> None:
    with pytest.raises(UserError, match="has an epoch twice"):
        histories([epoch(1), epoch(1)])


# --- how well they agree --------------------------------------------------------------------------


def test_agreement_counts_and_averages() -> None:
    found = comparison(
        quality("DisMax+Entropy", "letters", 0.905),  # published 0.90: covered
        quality("DisMax+Entropy", "noise", 0.80),  # published 0.84: not
        quality("SoftMax+MaxProb", "letters", 0.79),
    )
    ours = next(each for each in agreements(found) if each.column == "Ours")
    assert (ours.cells, ours.measured, ours.with_interval, ours.covered) == (2, 2, 2, 1)
    assert ours.mean == pytest.approx((0.005 - 0.04) / 2)
    assert ours.largest == pytest.approx(-0.04)
    assert ours.where == NOISE
    base = next(each for each in agreements(found) if each.column == "Base")
    assert (base.cells, base.measured) == (2, 1)


@pytest.mark.parametrize(
    ("base", "ours", "here", "every_seed"),
    [
        ((0.80,), (0.90,), True, False),  # one seed shows nothing
        ((0.80, 0.95), (0.81, 0.96), True, True),  # far apart between seeds, the same on each
        ((0.80, 0.95), (0.99, 0.94), True, False),
        ((0.80, 0.95, 0.7), (0.82, 0.97, 0.71), True, True),
        ((0.82, 0.97), (0.80, 0.95), False, False),
    ],
)
def test_order_counts_rows_and_pairs_seeds(
    base: tuple[float, ...], ours: tuple[float, ...], here: bool, every_seed: bool
) -> None:
    found = comparison(
        *(quality("SoftMax+MaxProb", "letters", value, seed) for seed, value in enumerate(base)),
        *(quality("DisMax+Entropy", "letters", value, seed) for seed, value in enumerate(ours)),
        quality("SoftMax+MaxProb", "noise", 0.80),
    )
    (order,) = orders(found)
    assert (order.ahead, order.behind) == ("Ours", "Base")
    assert (order.rows, order.published) == (2, 1), "published: ahead on letters only"
    assert (order.measured, order.here, order.every_seed) == (1, here, every_seed)


# --- formats --------------------------------------------------------------------------------------


def full() -> PublishedComparison:
    found = comparison(
        quality("SoftMax+MaxProb", "letters", 0.80),
        quality("DisMax+Entropy", "letters", 0.99),
        quality("SoftMax+MaxProb", "noise", 0.8499),
        training=(epoch(1), epoch(1, 1, test_loss=1.2)),
    )
    (member,) = found.members
    return replace(found, members=(replace(member, status="incomplete", reason="a|b <c> & d_e"),))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_every_table(name: str) -> None:
    text = FORMATS[name](full())
    for said in ("Letters", "Noise", "DisMax+Entropy"):
        assert said in text, f"'{said}' is not in:\n{text}"
    if name != "csv":
        for said in ("Nothing is known of their spread", "those of other networks"):
            assert said in " ".join(text.split()), said


def test_terminal_shows_values_side_by_side() -> None:
    lines = full().to_text().splitlines()
    row = next(line for line in lines if line.startswith("Digits  Letters"))
    assert row.split() == [
        *("Digits", "Letters"),
        *("80.0", "80.0", "79.0-81.0", "0.0="),
        *("90.0", "99.0", "98.0-100.0", "+9.0"),
    ]
    noise = next(line for line in lines if line.strip().startswith("Noise"))
    assert noise.split() == ["Noise", "85.0", "85.0", "84.0-86.0", "0.0=", "84.0"]
    # The names of the methods stand where their columns begin.
    head = next(line for line in lines if line.lstrip().startswith("SoftMax+MaxProb"))
    paper = next(line for line in lines if line.lstrip().startswith("ID "))
    for method, start in (("SoftMax+MaxProb", 0), ("DisMax+Entropy", paper.index("diff."))):
        assert head.index(method) == paper.index("paper", start), f"{head}\n{paper}"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_line_is_wider_than_asked_for(width: int) -> None:
    for line in full().to_text(width).splitlines():
        assert len(line) <= width, line


def test_intervals_are_left_out_of_all_columns_alike() -> None:
    text = full().to_text(70)
    row = next(line for line in text.splitlines() if line.startswith("Digits  Letters"))
    assert "79.0-81.0" not in row
    assert "98.0-100.0" not in row
    assert "Not shown at this width: 95% interval" in text


def test_json_and_csv_have_every_cell() -> None:
    found = full()
    content = json.loads(found.to_json())
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    cells = sum(len(each.cells) for each in found.tables)
    assert len(content["cells"]) == len(lines) == cells == 4 + 2
    first = content["cells"][0]
    assert (first["published"], first["measured"], first["covered"]) == (0.8, 0.8, True)
    assert first["measured_as"] == "SoftMax+MaxProb"
    assert content["cells"][3]["measured"] is None
    assert {line["suite"] for line in lines} == {"suite"}
    assert content["order"][0]["published"] == 1


def test_reports_of_suites_need_no_torch_and_no_matplotlib() -> None:
    code = (
        "import sys; from oodbench.report import views;"
        "from oodbench.report.published import average_matching, table_matching;"
        "from oodbench.report.tables import published_layout;"
        "from oodbench.planning import suite_plan; from oodbench.storage import suite_directory;"
        "from oodbench.engine.runs import suite_run;"
        "print([m for m in ('torch', 'pandas', 'scipy.stats', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
