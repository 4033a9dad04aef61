"""Selective classification: against every order of tied images, and against literal curves."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations
from math import log

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench import metrics

Array = npt.NDArray[np.float64]
Correct = npt.NDArray[np.bool_]
TOLERANCE = 1e-12
answers = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6)
many_answers = st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=60)


def split(images: list[tuple[int, bool]]) -> tuple[Array, Correct]:
    """Scores on a third, and whether each image is right."""
    return np.array([s for s, _ in images]) / 3, np.array([right for _, right in images])


# --- slow, literal references ------------------------------------------------------------------


def errors_in_each_order(images: list[tuple[int, bool]]) -> list[list[int]]:
    """Errors among the first k images, k = 1..n, for each order that sorts the scores."""
    orders = []
    for order in permutations(images):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            wrong = [not right for _, right in order]
            orders.append([sum(wrong[:k]) for k in range(1, len(wrong) + 1)])
    return orders


def slow_aurc(images: list[tuple[int, bool]]) -> Fraction:
    orders = errors_in_each_order(images)
    areas = [sum(Fraction(e, k) for k, e in enumerate(errors, 1)) for errors in orders]
    return sum(areas, Fraction(0)) / (len(areas) * len(images))


def slow_augrc(images: list[tuple[int, bool]]) -> Fraction:
    """Trapezoids under errors / n from coverage 0, mean over orders."""
    orders = errors_in_each_order(images)
    areas = [sum(Fraction(a + b, 2) for a, b in pairwise([0, *errors])) for errors in orders]
    return sum(areas, Fraction(0)) / (len(areas) * len(images) ** 2)


def slow_risk_coverage(scores: Array, correct: Correct) -> list[tuple[float, float]]:
    curve = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        answered = scores >= threshold
        curve.append((answered.mean(), (answered & ~correct).sum() / answered.sum()))
    return curve


# --- the metrics -------------------------------------------------------------------------------


@given(images=answers)
@settings(max_examples=150, deadline=None)
def test_areas_are_means_over_the_orders_of_tied_images(images: list[tuple[int, bool]]) -> None:
    scores, correct = split(images)
    assert metrics.aurc(scores, correct) == pytest.approx(float(slow_aurc(images)), abs=TOLERANCE)
    assert metrics.augrc(scores, correct) == pytest.approx(float(slow_augrc(images)), abs=TOLERANCE)


@given(images=many_answers)
@settings(max_examples=200, deadline=None)
def test_e_aurc_subtracts_the_best_area(images: list[tuple[int, bool]]) -> None:
    scores, correct = split(images)
    e = 1 - correct.mean()
    best = e + (1 - e) * log(1 - e) if e < 1 else 1.0
    expected = metrics.aurc(scores, correct) - best
    assert metrics.e_aurc(scores, correct) == pytest.approx(expected, abs=TOLERANCE)
    of_best_order = metrics.e_aurc(correct + 0.0, correct)
    assert metrics.e_aurc(scores, correct) >= -TOLERANCE
    perfect = metrics.e_aurc(np.arange(correct.size), np.sort(correct))
    assert -TOLERANCE <= perfect <= e / correct.size + TOLERANCE
    assert perfect <= of_best_order + TOLERANCE, "tied errors cannot be better than the best order"


@given(images=many_answers)
@settings(max_examples=200, deadline=None)
def test_failure_auroc_counts_pairs(images: list[tuple[int, bool]]) -> None:
    scores, correct = split(images)
    if correct.all() or not correct.any():
        with pytest.raises(ValueError, match="needs images that are classified correctly and"):
            metrics.failure_auroc(scores, correct)
        return
    pairs = scores[correct][:, np.newaxis] - scores[~correct]
    expected = ((pairs > 0).sum() + (pairs == 0).sum() / 2) / pairs.size
    found = metrics.failure_auroc(scores, correct)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    e = 1 - correct.mean()
    identity = (1 - found) * e * (1 - e) + e**2 / 2
    assert metrics.augrc(scores, correct) == pytest.approx(identity, abs=TOLERANCE)


@given(images=many_answers)
@settings(max_examples=200, deadline=None)
def test_curve_has_a_point_for_each_distinct_score(images: list[tuple[int, bool]]) -> None:
    scores, correct = split(images)
    coverage, risk = metrics.risk_coverage(scores, correct)
    expected = np.array(slow_risk_coverage(scores, correct))
    np.testing.assert_allclose(np.stack([coverage, risk], axis=1), expected, rtol=0, atol=TOLERANCE)


@given(known=many_answers, unknown=st.lists(st.integers(0, 15), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_ood_images_are_errors(known: list[tuple[int, bool]], unknown: list[int]) -> None:
    together = split([*known, *((score, False) for score in unknown)])
    scores, correct = split(known)
    ood_scores = np.array(unknown) / 3
    assert metrics.scod_aurc(scores, correct, ood_scores) == metrics.aurc(*together)
    curve = metrics.scod_risk_coverage(scores, correct, ood_scores)
    expected = np.array(slow_risk_coverage(*together))
    np.testing.assert_allclose(np.stack(curve, axis=1), expected, rtol=0, atol=TOLERANCE)


def test_hand_counts() -> None:
    scores, correct = [4, 3, 2, 1], [1, 0, 1, 0]
    assert metrics.aurc(scores, correct) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert metrics.augrc(scores, correct) == pytest.approx((0 + 0.5 + 1 + 1.5) / 16)
    assert metrics.failure_auroc(scores, correct) == 0.75
    assert metrics.aurc([1, 1, 1, 1], correct) == 0.5
    assert metrics.augrc([2, 2, 1, 1], [1, 1, 0, 0]) == 0.5**2 / 2


def test_many_images() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=300_000).round(4)
    correct = generator.random(scores.size) < 1 / (1 + np.exp(-2 * scores))
    e, auroc = 1 - correct.mean(), metrics.failure_auroc(scores, correct)
    identity = (1 - auroc) * e * (1 - e) + e**2 / 2
    assert metrics.augrc(scores, correct) == pytest.approx(identity, abs=TOLERANCE)
    assert 0 < metrics.e_aurc(scores, correct) < metrics.aurc(scores, correct) < e


@pytest.mark.parametrize("function", [metrics.aurc, metrics.e_aurc, metrics.augrc])
def test_no_errors_and_only_errors(function: object) -> None:
    assert callable(function)
    assert function([1, 2, 2], [True] * 3) == 0
    only_errors = {metrics.aurc: 1, metrics.e_aurc: 0, metrics.augrc: 0.5}
    assert function([1, 2, 2], [False] * 3) == pytest.approx(only_errors[function])


@pytest.mark.parametrize(
    "function",
    [
        metrics.aurc,
        metrics.e_aurc,
        metrics.augrc,
        metrics.failure_auroc,
        metrics.risk_coverage,
    ],
)
@pytest.mark.parametrize(
    ("scores", "correct", "message"),
    [
        ([], [], r"^scores is empty$"),
        ([1.0, np.nan], [1, 0], r"^scores\[1\] is nan; scores must be finite$"),
        ([1.0, 2.0], [1], r"^correct has shape \(1,\); expected one value per score, shape \[2\]$"),
        ([1.0, 2.0], [1, 2], r"^correct has values other than 0 and 1"),
        ([1.0, 2.0], [1.0, np.nan], r"^correct has values other than 0 and 1"),
    ],
)
def test_bad_input_is_named(
    function: object, scores: list[float], correct: list[float], message: str
) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=message):
        function(scores, correct)


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    scores, correct = [4.0, 3.0, 3.0, 1.0], [1, 0, 1, 0]
    tensors = torch.tensor(scores), torch.tensor(correct).bool()
    for function in (metrics.aurc, metrics.e_aurc, metrics.augrc, metrics.failure_auroc):
        assert function(*tensors) == function(scores, correct)
