"""Leaderboards against arithmetic done by hand on synthetic records."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from helpers.paired import compared
from helpers.records import cost, quality

from oodbench.errors import UserError
from oodbench.report import Leaderboard
from oodbench.report.columns import Column
from oodbench.report.leaderboard import FPR, Entry, Row
from oodbench.report.seed_means import of_runs
from oodbench.storage.records import CostRecord, QualityRecord

T_975 = {2: 4.302652730}
"""Quantiles of Student's t from a printed table."""


def missing(method: str, seed: int, status: str, reason: str) -> QualityRecord:
    return quality(
        method, seed, None, None, metric="auroc", status=status, reason=reason, n_id=None
    )


def values(method: str, by_set: dict[str, list[float]], **changes: Any) -> list[QualityRecord]:
    """Records of a method: for each set the values of seeds 0, 1, ..."""
    return [
        quality(method, seed, name, value, **changes)
        for name, of_seeds in by_set.items()
        for seed, value in enumerate(of_seeds)
    ]


def leaderboard(*parts: list[QualityRecord], costs: list[CostRecord] | None = None) -> Leaderboard:
    return Leaderboard.from_records([record for part in parts for record in part], costs or [])


def row(board: Leaderboard, method: str) -> Row:
    return next(row for row in board.rows if row.method == method)


def entry(board: Leaderboard, method: str, name: str, metric: str = "auroc") -> Entry:
    column = next(column for column in board.columns if column.name == name)
    return row(board, method).entries[metric, column]


def marks(board: Leaderboard, name: str, metric: str = "auroc") -> dict[str, str | None]:
    return {row.method: entry(board, row.method, name, metric).mark for row in board.rows}


# --- estimates ---------------------------------------------------------------------------------


def test_one_set_has_mean_std_and_both_sources_of_uncertainty() -> None:
    found = entry(
        leaderboard(values("A", {"letters": [0.80, 0.82, 0.87]})), "A", "letters"
    ).estimate
    mean = (0.80 + 0.82 + 0.87) / 3
    std = math.sqrt(sum((x - mean) ** 2 for x in (0.80, 0.82, 0.87)) / 2)
    spread = T_975[2] * std / math.sqrt(3)
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.83)
    assert found.std == pytest.approx(std)
    assert found.ci_low == pytest.approx(0.83 - math.sqrt(0.02**2 + spread**2))
    assert found.ci_high == pytest.approx(0.83 + math.sqrt(0.01**2 + spread**2))


def test_sets_are_averaged_for_each_seed_before_the_spread_is_taken() -> None:
    # The sets move against each other: their mean is 0.85 for every seed.
    by_set = {"x": [0.8, 0.9, 0.86], "y": [0.9, 0.8, 0.84]}
    found = entry(leaderboard(values("A", by_set)), "A", "mean")
    assert found.estimate.mean == pytest.approx(0.85)
    assert found.estimate.std == pytest.approx(0, abs=1e-12)
    assert found.estimate.ci_low == pytest.approx(0.83)
    assert found.estimate.ci_high == pytest.approx(0.86)


def test_sampling_half_widths_are_averaged_over_seeds_and_sets() -> None:
    records = [
        quality("A", 0, "x", 0.5, ci_low=0.40, ci_high=0.52),
        quality("A", 1, "x", 0.5, ci_low=0.44, ci_high=0.54),
        quality("A", 0, "y", 0.7, ci_low=0.66, ci_high=0.71),
        quality("A", 1, "y", 0.7, ci_low=0.66, ci_high=0.71),
        quality("A", 2, "x", 0.5, ci_low=0.42, ci_high=0.53),
        quality("A", 2, "y", 0.7, ci_low=0.66, ci_high=0.71),
    ]
    found = entry(leaderboard(records), "A", "mean").estimate
    assert found.ci_low == pytest.approx(0.6 - (0.08 + 0.04) / 2)
    assert found.ci_high == pytest.approx(0.6 + (0.03 + 0.01) / 2)


def test_intervals_are_clipped() -> None:
    found = entry(leaderboard(values("A", {"x": [0.05, 0.5, 0.95]})), "A", "x").estimate
    assert T_975[2] * found.std / math.sqrt(3) > 0.5  # type: ignore[operator]
    assert (found.ci_low, found.ci_high) == (0.0, 1.0)


@pytest.mark.parametrize("pair", [(0.9, 0.91), (0.4, 0.99), (0.7, 0.7)])
def test_two_seeds_have_no_interval_and_keep_their_values(pair: tuple[float, float]) -> None:
    # Student's t with one degree of freedom would say 0 to 100 %.
    found = entry(leaderboard(values("A", {"x": list(pair)})), "A", "x").estimate
    assert found.mean == pytest.approx(sum(pair) / 2)
    assert (found.ci_low, found.ci_high, found.seeds) == (None, None, 2)
    assert dict(found.by_seed) == dict(enumerate(pair))
    runs = of_runs(dict(enumerate(pair)))
    assert runs is not None
    assert (runs.ci_low, runs.ci_high, dict(runs.by_seed)) == (None, None, dict(enumerate(pair)))


def test_one_seed_has_no_std_and_the_bootstrap_interval_alone() -> None:
    found = entry(leaderboard(values("A", {"x": [0.9]})), "A", "x").estimate
    assert found.std is None
    assert (found.ci_low, found.ci_high) == pytest.approx((0.88, 0.91))


def test_a_value_outside_its_own_interval_has_no_width_on_that_side() -> None:
    records = [quality("A", 0, "x", 0.9, ci_low=0.92, ci_high=0.95)]
    found = entry(leaderboard(records), "A", "x").estimate
    assert (found.ci_low, found.ci_high) == pytest.approx((0.9, 0.95))


def test_records_without_intervals_give_none() -> None:
    records = [quality("A", 0, "x", 0.9, ci_low=None, ci_high=None)]
    found = entry(leaderboard(records), "A", "x").estimate
    assert (found.mean, found.ci_low, found.ci_high) == (0.9, None, None)


def test_groups_and_id_accuracy() -> None:
    board = leaderboard(
        values("A", {"letters": [0.7], "x": [0.8], "y": [0.9]}),
        [quality("A", 0, None, 0.97)],
    )
    assert board.groups == (
        Column("group", "near", ("letters",)),
        Column("group", "far", ("x", "y")),
    )
    assert entry(board, "A", "near").estimate.mean == pytest.approx(0.7)
    assert entry(board, "A", "far").estimate.mean == pytest.approx(0.85)
    assert entry(board, "A", "mean").estimate.mean == pytest.approx(0.8)
    accuracy = row(board, "A").id_accuracy
    assert accuracy is not None
    assert accuracy.mean == 0.97


# --- the worst set -----------------------------------------------------------------------------


def test_the_worst_set_is_the_worst_on_average() -> None:
    # x has the lowest single value, y the lowest mean.
    board = leaderboard(values("A", {"x": [0.5, 0.9], "y": [0.6, 0.7], "z": [0.9, 0.9]}))
    worst = entry(board, "A", "worst")
    assert worst.set_name == "y"
    assert worst.estimate == entry(board, "A", "y").estimate


def test_the_worst_set_is_the_highest_where_lower_is_better() -> None:
    board = leaderboard(values("A", {"x": [0.2], "y": [0.3]}, metric="fpr95_ood_positive"))
    assert entry(board, "A", "worst", "fpr95_ood_positive").set_name == "y"


def test_no_mean_and_no_worst_set_where_a_set_is_missing() -> None:
    board = leaderboard(values("A", {"x": [0.5], "y": [0.6]}), values("B", {"x": [0.9]}))
    assert [(row.method, row.rank, row.complete) for row in board.rows] == [
        ("A", 1, True),
        ("B", None, False),
    ]
    assert {column.name for _, column in row(board, "B").entries} == {"x"}
    assert entry(board, "B", "x").mark == "best"


# --- ranks and marks ---------------------------------------------------------------------------


def test_ties_are_paired_differences_and_not_overlaps_of_intervals() -> None:
    # The intervals of all three overlap.
    wide = {"ci_low": 0.5, "ci_high": 1.0}
    records = (
        values("C", {"x": [0.90]}, **wide)
        + values("A", {"x": [0.95]}, **wide)
        + values("B", {"x": [0.93]}, **wide)
    )
    differences = compared(records, {"B": 0.03, "C": 0.04})
    board = Leaderboard.from_records(records, [], differences=differences)
    assert [(row.rank, row.method) for row in board.rows] == [(1, "A"), (2, "B"), (3, "C")]
    assert board.tested
    assert marks(board, "x") == {"A": "best", "B": "tied", "C": None}
    behind = entry(board, "C", "x").behind
    assert behind is not None
    assert (behind.best, behind.difference) == ("A", pytest.approx(0.05))
    assert entry(board, "A", "x").behind is None


def test_without_differences_the_best_alone_is_marked() -> None:
    board = leaderboard(values("A", {"x": [0.95]}), values("B", {"x": [0.949]}))
    assert not board.tested
    assert marks(board, "x") == {"A": "best", "B": None}
    assert "cannot be tested without scores" in board.to_markdown()


@pytest.mark.parametrize(
    "change",
    [
        lambda each: replace(each, difference=each.difference + 0.01),
        lambda each: replace(each, best="C"),
        lambda each: replace(each, methods=3),
        lambda each: replace(each, metric="dtacc"),
    ],
)
def test_differences_of_other_records_are_not_used(change: Any) -> None:
    records = values("A", {"x": [0.95]}) + values("B", {"x": [0.93]})
    differences = compared(records, {"B": 1.0})
    assert marks(Leaderboard.from_records(records, [], differences=differences), "x")["B"] == "tied"
    others = [change(each) for each in differences]
    board = Leaderboard.from_records(records, [], differences=others)
    assert (board.tested, marks(board, "x")["B"]) == (False, None)


@pytest.mark.parametrize("count", [1, 3])
def test_a_single_method_has_no_marks(count: int) -> None:
    board = leaderboard(values("A", {"x": [0.9] * count, "y": [0.8] * count}))
    assert {each.mark for each in row(board, "A").entries.values()} == {None}
    assert "Best of its column" not in board.to_markdown()


def test_methods_with_equal_means_share_rank_and_mark() -> None:
    board = leaderboard(
        values("B", {"x": [0.9]}), values("A", {"x": [0.9]}), values("C", {"x": [0.5]})
    )
    assert [(row.rank, row.method) for row in board.rows] == [(1, "A"), (1, "B"), (3, "C")]
    assert marks(board, "x") == {"A": "best", "B": "best", "C": None}


def test_lower_is_better_for_fpr() -> None:
    name = "fpr95_ood_positive"
    board = leaderboard(
        values("A", {"x": [0.9]}),
        values("B", {"x": [0.8]}),
        values("A", {"x": [0.5]}, metric=name),
        values("B", {"x": [0.1]}, metric=name),
    )
    assert marks(board, "x", name) == {"A": None, "B": "best"}


def test_fpr95_is_what_tnr_leaves_and_lower_is_better() -> None:
    # Not the recorded fpr95_ood_positive, which fixes the other rate.
    records = [
        record
        for method, tnr, other in (("A", 0.7, 0.1), ("B", 0.4, 0.05))
        for record in (
            quality(method, 0, "x", 0.9),
            quality(method, 0, "x", tnr, metric="tnr_at_95_tpr", ci_low=tnr - 0.2),
            quality(method, 0, "x", other, metric="fpr95_ood_positive"),
        )
    ]
    board = leaderboard(records)
    assert board.metrics == ("auroc", FPR, "tnr_at_95_tpr", "fpr95_ood_positive")
    found = entry(board, "A", "x", FPR).estimate
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx((0.3, 0.29, 0.5))
    assert marks(board, "x", FPR) == {"A": "best", "B": None}
    assert marks(board, "x", "fpr95_ood_positive") == {"A": None, "B": "best"}
    assert entry(board, "A", "worst", FPR).set_name == "x"


def test_oracles_have_their_own_ranking_and_no_marks() -> None:
    board = leaderboard(
        values("A", {"x": [0.8]}),
        values("Cheat", {"x": [0.99]}, tuned_on="ood_oracle"),
        values("Tuned", {"x": [0.85]}, tuned_on="fgsm"),
    )
    assert [(row.method, row.rank, row.oracle) for row in board.rows] == [
        ("Tuned", 1, False),
        ("A", 2, False),
        ("Cheat", 1, True),
    ]
    assert marks(board, "x") == {"Tuned": "best", "A": None, "Cheat": None}


# --- what is not there -------------------------------------------------------------------------


def test_skipped_and_failed_are_kept_with_reasons() -> None:
    board = leaderboard(
        values("A", {"x": [0.8, 0.9, 0.7]}),
        [quality("B", seed, "x", 0.6) for seed in (0, 2)],
        [missing("B", 1, "failed", "out of\n  memory")],
        [missing("C", 0, "skipped", "needs a linear head")],
    )
    assert [(each.method, each.status, each.reason, each.seeds) for each in board.absences] == [
        ("B", "failed", "out of memory", (1,)),
        ("C", "skipped", "needs a linear head", (0,)),
    ]
    assert row(board, "B").seeds == (0, 2)
    assert entry(board, "B", "x").estimate.seeds == 2
    assert {row.method: row.complete for row in board.rows} == {"A": True, "B": False}


def test_a_mean_over_sets_uses_only_seeds_with_every_set() -> None:
    board = leaderboard(values("A", {"x": [0.8, 0.2], "y": [0.9]}))
    found = entry(board, "A", "mean").estimate
    assert (found.mean, found.seeds) == (pytest.approx(0.85), 1)
    assert not row(board, "A").complete


def test_costs_are_means_and_the_largest_memory() -> None:
    costs = [
        cost("A", 0, forwards_per_image=1.0, ms_per_image_batched=1.0, peak_memory_bytes=5),
        cost("A", 1, forwards_per_image=1.5, ms_per_image_batched=9.0, peak_memory_bytes=7),
        cost("A", 2, forwards_per_image=2.0, ms_per_image_batched=2.0, peak_memory_bytes=6),
    ]
    board = leaderboard(values("A", {"x": [0.8] * 3}), values("B", {"x": [0.7] * 3}), costs=costs)
    found = row(board, "A").cost
    assert found is not None
    assert found.values["forwards_per_image"] == 1.5
    assert found.values["ms_per_image_batched"] == 4.0
    assert found.values["peak_memory_bytes"] == 7
    assert row(board, "B").cost is None


def test_costs_that_are_unknown_or_not_finite_are_none() -> None:
    costs = [cost("A", 0, relative_to_baseline=None, fit_seconds=math.nan, ad_hoc_models=True)]
    found = row(leaderboard(values("A", {"x": [0.8]}), costs=costs), "A").cost
    assert found is not None
    assert found.values["relative_to_baseline"] is None
    assert found.values["fit_seconds"] is None
    assert found.requires["ad_hoc_models"] is True
    assert found.requires["feature_ensemble"] is False


def test_choices_are_one_a_seed_unless_the_sets_differ() -> None:
    records = [
        quality("A", 0, "x", 0.8, detector_params={"step": 1}),
        quality("A", 0, "y", 0.8, detector_params={"step": 1}),
        quality("A", 1, "x", 0.8, detector_params={"step": 1}),
        quality("A", 1, "y", 0.8, detector_params={"step": 2}),
    ]
    assert row(leaderboard(records), "A").choices == (
        (0, None, {"step": 1}),
        (1, "x", {"step": 1}),
        (1, "y", {"step": 2}),
    )


# --- errors, order -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "other"}, "not comparable"),
        ({"benchmark_version": 2}, "not comparable"),
        ({"id_dataset": "letters"}, "not comparable"),
        ({"ood_group": "near"}, "several groups"),
        ({"n_ood": 51}, "50 and with 51 images"),
        ({"metric": "auprc"}, "auprc"),
        ({"method": "A", "detector": "other"}, "described as"),
        ({"method": "A", "seed": 0}, "recorded twice"),
    ],
)
def test_records_that_do_not_belong_together(changes: dict[str, Any], message: str) -> None:
    other = {"method": "B", "seed": 1, "ood": "x", "value": 0.7} | changes
    with pytest.raises(UserError, match=message):
        leaderboard(values("A", {"x": [0.8]}), [quality(**other)])


def test_costs_of_another_benchmark_are_refused() -> None:
    with pytest.raises(UserError, match="not comparable"):
        leaderboard(values("A", {"x": [0.8]}), costs=[cost("A", 0, benchmark="other")])


def test_no_records() -> None:
    with pytest.raises(UserError, match="no records"):
        Leaderboard.from_records([], [])


def test_the_order_of_records_does_not_matter() -> None:
    generator = random.Random(0)
    records = [
        quality(f"M{m}", seed, name, round(generator.uniform(0.85, 0.95), 2))
        for m in range(6)
        for seed in range(3)
        for name in ("letters", "x", "y")
    ]
    # Two leaders with one mean and different intervals.
    records += [
        quality("P", seed, name, 0.97, ci_low=low)
        for seed in range(3)
        for name, low in (("letters", 0.96), ("x", 0.96), ("y", 0.96))
    ]
    records += [
        quality("Q", seed, name, 0.97, ci_low=0.85)
        for seed in range(3)
        for name in ("letters", "x", "y")
    ]
    records += [missing("R", 0, "skipped", "no"), missing("S", 1, "failed", "no")]
    costs = [cost(f"M{m}", s, fit_seconds=0.1 * s + m) for m in range(6) for s in range(3)]
    expected = Leaderboard.from_records(records, costs)
    for _ in range(5):
        generator.shuffle(records)
        generator.shuffle(costs)
        assert Leaderboard.from_records(records, costs) == expected
