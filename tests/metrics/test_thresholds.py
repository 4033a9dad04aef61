"""Thresholds and acceptance: against brute force, binomial tails and scipy's intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulations.threshold_transfer import simulate

from oodbench import metrics
from oodbench.metrics.thresholds import (
    Interval,
    counted_acceptance,
    images_needed,
    percentage,
    threshold_rank,
    transfer_curve,
)

RATES = st.sampled_from([0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999])


def brute_force(scores: Sequence[float], accept: float) -> float:
    """The largest score whose place in ascending order is at most (n + 1)(1 - accept)."""
    allowed = (len(scores) + 1) * (1 - Fraction(str(accept)))
    ordered = sorted(scores)
    best = -math.inf
    for place, score in enumerate(ordered, start=1):
        if place <= allowed:
            best = score
    return best


@given(
    scores=st.lists(st.integers(-5, 5).map(lambda each: each / 4), min_size=1, max_size=300),
    accept=RATES,
)
@settings(max_examples=300, deadline=None)
def test_threshold_is_the_kth_smallest_score(scores: list[float], accept: float) -> None:
    found = metrics.conformal_threshold(scores, accept)
    assert found.value == brute_force(scores, accept)
    assert (found.images, found.accept) == (len(scores), accept)
    assert accept <= found.guaranteed < accept + 1 / (len(scores) + 1) + 1e-15
    assert (found.warning is not None) == (found.value == -math.inf)
    again, rates = transfer_curve(scores, [*scores, 0.1], [accept])
    assert again.tolist() == [found.value]
    assert rates[0] == pytest.approx(metrics.acceptance([*scores, 0.1], found.value).rate)


@pytest.mark.parametrize(
    ("images", "accept", "rank"),
    [
        (9, 0.9, 1),
        (19, 0.95, 1),
        (18, 0.95, 0),
        (99, 0.99, 1),
        (999, 0.999, 1),
        (1, 0.5, 1),
        (1, 0.95, 0),
    ],
)
def test_ranks_are_exact_for_decimal_fractions(images: int, accept: float, rank: int) -> None:
    assert threshold_rank(images, accept) == rank
    assert (images >= images_needed(accept)) == (rank > 0)


def test_exchangeable_images_are_accepted_at_the_guaranteed_rate() -> None:
    # Every one of n + 1 distinct scores is the further image once: the mean is exact.
    scores = np.random.default_rng(0).normal(size=40)
    for accept in (0.5, 0.9, 0.95, 0.97, 0.975, 0.98):
        accepted = [
            scores[i] >= metrics.conformal_threshold(np.delete(scores, i), accept).value
            for i in range(scores.size)
        ]
        threshold = metrics.conformal_threshold(scores[1:], accept)
        assert np.mean(accepted) == pytest.approx(threshold.guaranteed, abs=1e-12)


def test_too_few_images_accept_all_and_say_how_many_are_needed() -> None:
    found = metrics.conformal_threshold([0.5] * 98, 0.99)
    assert (found.value, found.guaranteed) == (-math.inf, 1.0)
    assert found.warning is not None
    assert "98 validation images" in found.warning
    assert "99 %" in found.warning
    assert "At least 99 are needed" in found.warning
    assert metrics.acceptance([-1e300, 0.0], found.value).accepted == 2


def test_images_at_the_threshold_are_accepted() -> None:
    found = metrics.conformal_threshold([1.0] * 50, 0.9)
    below = np.nextafter(1.0, 0.0)
    assert metrics.acceptance([1.0, below, 2.0, 1.0], found.value).accepted == 3


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("images", [1, 2, 20, 1797])
def test_intervals_are_those_of_scipy(images: int, confidence: float) -> None:
    names: dict[Interval, str] = {"clopper-pearson": "exact", "wilson": "wilson"}
    for accepted in {0, 1, images // 2, images - 1, images}:
        for ours, theirs in names.items():
            found = counted_acceptance(accepted, images, confidence=confidence, interval=ours)
            expected = stats.binomtest(accepted, images).proportion_ci(confidence, theirs)
            assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
            assert found.low <= found.rate == accepted / images <= found.high


def test_interval_ends_have_half_the_error_in_each_tail() -> None:
    found = metrics.acceptance(np.arange(40), 5.0)
    assert (found.accepted, found.images) == (35, 40)
    assert stats.binom.sf(34, 40, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(35, 40, found.high) == pytest.approx(0.025)


@pytest.mark.parametrize("accept", [0.0, 1.0, 95, -0.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(accept: float) -> None:
    with pytest.raises(ValueError, match=r"^accept is .*above 0 and below 1, such as 0.95"):
        metrics.conformal_threshold([1.0, 2.0], accept)
    with pytest.raises(ValueError, match=r"^confidence is "):
        metrics.acceptance([1.0], 0.0, confidence=accept)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^scores\[1\] is {bad}"):
        metrics.conformal_threshold([0.0, bad])
    with pytest.raises(ValueError, match=rf"^scores\[1\] is {bad}"):
        metrics.acceptance([0.0, bad], 0.0)


def test_other_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^scores is empty"):
        metrics.conformal_threshold([])
    with pytest.raises(ValueError, match=r"^value is nan"):
        metrics.acceptance([0.0], math.nan)
    with pytest.raises(
        ValueError, match=r"unknown interval 'wald'; known: clopper-pearson, wilson"
    ):
        metrics.acceptance([0.0], 0.0, interval="wald")  # type: ignore[arg-type]
    for accepted, images in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"^accepted is"):
            counted_acceptance(accepted, images)


def test_rates_are_shown_with_their_decimals() -> None:
    assert [percentage(rate) for rate in (0.95, 0.999, 0.5)] == ["95 %", "99.9 %", "50 %"]


# --- simulation ----------------------------------------------------------------------------------

POOL = np.random.default_rng(1).gumbel(size=900)


@pytest.mark.parametrize("accept", [0.9, 0.95])
def test_thresholds_transfer(accept: float) -> None:
    """A short run of the simulation; the whole is scripts/simulations/threshold_transfer.py."""
    found = simulate(POOL, accept, 200)
    assert found.guaranteed >= accept
    assert abs(found.mean - found.guaranteed) < 4 * found.error
    assert found.covered >= 0.9
    assert found.wilson >= 0.88


def test_ties_only_raise_the_rate() -> None:
    found = simulate(np.round(POOL), 0.95, 200)
    assert found.mean > found.guaranteed + 4 * found.error
    assert found.covered >= 0.9


def test_a_quantile_without_correction_does_not_keep_the_rate() -> None:
    def quantile(scores: np.ndarray, accept: float) -> float:
        return float(np.quantile(scores, 1 - accept, method="higher"))

    found = simulate(POOL, 0.95, 200, validation=30, rule=quantile)
    corrected = simulate(POOL, 0.95, 200, validation=30)
    assert found.mean < 0.95 - 4 * found.error
    assert corrected.mean > 0.95
