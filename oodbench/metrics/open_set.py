"""Metrics of open-set recognition: an ID image counts only if its class is right, too."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt

from oodbench.metrics import roc
from oodbench.metrics.sorted_scores import checked_correctness, checked_scores, rank


def oscr(id_scores: npt.ArrayLike, id_correct: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the open-set classification rate curve.

    The area under the correct classification rate, P(s_ID >= t and the class is right), against the
    false positive rate, P(s_OOD >= t), over all thresholds t (Dhamija, Günther & Boult, NeurIPS
    2018). It equals the accuracy times the AUROC of the correctly
    classified ID images, so it is at most the accuracy. Code that appends the point (1, 1) to the
    curve gives larger values.

    Ties: trapezoids, so that a pair of equal scores counts one half, the expected value over both
    orders.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        id_correct: whether each ID image is classified correctly, shape [n_id]; booleans, or 0 and
            1.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, accuracy]; higher is better.

    Raises:
        ValueError: scores are empty, are not one-dimensional, or hold NaN or infinity; or
            `id_correct` has another shape than `id_scores`, or values other than 0 and 1.
    """
    known, unknown = (
        checked_scores("id_scores", id_scores),
        checked_scores("ood_scores", ood_scores),
    )
    right = checked_correctness("id_correct", id_correct, known.size)
    if not right.any():
        return 0.0
    return float(right.mean() * roc.auroc(rank(known[right], unknown).counts()))


def ccr_at_fpr(
    id_scores: npt.ArrayLike, id_correct: npt.ArrayLike, ood_scores: npt.ArrayLike, fpr: float
) -> float:
    """Correct classification rate at a false positive rate.

    P(s_ID > t and the class is right), where t is the ceil(fpr * n_ood)-th largest OOD score
    (Dhamija, Günther & Boult, NeurIPS 2018; the threshold is OpenOOD's). The published
    rates are 1e-4, 1e-3, 1e-2 and 1e-1.

    Ties: images whose score is t are rejected together, so that fewer than `fpr` of the OOD images
    are accepted.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        id_correct: whether each ID image is classified correctly, shape [n_id]; booleans, or 0 and
            1.
        ood_scores: one score per OOD image, shape [n_ood].
        fpr: the false positive rate, a fraction in (0, 1].

    Returns:
        A fraction in [0, accuracy]; higher is better.

    Raises:
        ValueError: as `oscr`; or `fpr` is not in (0, 1].
    """
    known, unknown = (
        checked_scores("id_scores", id_scores),
        checked_scores("ood_scores", ood_scores),
    )
    right = checked_correctness("id_correct", id_correct, known.size)
    if not 0 < fpr <= 1:
        raise ValueError(f"fpr is {fpr}; expected a fraction above 0 and at most 1")
    # Exact for the decimal that was written: 0.07 * 100 is above 7 in floating point.
    place = ceil(Fraction(str(float(fpr))) * unknown.size)
    threshold = np.partition(unknown, unknown.size - place)[unknown.size - place]
    return float(np.mean(right & (known > threshold)))
