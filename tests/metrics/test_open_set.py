"""Open-set metrics: against literal curves, and against pytorch-ood."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench import metrics

Array = npt.NDArray[np.float64]
Correct = npt.NDArray[np.bool_]
many_seeds = given(seed=st.integers(0, 2**32 - 1))
RATES = (1e-4, 1e-3, 1e-2, 0.07, 0.1, 0.5, 1.0)


def tied_images(seed: int) -> tuple[Array, Correct, Array]:
    generator = np.random.default_rng(seed)
    n_id, n_ood = generator.integers(1, 80, size=2)
    levels = int(generator.integers(1, 40))
    return (
        (generator.integers(levels, size=n_id) + generator.integers(0, 5)) / 3,
        generator.random(n_id) < generator.random(),
        generator.integers(levels, size=n_ood) / 3,
    )


def slow_oscr(id_scores: Array, id_correct: Correct, ood_scores: Array) -> float:
    thresholds = [np.inf, *sorted({*id_scores, *ood_scores}, reverse=True)]
    points = [
        ((ood_scores >= t).mean(), (id_correct & (id_scores >= t)).mean()) for t in thresholds
    ]
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


@many_seeds
@settings(max_examples=300, deadline=None)
def test_oscr_is_the_area_under_the_curve(seed: int) -> None:
    images = tied_images(seed)
    found = metrics.oscr(*images)
    assert found == pytest.approx(slow_oscr(*images), abs=1e-12)
    assert 0 <= found <= images[1].mean()


@many_seeds
@settings(max_examples=50, deadline=None)
def test_oscr_is_that_of_pytorch_ood(seed: int) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("pytorch_ood.metrics.functional")
    id_scores, id_correct, ood_scores = tied_images(seed)
    labels = torch.tensor([0] * id_scores.size + [-1] * ood_scores.size)
    predictions = torch.tensor(
        [*(0 if right else 1 for right in id_correct), *[0] * ood_scores.size]
    )
    outlier_scores = -torch.tensor(np.append(id_scores, ood_scores))
    theirs = float(functional.oscr_score(outlier_scores, predictions, labels))
    assert metrics.oscr(id_scores, id_correct, ood_scores) == pytest.approx(theirs, abs=1e-6)


def test_oscr_of_a_perfect_detector_is_the_accuracy() -> None:
    assert metrics.oscr([5, 4, 3, 3], [1, 0, 1, 1], [2, 2, 1]) == 0.75
    assert metrics.oscr([5, 5], [1, 0], [5]) == 0.25
    assert metrics.oscr([5, 5], [0, 0], [1]) == 0.0


@many_seeds
@settings(max_examples=300, deadline=None)
def test_ccr_counts_above_the_threshold(seed: int) -> None:
    id_scores, id_correct, ood_scores = tied_images(seed)
    for fpr in RATES:
        place = ceil(Fraction(str(fpr)) * ood_scores.size)
        threshold = sorted(ood_scores, reverse=True)[place - 1]
        assert (ood_scores > threshold).mean() < fpr
        expected = (id_correct & (id_scores > threshold)).mean()
        assert metrics.ccr_at_fpr(id_scores, id_correct, ood_scores, fpr) == expected


def test_a_rate_is_the_decimal_that_was_written() -> None:
    # 0.07 * 100 is 7.000000000000001; the threshold is the 7th largest score, 93, not the 8th.
    found = metrics.ccr_at_fpr([93, 93.5], [True, True], np.arange(100), 0.07)
    assert found == 0.5
    assert metrics.ccr_at_fpr([92.5, 93.5], [True, True], np.arange(100), np.float64(0.07)) == 0.5


@pytest.mark.parametrize("fpr", [0, -0.1, 1.5, float("nan")])
def test_rates_outside_are_refused(fpr: float) -> None:
    with pytest.raises(ValueError, match="expected a fraction above 0 and at most 1"):
        metrics.ccr_at_fpr([1.0], [True], [0.0], fpr)


@pytest.mark.parametrize(
    ("id_scores", "id_correct", "ood_scores", "message"),
    [
        ([], [], [1.0], "^id_scores is empty$"),
        ([1.0], [True], [np.inf], r"^ood_scores\[0\] is inf"),
        ([1.0], [True, False], [1.0], r"^id_correct has shape \(2,\)"),
        ([1.0], [3], [1.0], "^id_correct has values other than 0 and 1"),
    ],
)
def test_bad_input_is_named(
    id_scores: list[float], id_correct: list[bool], ood_scores: list[float], message: str
) -> None:
    for function in (metrics.oscr, metrics.scod_aurc, metrics.scod_risk_coverage):
        with pytest.raises(ValueError, match=message):
            function(id_scores, id_correct, ood_scores)
    with pytest.raises(ValueError, match=message):
        metrics.ccr_at_fpr(id_scores, id_correct, ood_scores, 0.1)
