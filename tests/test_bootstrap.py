"""Bootstrap intervals against literal resampling, and against a known answer."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from oodbench import bootstrap as intervals
from oodbench import metrics

TOLERANCE = 1e-12
Array = npt.NDArray[np.float64]


def brute_force(
    id_scores: Array,
    ood_scores: Array,
    id_counts: npt.NDArray[np.uint8],
    ood_counts: npt.NDArray[np.uint8],
) -> dict[str, Array]:
    """The metrics of arrays in which each score is repeated as often as it was drawn."""
    each = [
        metrics.evaluate(np.repeat(id_scores, a), np.repeat(ood_scores, b))
        for a, b in zip(id_counts, ood_counts, strict=True)
    ]
    return {name: np.array([values[name] for values in each]) for name in metrics.METRICS}


@pytest.mark.parametrize(
    ("n_id", "n_ood", "decimals"),
    [(1, 1, 0), (1, 20, 1), (30, 1, 1), (19, 20, 0), (60, 45, 0), (60, 45, 1), (200, 300, 12)],
)
def test_bootstrap_is_resampling_of_arrays(n_id: int, n_ood: int, decimals: int) -> None:
    generator = np.random.default_rng(n_id + n_ood)
    id_scores = np.round(generator.normal(1, 1, n_id), decimals)
    ood_scores = np.round(generator.normal(0, 1, n_ood), decimals)
    id_counts = intervals.resample_counts(n_id, 300, generator)
    ood_counts = intervals.resample_counts(n_ood, 300, generator)
    found = intervals.bootstrap(id_scores, ood_scores, id_counts, ood_counts)
    expected = brute_force(id_scores, ood_scores, id_counts, ood_counts)
    assert list(found) == list(metrics.METRICS)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE, err_msg=name)


def test_resamples_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    scores = generator.integers(9, size=40), generator.integers(7, size=30)
    counts = [intervals.resample_counts(n, 101, generator) for n in (40, 30)]
    whole = intervals.bootstrap(*scores, *counts)
    monkeypatch.setattr(intervals, "_BLOCK", 3 * 70)
    blocks = intervals.bootstrap(*scores, *counts)
    for name, values in whole.items():
        np.testing.assert_array_equal(blocks[name], values, err_msg=name)


def test_drawing_each_image_once_gives_the_metrics() -> None:
    generator = np.random.default_rng(4)
    id_scores, ood_scores = generator.integers(6, size=50), generator.integers(5, size=35)
    once = np.ones((1, 50), np.uint8), np.ones((1, 35), np.uint8)
    found = intervals.bootstrap(id_scores, ood_scores, *once)
    expected = metrics.evaluate(id_scores, ood_scores)
    assert {name: values.item() for name, values in found.items()} == expected


def test_counts_follow_the_multinomial() -> None:
    n, resamples = 50, 20_000
    counts = intervals.resample_counts(n, resamples, np.random.default_rng(5))
    assert counts.dtype == np.uint8
    assert counts.shape == (resamples, n)
    np.testing.assert_array_equal(counts.sum(axis=1), n)
    # Mean 1, variance 1 - 1/n, covariance -1/n; 6 standard errors is 0.05.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.05)
    np.testing.assert_allclose(counts.var(axis=0), 1 - 1 / n, atol=0.1)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / n, abs=0.05)


def test_same_generator_same_intervals() -> None:
    generator = np.random.default_rng(6)
    scores = generator.normal(1, 1, 80), generator.normal(0, 1, 70)
    first, second, other = (
        intervals.confidence_intervals(
            *scores, generator=np.random.default_rng(seed), resamples=200
        )
        for seed in (7, 7, 8)
    )
    assert first == second
    assert first["auroc"] != other["auroc"]


def test_intervals_are_the_percentiles_of_the_bootstrap() -> None:
    generator = np.random.default_rng(9)
    scores = generator.normal(1, 1, 80), generator.normal(0, 1, 70)
    found = intervals.confidence_intervals(
        *scores, generator=np.random.default_rng(10), resamples=201, level=0.9
    )
    draws = np.random.default_rng(10)
    counts = [intervals.resample_counts(n, 201, draws) for n in (80, 70)]
    for name, values in intervals.bootstrap(*scores, *counts).items():
        # 5% of 200 steps is 10: the quantiles are the 11th values from either end.
        ends = np.sort(values)[[10, -11]]
        assert found[name] == pytest.approx(tuple(ends), abs=TOLERANCE), name


def test_percentile_interval_by_hand() -> None:
    values = np.random.default_rng(0).permutation(101)
    assert intervals.percentile_interval(values, 0.9) == pytest.approx((5, 95))
    assert intervals.percentile_interval(values) == pytest.approx((2.5, 97.5))


def test_no_spread_where_there_is_nothing_to_vary() -> None:
    separated = intervals.confidence_intervals(
        np.arange(1, 9), -np.arange(9), generator=np.random.default_rng(0), resamples=100
    )
    for name, metric in metrics.METRICS.items():
        best = float(metric.higher_is_better)
        assert separated[name] == (best, best), name
    constant = intervals.confidence_intervals(
        np.zeros(9), np.zeros(9), generator=np.random.default_rng(0), resamples=100
    )
    assert constant["auroc"] == (0.5, 0.5)


def test_coverage_of_a_known_auroc() -> None:
    # N(1, 1) against N(0, 1): AUROC = Phi(1 / sqrt(2)). Over 400 simulations the standard error of
    # a coverage of 95% is 1.1 points, of 50% it is 2.5; the percentile bootstrap itself is a point
    # or two short at 100 images.
    truth = (1 + math.erf(1 / 2)) / 2
    generator = np.random.default_rng(11)
    covered = {0.95: 0, 0.5: 0}
    simulations = 400
    for _ in range(simulations):
        scores = generator.normal(1, 1, 100), generator.normal(0, 1, 100)
        counts = [intervals.resample_counts(100, 300, generator) for _ in scores]
        values = intervals.bootstrap(*scores, *counts)["auroc"]
        for level in covered:
            low, high = intervals.percentile_interval(values, level)
            covered[level] += low <= truth <= high
    assert 0.91 <= covered[0.95] / simulations <= 0.98, covered
    assert 0.42 <= covered[0.5] / simulations <= 0.58, covered


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.1])
def test_level_is_checked(level: float) -> None:
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        intervals.percentile_interval([1.0, 2.0], level)


def test_no_values() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        intervals.percentile_interval([])


@pytest.mark.parametrize(("n", "resamples"), [(0, 5), (5, 0)])
def test_nothing_to_draw(n: int, resamples: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        intervals.resample_counts(n, resamples, np.random.default_rng(0))


def test_bad_scores_are_named() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"ood_scores\[1\] is nan"):
        intervals.confidence_intervals([1.0], [0.0, np.nan], generator=generator)
    with pytest.raises(ValueError, match=r"id_scores is empty"):
        intervals.confidence_intervals([], [0.0], generator=generator)


@pytest.mark.parametrize(
    ("id_counts", "ood_counts", "message"),
    [
        (np.ones((4, 3), np.uint8), np.ones((4, 2), np.uint8), r"id_counts .* \(4, 3\)"),
        (np.ones((4, 2), np.uint8), np.ones((5, 3), np.uint8), r"ood_counts .* \(5, 3\)"),
        (np.ones(2, np.uint8), np.ones((2, 3), np.uint8), r"id_counts .* \(2,\)"),
        (np.ones((4, 2)), np.ones((4, 3), np.uint8), r"id_counts is float64"),
        (
            np.array([[1, 1], [0, 0]], np.uint8),
            np.ones((2, 3), np.uint8),
            r"id_counts\[1\] draws no image",
        ),
    ],
)
def test_counts_are_checked(
    id_counts: npt.NDArray[np.uint8], ood_counts: npt.NDArray[np.uint8], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        intervals.bootstrap([1.0, 2.0], [0.0, 1.0, 2.0], id_counts, ood_counts)
