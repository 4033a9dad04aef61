"""Ties: paired differences to the best method, against arithmetic and known distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers.records import quality
from numpy.typing import NDArray
from simulations.ties import simulate

from oodbench import bootstrap, metrics
from oodbench.report import simultaneous_intervals as simultaneous
from oodbench.report.differences import differences_to_best, from_scores
from oodbench.storage.records import DifferenceRecord, QualityRecord

AUROC = {"column_kind": "mean", "metric": "auroc"}


def records_of(by_method: Mapping[str, Sequence[float]], **changes: Any) -> list[QualityRecord]:
    """AUROC on the set "x", a value for each seed."""
    return [
        quality(method, seed, "x", value, **changes)
        for method, values in by_method.items()
        for seed, value in enumerate(values)
    ]


def compare(
    by_method: Mapping[str, Sequence[float]], image_error: float, **changes: Any
) -> dict[str, DifferenceRecord]:
    """Method -> its difference on "x", where images move each method alone by so much at 50 %."""
    generator = np.random.default_rng(0)
    noise = {
        method: 0.5 + image_error / math.sqrt(2) * generator.standard_normal(500)
        for method in by_method
    }
    metric = changes.get("metric", "auroc")
    found = differences_to_best(
        records_of(by_method, **changes), lambda key: {"x": {metric: noise[key[0]]}}
    )
    return {each.method: each for each in found if each.column_kind == "set"}


# --- critical values ---------------------------------------------------------------------------


def test_one_comparison_has_the_quantile_of_t() -> None:
    freedom = np.array([1.0, 1.37, 2.0, 3.3, 7.0, 25.0, 400.0, np.inf])
    found = simultaneous.critical_values(1, freedom)
    np.testing.assert_allclose(found, scipy.stats.t.isf(0.025, freedom), rtol=1e-4)


def test_without_a_variance_to_estimate_it_is_sidaks_correction() -> None:
    for comparisons in (2, 9, 43):
        expected = scipy.stats.norm.isf((1 - 0.95 ** (1 / comparisons)) / 2)
        found = simultaneous.critical_values(comparisons, np.array([np.inf]))
        assert found[0] == pytest.approx(expected)


@pytest.mark.parametrize(("comparisons", "freedom"), [(34, 2.0), (34, 4.5), (5, 1.0)])
def test_the_largest_of_several_t_is_covered(comparisons: int, freedom: float) -> None:
    generator = np.random.default_rng(0)
    shared = np.sqrt(generator.chisquare(freedom, 100_000) / freedom)
    largest = np.abs(generator.standard_normal((100_000, comparisons))).max(axis=1) / shared
    critical = simultaneous.critical_values(comparisons, np.array([freedom]))[0]
    assert np.mean(largest > critical) == pytest.approx(0.05, abs=0.003)


# --- intervals ---------------------------------------------------------------------------------


def test_one_seed_has_the_sampling_of_the_images_alone() -> None:
    (found,) = simultaneous.intervals([[0.3]], [0.1], 2)
    assert (found.mean, found.seed_error, found.degrees_of_freedom) == (0.3, 0.0, 0.0)
    assert found.high - found.mean == pytest.approx(1.959964 * 0.1)


def test_two_methods_add_students_interval_in_quadrature() -> None:
    (found,) = simultaneous.intervals([[0.1, 0.2, 0.4]], [0.05], 2)
    spread = np.std([0.1, 0.2, 0.4], ddof=1) / math.sqrt(3)
    assert found.degrees_of_freedom == 2
    assert found.mean - found.low == pytest.approx(math.hypot(1.959964 * 0.05, 4.302653 * spread))


def test_variances_in_proportion_to_those_of_the_images_are_pooled() -> None:
    # All ratios are equal: they differ less than by chance, and the prior has it all.
    errors = [0.01, 0.02, 0.05]
    differences = [[0.3 - 2 * e, 0.3, 0.3 + 2 * e] for e in errors]
    found = simultaneous.intervals(differences, errors, 4)
    assert [each.degrees_of_freedom for each in found] == [6, 6, 6]
    # log(ratio) less what the logarithm of a chi-square of 2 degrees is on average.
    ratio = 4 * math.exp(0.5772156649)
    for each, error in zip(found, errors, strict=True):
        assert each.seed_error == pytest.approx(math.sqrt(ratio / 3) * error)


def test_ratios_that_differ_much_are_moderated_little() -> None:
    def seed_errors(factors: Sequence[float]) -> NDArray[np.float64]:
        differences = [[0.3 - f * 0.01, 0.3, 0.3 + f * 0.01] for f in factors]
        found = simultaneous.intervals(differences, [0.01] * len(factors), len(factors) + 1)
        return np.array([each.seed_error for each in found]) / (np.array(factors) * 0.01)

    alike = seed_errors([1, 1.2, 1.5, 2, 2.2, 2.5])
    assert alike.max() / alike.min() == pytest.approx(2.5)  # one error for all
    unlike = math.sqrt(3) * seed_errors([0.01, 0.1, 1, 10, 100, 1000])
    np.testing.assert_allclose(unlike[1:], 1, atol=0.1)
    assert unlike[0] > 1 > unlike[-1]  # small ones grow, large ones shrink


def test_inverse_trigamma() -> None:
    for value in (1e-3, 0.2, 1.0, 4.9, 300.0):
        found = simultaneous._inverse_trigamma(value)
        assert scipy.special.polygamma(1, found) == pytest.approx(value)


@pytest.mark.parametrize(("differences", "methods"), [([[0.1], []], 3), ([[0.1]], 1)])
def test_what_cannot_be_compared(differences: list[list[float]], methods: int) -> None:
    with pytest.raises(ValueError, match="two methods"):
        simultaneous.intervals(differences, [0.1] * len(differences), methods)


# --- ties --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "other"),
    [
        ((0.998, 0.998), (0.758, 0.718)),  # 24 and 28 points: their intervals overlapped
        ((0.998, 0.998, 0.997), (0.758, 0.718, 0.74)),
        ((0.998, 0.9, 0.95), (0.83, 0.72, 0.775)),  # seeds differ, and the difference does not
        ((0.95,), (0.90,)),
        ((1.0, 1.0, 1.0), (0.5, 0.8, 0.65)),  # nothing that is as good scatters so
    ],
)
def test_a_difference_on_every_seed_is_no_tie(
    best: tuple[float, ...], other: tuple[float, ...]
) -> None:
    for others in (0, 3, 40):
        # Others that scatter over seeds as much as the images make them.
        generator = np.random.default_rng(others)
        crowd = {
            f"m{i}": [b - 0.3 + 0.01 * generator.standard_normal() for b in best]
            for i in range(others)
        }
        found = compare({"best": best, "other": other} | crowd, image_error=0.01)["other"]
        assert not found.tied, (others, found)
        assert (found.best, found.methods) == ("best", others + 2)


@pytest.mark.parametrize(
    ("best", "other"),
    [
        ((0.95, 0.80), (0.80, 0.94)),  # ahead on one seed, behind on the other
        ((0.95, 0.92, 0.85), (0.92, 0.95, 0.84)),
        ((0.904,), (0.90,)),
        ((0.94, 0.94, 0.94), (0.93, 0.945, 0.928)),
    ],
)
def test_a_difference_that_changes_sign_or_is_small_is_a_tie(
    best: tuple[float, ...], other: tuple[float, ...]
) -> None:
    for others in (0, 3, 40):
        crowd = {f"m{i}": [0.3 + 0.001 * i] * len(best) for i in range(others)}
        assert compare({"best": best, "other": other} | crowd, image_error=0.01)["other"].tied


def test_more_methods_need_a_larger_difference() -> None:
    def half_width(others: int) -> float:
        crowd = {f"m{i}": [0.3] for i in range(others)}
        found = compare({"best": [0.9], "other": [0.8]} | crowd, image_error=0.02)["other"]
        return found.shift_high - found.shift

    widths = [half_width(others) for others in (0, 1, 10, 40)]
    assert widths == sorted(set(widths))
    assert widths[-1] / widths[0] == pytest.approx(3.23 / 1.96, abs=0.01)


def test_positive_means_that_the_best_is_better_whichever_way_that_is() -> None:
    found = compare({"A": [0.1], "B": [0.4]}, 0.01, metric="fpr95_ood_positive")
    assert list(found) == ["B"]
    assert (found["B"].best, found["B"].difference) == ("A", pytest.approx(0.3))
    assert not found["B"].tied


def test_seeds_are_paired_and_those_of_one_alone_do_not_count() -> None:
    values = {"A": [0.9, 0.8, 0.7], "B": [0.85, 0.74]}
    found = compare(values, 0.001)["B"]
    assert found.best == "A"
    assert (found.seeds, found.difference) == (2, pytest.approx((0.05 + 0.06) / 2))


def test_methods_that_saw_the_ood_sets_are_not_compared() -> None:
    records = records_of({"A": [0.9], "B": [0.8]})
    records += records_of({"Cheat": [0.99]}, tuned_on="ood_oracle")
    flat = np.linspace(0, 1, 10)
    found = differences_to_best(records, lambda key: {"x": {"auroc": flat}})
    assert {(each.method, each.best, each.methods) for each in found} == {("B", "A", 2)}
    assert differences_to_best(records_of({"A": [0.9]}), lambda key: {}) == []


# --- from scores -------------------------------------------------------------------------------


def scored(
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> tuple[list[QualityRecord], list[DifferenceRecord]]:
    """Records of scores of one seed, and their differences."""
    records = [
        quality(method, 0, ood, value, metric=metric, ood_group=None, n_ood=None, n_id=None)
        for method, mine in scores.items()
        for ood in mine
        if ood != "id"
        for metric, value in metrics.evaluate(mine["id"], mine[ood]).items()
    ]
    return records, from_scores(records, lambda key: scores[key[0]], resamples=200)


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, NDArray[np.float64]]]:
    generator = np.random.default_rng(3)
    sizes, shift = {"id": 120, "x": 90, "y": 70}, {"id": 1.5, "x": 0.0, "y": 0.3}
    images = {name: generator.standard_normal(size) + shift[name] for name, size in sizes.items()}
    return {
        "A": images,
        "B": {name: s + 0.3 * generator.standard_normal(s.size) for name, s in images.items()},
        "C": {name: s + 2.0 * generator.standard_normal(s.size) for name, s in images.items()},
    }


def test_the_error_is_that_of_the_difference_on_shared_resamples(
    scores: dict[str, dict[str, NDArray[np.float64]]],
) -> None:
    _, found = scored(scores)
    shared = bootstrap.SharedResamples(200)
    checked = 0
    for each in found:
        if each.metric in ("auroc", "tnr_at_95_tpr") and each.column_kind == "mean":
            values = {
                (method, ood): shared.bootstrap(
                    "digits", scores[method]["id"], ood, scores[method][ood]
                )[each.metric]
                for method in (each.best, each.method)
                for ood in ("x", "y")
            }
            mean = {
                m: scipy.stats.norm.ppf(((values[m, "x"] + values[m, "y"]) / 2).clip(0.001, 0.999))
                for m in (each.best, each.method)
            }
            expected = (mean[each.best] - mean[each.method]).std(ddof=1)
            assert each.image_error == pytest.approx(expected, rel=1e-3)
            if each.metric == "auroc" and {each.best, each.method} == {"A", "B"}:
                apart = math.hypot(mean["A"].std(ddof=1), mean["B"].std(ddof=1))
                assert each.image_error < 0.5 * apart, "the methods share images"
            checked += 1
    assert checked == 4


def test_the_worst_sets_of_two_methods_may_differ() -> None:
    generator = np.random.default_rng(0)
    ahead = {"A": {"x": 2.0, "y": 1.5}, "B": {"x": 0.8, "y": 2.0}}
    scores = {
        method: {
            "id": generator.standard_normal(200),
            **{ood: generator.standard_normal(200) - shift for ood, shift in sets.items()},
        }
        for method, sets in ahead.items()
    }
    records, found = scored(scores)
    value = {(r.method, r.ood_dataset): r.value for r in records if r.metric == "auroc"}
    (worst,) = [e for e in found if e.metric == "auroc" and e.column_kind == "worst"]
    assert worst.difference == pytest.approx(value["A", "y"] - value["B", "x"])  # type: ignore[operator]


@pytest.mark.parametrize("copied", ["A", "B", "C"])
def test_equal_scores_have_equal_marks(
    scores: dict[str, dict[str, NDArray[np.float64]]], copied: str
) -> None:
    _, found = scored({**scores, "copy": scores[copied]})
    by_key = {(e.metric, e.column_kind, e.column, e.method): e for e in found}
    for (metric, kind, column, method), each in by_key.items():
        if method == "copy":
            twin = by_key.get((metric, kind, column, copied))
            if twin is None:  # the copied method is the best: nothing is between them
                assert (each.best, each.difference, each.tied) == (copied, 0.0, True)
            else:
                assert (each.difference, each.tied) == (twin.difference, twin.tied)
                assert each.shift_low == twin.shift_low
    assert any(method == "copy" for _, _, _, method in by_key)


def test_the_order_of_records_and_methods_does_not_matter(
    scores: dict[str, dict[str, NDArray[np.float64]]],
) -> None:
    _, found = scored(scores)
    _, turned = scored(dict(reversed(scores.items())))
    assert turned == found


# --- how often the marks are right -------------------------------------------------------------


def test_marks_are_rarely_wrong_and_find_large_differences() -> None:
    """A short run of the simulation; the whole is `python scripts/simulations/ties.py`."""
    found = simulate(40, (1, 2, 3, 5))
    for seeds, counts in found.items():
        assert counts.wrong_here <= 2, f"{seeds} seeds: wrong of the networks themselves"
        if seeds > 1:
            assert counts.rate(0.0) <= 0.06, f"{seeds} seeds"
            assert counts.wrong <= 6, f"{seeds} seeds"
    assert found[5].rate(0.10) >= 0.85
    assert found[3].rate(0.20) >= 0.9
    rates = [found[5].rate(size) for size in (0.0, 0.02, 0.05, 0.10)]
    assert rates == sorted(rates)
    alike = simulate(60, (2, 3), behind=(0.0, 0.0))
    assert all(counts.wrong <= 7 for counts in alike.values())
