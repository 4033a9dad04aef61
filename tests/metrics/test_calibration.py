"""Calibration and threshold curves: against literal sums and integrals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench import metrics

Array = npt.NDArray[np.float64]
many_seeds = given(seed=st.integers(0, 2**32 - 1))


def slow_ece(confidence: Array, correct: npt.NDArray[np.bool_], n_bins: int) -> float:
    total = 0.0
    for b in range(1, n_bins + 1):
        inside = (confidence > (b - 1) / n_bins) & (confidence <= b / n_bins)
        if b == 1:
            inside |= confidence == 0
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@many_seeds
@settings(max_examples=300, deadline=None)
def test_ece_sums_over_bins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, n_bins = int(generator.integers(1, 100)), int(generator.choice([1, 2, 10, 15, 20]))
    on_edges = generator.integers(0, n_bins + 1, size=n) / n_bins
    confidence = np.where(generator.random(n) < 0.3, on_edges, generator.random(n))
    correct = generator.random(n) < confidence
    expected = slow_ece(confidence, correct, n_bins)
    assert metrics.ece(confidence, correct, n_bins) == pytest.approx(expected, abs=1e-12)
    if n_bins == 15:
        assert metrics.ece(confidence, correct) == metrics.ece(confidence, correct, 15)


def test_ece_hand_counts() -> None:
    # Bins of 15: 0.95 and 1 share the last one, (14/15, 1]; 0 is in the first.
    assert metrics.ece([0.95, 1.0, 0.0], [1, 0, 0]) == pytest.approx(2 / 3 * (0.975 - 0.5))
    assert metrics.ece([0.5] * 4, [1, 0, 1, 0]) == 0


@pytest.mark.parametrize(
    ("confidence", "n_bins", "message"),
    [
        ([0.5, 1.5], 15, r"^confidence\[1\] is 1.5; expected values in \[0, 1\]$"),
        ([-0.1, 0.5], 15, r"^confidence\[0\] is -0.1"),
        ([np.nan, 0.5], 15, r"^confidence\[0\] is nan"),
        ([0.5, 0.5], 0, "^n_bins is 0; expected at least 1$"),
        ([0.5], 15, r"^correct has shape \(2,\)"),
    ],
)
def test_bad_confidence_is_named(confidence: list[float], n_bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.ece(confidence, [True, False], n_bins)


def slow_autc(id_scores: Array, ood_scores: Array) -> float:
    """Integrals of the two step functions, interval by interval between the scaled scores."""
    pooled = np.append(id_scores, ood_scores)
    scaled = (pooled - pooled.min()) / (pooled.max() - pooled.min())
    known, unknown = scaled[: id_scores.size], scaled[id_scores.size :]
    total = 0.0
    for low, high in pairwise(sorted(set(scaled))):
        middle = (low + high) / 2
        total += (high - low) * ((unknown >= middle).mean() + (known < middle).mean())
    return total / 2


def two_sets(seed: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    n_id, n_ood = generator.integers(2, 60, size=2)
    id_scores = generator.normal(1, 3, size=n_id).round(int(generator.integers(0, 4)))
    id_scores[:2] = 20.0, -20.0
    return id_scores, generator.normal(size=n_ood).round(1)


@many_seeds
@settings(max_examples=300, deadline=None)
def test_autc_is_the_mean_of_two_integrals(seed: int) -> None:
    id_scores, ood_scores = two_sets(seed)
    expected = slow_autc(id_scores, ood_scores)
    assert metrics.autc(id_scores, ood_scores) == pytest.approx(expected, abs=1e-12)
    # A swap of the roles with negated scores is the same separation.
    assert metrics.autc(-ood_scores, -id_scores) == pytest.approx(expected, abs=1e-12)


@many_seeds
@settings(max_examples=20, deadline=None)
def test_autc_is_that_of_pytorch_ood(seed: int) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("pytorch_ood.metrics.functional")
    id_scores, ood_scores = two_sets(seed)
    labels = torch.tensor([0] * id_scores.size + [-1] * ood_scores.size)
    outlier_scores = -torch.tensor(np.append(id_scores, ood_scores))
    theirs = float(functional.autc(outlier_scores, labels))
    assert metrics.autc(id_scores, ood_scores) == pytest.approx(theirs, abs=1e-12)


def test_autc_of_the_ends() -> None:
    assert metrics.autc([7, 7], [3]) == 0
    assert metrics.autc([3], [7, 7]) == 1
    assert metrics.autc([2, 2], [2]) == 0.5
    with pytest.raises(ValueError, match=r"^ood_scores is empty$"):
        metrics.autc([1.0], [])
