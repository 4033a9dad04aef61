"""Metrics against scikit-learn, against slow literal definitions, and against hand counts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from oodbench import metrics

Array = npt.NDArray[np.float64]
Scores = tuple[Array, Array]
FUNCTIONS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    name: getattr(metrics, name) for name in metrics.METRICS
}
TOLERANCE = 1e-12


def tied_scores(seed: int) -> Scores:
    """A few ID and OOD scores on a few levels: many ties, any overlap, sometimes one image."""
    generator = np.random.default_rng(seed)
    n_id, n_ood = generator.integers(1, 60, size=2)
    levels = int(generator.integers(1, 25))
    shift = int(generator.integers(-levels, levels + 1))
    step = generator.choice([1.0, 1 / 3, 1e-9, 1e6])
    return (
        step * (generator.integers(levels, size=n_id) + shift),
        step * generator.integers(levels, size=n_ood),
    )


many_seeds = given(seed=st.integers(0, 2**32 - 1))


def labeled(id_scores: Array, ood_scores: Array) -> Scores:
    labels = np.concatenate([np.ones(id_scores.size), np.zeros(ood_scores.size)])
    return labels, np.concatenate([id_scores, ood_scores])


# --- slow, literal references ------------------------------------------------------------------

ENOUGH = Fraction(95, 100)


def share(chosen: npt.NDArray[np.bool_]) -> Fraction:
    return Fraction(int(chosen.sum()), chosen.size)


def slow_tnr(id_scores: Array, ood_scores: Array) -> float:
    enough = [tau for tau in id_scores if share(id_scores >= tau) >= ENOUGH]
    return float(share(ood_scores < max(enough)))


def slow_dtacc(id_scores: Array, ood_scores: Array) -> float:
    thresholds = [*id_scores, *ood_scores, -np.inf, np.inf]
    return float(max(share(id_scores >= t) + share(ood_scores < t) for t in thresholds) / 2)


def slow_fpr95(id_scores: Array, ood_scores: Array) -> float:
    enough = [tau for tau in ood_scores if share(ood_scores <= tau) >= ENOUGH]
    return float(share(id_scores <= min(enough)))


def slow_auroc(id_scores: Array, ood_scores: Array) -> float:
    pairs = id_scores[:, np.newaxis] - ood_scores
    return float(share(pairs > 0) + share(pairs == 0) / 2)


def slow_trapezoid(points: list[tuple[float, float]]) -> float:
    """Area under (x, y) points, whichever way x runs."""
    return abs(sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points)))


def slow_pass(positive: Array, negative: Array) -> list[tuple[int, int]]:
    """Images left after each removal: the lowest score goes, the positive one first on a tie."""
    positives, negatives = sorted(positive), sorted(negative)
    steps = [(len(positives), len(negatives))]
    while positives or negatives:
        if not negatives or (positives and positives[0] <= negatives[0]):
            positives.pop(0)
        else:
            negatives.pop(0)
        steps.append((len(positives), len(negatives)))
    return steps


def slow_nearest_fpr(steps: list[tuple[int, int]]) -> float:
    n_positive, n_negative = steps[0]
    nearest = min(steps, key=lambda step: abs(step[0] / n_positive - 0.95))
    return nearest[1] / n_negative


def slow_lee(id_scores: Array, ood_scores: Array) -> dict[str, float]:
    steps = slow_pass(id_scores, ood_scores)
    n_id, n_ood = steps[0]
    tpr = [left / n_id for left, _ in steps]
    tnr = [1 - left / n_ood for _, left in steps]
    pr_in = [(1.0, 0.5)]
    pr_out = [(0.0, 0.0)]
    for id_left, ood_left in steps:
        if id_left + ood_left > 0:
            pr_in.append((id_left / n_id, id_left / (id_left + ood_left)))
        id_gone, ood_gone = n_id - id_left, n_ood - ood_left
        if id_gone + ood_gone > 0:
            pr_out.append((ood_gone / n_ood, ood_gone / (id_gone + ood_gone)))
    return {
        "auroc": slow_trapezoid([(1.0, 0.0), *zip(tpr, tnr, strict=True), (0.0, 1.0)]),
        "tnr_at_95_tpr": 1 - slow_nearest_fpr(steps),
        "dtacc": max((a + b) / 2 for a, b in zip(tpr, tnr, strict=True)),
        "aupr_in": slow_trapezoid([*pr_in, (0.0, 0.0)]),
        "aupr_out": slow_trapezoid([*pr_out, (1.0, 0.5)]),
        "fpr95_ood_positive": slow_nearest_fpr(slow_pass(-ood_scores, -id_scores)),
    }


def sklearn_openood(id_scores: Array, ood_scores: Array) -> dict[str, float]:
    is_id, scores = labeled(id_scores, ood_scores)
    fpr, tpr, _ = sk.roc_curve(1 - is_id, -scores)
    precision_in, recall_in, _ = sk.precision_recall_curve(is_id, scores)
    precision_out, recall_out, _ = sk.precision_recall_curve(1 - is_id, -scores)
    return {
        "auroc": sk.auc(fpr, tpr),
        "tnr_at_95_tpr": slow_tnr(id_scores, ood_scores),
        "dtacc": slow_dtacc(id_scores, ood_scores),
        "aupr_in": sk.auc(recall_in, precision_in),
        "aupr_out": sk.auc(recall_out, precision_out),
        "fpr95_ood_positive": next(f for f, t in zip(fpr, tpr, strict=True) if t >= 0.95),
    }


# --- the adopted definitions -------------------------------------------------------------------


@many_seeds
@settings(max_examples=1000, deadline=None)
def test_areas_are_those_of_scikit_learn(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    is_id, scores = labeled(id_scores, ood_scores)
    expected = {
        "auroc": sk.roc_auc_score(is_id, scores),
        "aupr_in": sk.average_precision_score(is_id, scores),
        "aupr_out": sk.average_precision_score(1 - is_id, -scores),
    }
    found = metrics.evaluate(id_scores, ood_scores)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=TOLERANCE)


@many_seeds
@settings(max_examples=1000, deadline=None)
def test_thresholds_are_those_of_a_pass(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    found = metrics.evaluate(id_scores, ood_scores)
    assert found["auroc"] == slow_auroc(id_scores, ood_scores)
    assert found["tnr_at_95_tpr"] == slow_tnr(id_scores, ood_scores)
    assert found["fpr95_ood_positive"] == slow_fpr95(id_scores, ood_scores)
    assert found["dtacc"] == pytest.approx(slow_dtacc(id_scores, ood_scores), abs=TOLERANCE)


@many_seeds
@settings(max_examples=200, deadline=None)
def test_each_function_agrees_with_evaluate(seed: int) -> None:
    scores = tied_scores(seed)
    one_by_one = {name: function(*scores) for name, function in FUNCTIONS.items()}
    assert one_by_one == metrics.evaluate(*scores)


@many_seeds
@settings(max_examples=200, deadline=None)
def test_swapping_roles_and_signs(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    swapped = (-ood_scores, -id_scores)
    assert metrics.aupr_out(id_scores, ood_scores) == pytest.approx(
        metrics.aupr_in(*swapped), rel=1e-14
    )  # the terms are summed in the other order
    assert metrics.auroc(id_scores, ood_scores) == metrics.auroc(*swapped)
    assert metrics.dtacc(id_scores, ood_scores) == metrics.dtacc(*swapped)
    assert metrics.fpr95_ood_positive(id_scores, ood_scores) == pytest.approx(
        1 - metrics.tnr_at_95_tpr(*swapped), abs=TOLERANCE
    )


@pytest.mark.parametrize("variant", ["adopted", "lee", "openood"])
@many_seeds
@settings(max_examples=200, deadline=None)
def test_only_the_order_of_scores_matters(variant: metrics.Variant, seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    levels, codes = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    transformed = (np.exp2(np.arange(levels.size)) - 7)[codes]
    shuffle = np.random.default_rng(seed).permutation
    assert metrics.evaluate(
        shuffle(transformed[: id_scores.size]), shuffle(transformed[id_scores.size :]), variant
    ) == metrics.evaluate(id_scores, ood_scores, variant)


def test_hand_counted_example() -> None:
    # 4 ID and 2 OOD images. Pairs won by ID: 2 + 2 + 1.5 + 0 of 8. Every ID image must be kept for
    # 95%, so tau = 0 and no OOD image is below it. Best threshold 3: TPR 2/4, TNR 2/2.
    # Precision at each ID recall step: 1/1, 2/2, 3/4 (a tie), 4/6; at OOD steps: 1/2, 2/4.
    found = metrics.evaluate([4.0, 3.0, 2.0, 0.0], [2.0, 1.0])
    assert found == pytest.approx(
        {
            "auroc": 5.5 / 8,
            "tnr_at_95_tpr": 0.0,
            "dtacc": 0.75,
            "aupr_in": (1 + 1 + 3 / 4 + 4 / 6) / 4,
            "aupr_out": (1 / 2 + 2 / 4) / 2,
            "fpr95_ood_positive": 2 / 4,
        },
        abs=TOLERANCE,
    )


def test_half_of_ood_tied_with_all_of_id() -> None:
    # The example of protocols.md section 6: true AUROC 0.75, Lee's code 0.50.
    id_scores, ood_scores = np.ones(10), np.repeat([0.0, 1.0], 5)
    assert metrics.evaluate(id_scores, ood_scores)["auroc"] == 0.75
    assert metrics.evaluate(id_scores, ood_scores, "lee")["auroc"] == pytest.approx(0.5)
    assert metrics.tie_fraction(id_scores, ood_scores) == 0.5


def test_rounded_gaussians() -> None:
    # protocols.md section 6 saw 0.640 with Lee's code where 0.746 is right, on one sample. The
    # exact values for N(1, 1) against N(0, 1), rounded to integers, are 0.635 and 0.743.
    generator = np.random.default_rng(0)
    id_scores = np.round(generator.normal(1, 1, 100_000))
    ood_scores = np.round(generator.normal(0, 1, 100_000))
    assert metrics.evaluate(id_scores, ood_scores)["auroc"] == pytest.approx(0.743, abs=0.003)
    assert metrics.evaluate(id_scores, ood_scores, "lee")["auroc"] == pytest.approx(
        0.635, abs=0.003
    )


@pytest.mark.parametrize("n", range(20, 2001, 20))
def test_95_percent_is_exact(n: int) -> None:
    # With n distinct ID scores exactly 19 n / 20 are kept: the n / 20 lowest are not.
    id_scores = np.arange(n)
    below = np.arange(n) - 0.5
    assert metrics.tnr_at_95_tpr(id_scores, below) == (n // 20 + 1) / n
    assert metrics.fpr95_ood_positive(below, id_scores) == 19 * n // 20 / n


@pytest.mark.parametrize(("n_id", "n_ood"), [(1, 1), (7, 3), (40, 25)])
def test_constant_scores(n_id: int, n_ood: int) -> None:
    id_scores, ood_scores = np.full(n_id, 0.3), np.full(n_ood, 0.3)
    assert metrics.evaluate(id_scores, ood_scores) == pytest.approx(
        {
            "auroc": 0.5,
            "tnr_at_95_tpr": 0.0,
            "dtacc": 0.5,
            "aupr_in": n_id / (n_id + n_ood),
            "aupr_out": n_ood / (n_id + n_ood),
            "fpr95_ood_positive": 1.0,
        }
    )
    assert metrics.evaluate(id_scores, ood_scores, "lee")["auroc"] == 0.0
    assert metrics.tie_fraction(id_scores, ood_scores) == 1.0


@pytest.mark.parametrize("sizes", [(1, 1), (1, 30), (30, 1), (25, 40)])
def test_perfect_separation(sizes: tuple[int, int]) -> None:
    id_scores, ood_scores = 1.0 + np.arange(sizes[0]), -1.0 - np.arange(sizes[1])
    best = {name: float(metric.higher_is_better) for name, metric in metrics.METRICS.items()}
    assert metrics.evaluate(id_scores, ood_scores) == best
    assert metrics.evaluate(id_scores, ood_scores, "openood") == pytest.approx(best)
    assert metrics.tie_fraction(id_scores, ood_scores) == 0.0


def test_perfectly_reversed() -> None:
    # Average precision is at its least: the k-th positive of 2 comes after all 3 negatives.
    assert metrics.evaluate([0.0, 1.0], [2.0, 3.0, 4.0]) == pytest.approx(
        {
            "auroc": 0.0,
            "tnr_at_95_tpr": 0.0,
            "dtacc": 0.5,
            "aupr_in": (1 / 4 + 2 / 5) / 2,
            "aupr_out": (1 / 3 + 2 / 4 + 3 / 5) / 3,
            "fpr95_ood_positive": 1.0,
        },
        abs=TOLERANCE,
    )


@many_seeds
@settings(max_examples=200, deadline=None)
def test_tie_fraction_counts_pairs(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    tied = share(id_scores[:, np.newaxis] == ood_scores)
    assert metrics.tie_fraction(id_scores, ood_scores) == float(tied)


def test_neighboring_floats_are_not_ties() -> None:
    low, high = np.float64(1.0), np.nextafter(1.0, 2.0)
    assert metrics.auroc([high], [low]) == 1.0
    assert metrics.auroc([0.0], [-0.0]) == 0.5


def test_a_million_images_of_each() -> None:
    generator = np.random.default_rng(0)
    id_scores = np.round(generator.normal(1, 1, 1_000_000), 4)
    ood_scores = np.round(generator.normal(0, 1, 1_000_000), 4)
    is_id, scores = labeled(id_scores, ood_scores)
    found = metrics.evaluate(id_scores, ood_scores)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(is_id, scores), abs=TOLERANCE)
    expected = sk.average_precision_score(is_id, scores)
    assert found["aupr_in"] == pytest.approx(expected, abs=TOLERANCE)
    tau = np.sort(id_scores)[50_000]
    assert found["tnr_at_95_tpr"] == np.mean(ood_scores < tau)


# --- variants ----------------------------------------------------------------------------------


@many_seeds
@settings(max_examples=500, deadline=None)
def test_lee_is_the_published_pass(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    found = metrics.evaluate(id_scores, ood_scores, "lee")
    assert found == pytest.approx(slow_lee(id_scores, ood_scores), abs=TOLERANCE)


@many_seeds
@settings(max_examples=500, deadline=None)
def test_openood_is_scikit_learns_curves(seed: int) -> None:
    id_scores, ood_scores = tied_scores(seed)
    found = metrics.evaluate(id_scores, ood_scores, "openood")
    assert found == pytest.approx(sklearn_openood(id_scores, ood_scores), abs=TOLERANCE)


def test_openood_without_ties() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(1, 1, 997), generator.normal(0, 1, 1003)
    expected = pytest.approx(sklearn_openood(*scores), abs=TOLERANCE)
    assert metrics.evaluate(*scores, "openood") == expected


def test_fpr95_is_the_share_of_id_flagged_where_95_percent_of_ood_are() -> None:
    # 19 of the 20 OOD images score at most 18; so do 3 of the 5 ID images.
    id_scores, ood_scores = np.array([0.5, 5.5, 17.5, 18.5, 30.0]), np.arange(20.0)
    for variant in ("adopted", "openood"):
        assert metrics.evaluate(id_scores, ood_scores, variant)["fpr95_ood_positive"] == 0.6
    # At 18, the ID image that ties with the OOD image is flagged as well.
    id_scores[3] = 18.0
    assert metrics.fpr95_ood_positive(id_scores, ood_scores) == 0.8


@many_seeds
def test_fpr95_equals_openoods_if_no_id_score_equals_an_ood_score(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permutation(60.0 + np.arange(60))
    n_id = int(generator.integers(1, 59))
    found = metrics.fpr95_ood_positive(scores[:n_id], scores[n_id:])
    assert found == sklearn_openood(scores[:n_id], scores[n_id:])["fpr95_ood_positive"]


def test_openood_drops_the_threshold_that_has_95_percent() -> None:
    # One ID and one OOD image on each of 40 levels: the ROC curve is one straight line, and all but
    # its ends are dropped. The first end with an OOD-TPR of 95% flags every ID image.
    levels = np.arange(40.0)
    assert metrics.fpr95_ood_positive(levels, levels) == 0.95
    assert metrics.evaluate(levels, levels, "openood")["fpr95_ood_positive"] == 1.0


def test_lee_takes_the_nearest_tpr() -> None:
    # Of 10 ID images, TPR 0.9 and 1.0 are equally near to 0.95 but for rounding, which picks 0.9.
    # The first step at 1.0 has removed nothing, the first at 0.9 has removed the lowest OOD image.
    id_scores, ood_scores = np.arange(10.0), np.array([-0.5, 0.5])
    assert metrics.evaluate(id_scores, ood_scores, "lee")["tnr_at_95_tpr"] == 0.5
    # Of 8 ID images, 7/8 is further from 0.95 than 1.0 is.
    assert metrics.evaluate(id_scores[:8], ood_scores, "lee")["tnr_at_95_tpr"] == 0.0


def test_variants_agree_on_many_distinct_scores() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(1, 1, 20_000), generator.normal(0, 1, 20_000)
    adopted = metrics.evaluate(*scores)
    assert metrics.evaluate(*scores, "lee") == pytest.approx(adopted, abs=2e-3)
    assert metrics.evaluate(*scores, "openood") == pytest.approx(adopted, abs=2e-3)


def test_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'leee'; known: adopted, lee, openood"):
        metrics.evaluate([1.0], [0.0], "leee")  # type: ignore[arg-type]


# --- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], r"^id_scores is empty$"),
        ([1.0], [], r"^ood_scores is empty$"),
        ([[1.0, 2.0]], [1.0], r"^id_scores has shape \(1, 2\); expected one score per image"),
        ([1.0], 1.0, r"^ood_scores has shape \(\); expected one score per image"),
        ([0.0, 1.0, np.nan, np.nan], [1.0], r"^id_scores\[2\] is nan; scores must be finite$"),
        ([0.0], [0.0, np.inf], r"^ood_scores\[1\] is inf; scores must be finite$"),
        ([0.0], [-np.inf, np.nan], r"^ood_scores\[0\] is -inf; scores must be finite$"),
    ],
)
@pytest.mark.parametrize("function", [*FUNCTIONS.values(), metrics.evaluate, metrics.tie_fraction])
def test_bad_scores_are_named(
    function: Callable[..., object],
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        function(id_scores, ood_scores)


def test_lists_integers_and_float32_are_taken() -> None:
    id_scores, ood_scores = [3, 2, 2, 0], [2, 1, -1]
    expected = metrics.evaluate(np.array(id_scores, float), np.array(ood_scores, float))
    assert metrics.evaluate(id_scores, ood_scores) == expected
    float32 = np.array(id_scores, np.float32), np.array(ood_scores, np.float32)
    assert metrics.evaluate(*float32) == expected


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    tensors = torch.tensor([3.0, 2.0, 2.0, 0.0]), torch.tensor([2.0, 1.0, -1.0])
    expected = metrics.evaluate([3, 2, 2, 0], [2, 1, -1])
    assert metrics.evaluate(*tensors) == expected


def test_arguments_are_not_changed() -> None:
    id_scores, ood_scores = np.array([3.0, 1.0, 2.0]), np.array([0.0, 5.0, 1.0])
    metrics.evaluate(id_scores, ood_scores)
    assert id_scores.tolist() == [3.0, 1.0, 2.0]
    assert ood_scores.tolist() == [0.0, 5.0, 1.0]


def test_every_metric_is_described() -> None:
    assert list(metrics.METRICS) == list(metrics.evaluate([1.0], [0.0]))
    short_titles = [metric.short_title for metric in metrics.METRICS.values()]
    assert len(set(short_titles)) == len(short_titles)
    lower = [name for name, metric in metrics.METRICS.items() if not metric.higher_is_better]
    assert lower == ["fpr95_ood_positive"]
