"""Metrics of selective classification: how well a score separates right from wrong predictions.

A classifier that may abstain answers for the images with the highest scores. Coverage is the
fraction of images that it answers for; selective risk is the fraction of wrong answers among them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oodbench.metrics import roc
from oodbench.metrics.sorted_scores import Array, checked_correctness, checked_scores, rank


class RiskCoverage(NamedTuple):
    """The risk-coverage curve.

    Attributes:
        coverage: fraction of images at or above each distinct score, from the highest, shape [G].
        risk: fraction of errors among these images, shape [G].
    """

    coverage: Array
    risk: Array


def aurc(scores: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean selective risk over all coverages.

    The mean over k = 1..n of (errors among the k images with the highest scores) / k (Geifman,
    Uziel & El-Yaniv, ICLR 2019). It counts errors among high scores most. FD-Shifts
    reports it times 1,000, from trapezoids instead of the mean.

    Ties: the expected value over all orders of the images with equal scores. With constant scores
    the AURC is the error rate.

    Args:
        scores: one score per ID image, shape [n]; higher is more confident.
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: `scores` is empty, is not one-dimensional, or holds NaN or infinity; or
            `correct` has another shape or other values.
    """
    sizes, errors = _errors_by_score(scores, correct)
    images = np.arange(1, sizes.sum() + 1)
    # Errors are spread evenly over the places of the images that share their score.
    above = np.repeat(np.cumsum(sizes) - sizes, sizes)
    errors_above = np.repeat(np.cumsum(errors) - errors, sizes)
    expected = errors_above + (images - above) * np.repeat(errors / sizes, sizes)
    return float(np.mean(expected / images))


def e_aurc(scores: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Excess AURC: AURC minus that of the best order, which puts all errors last.

    AURC - (e + (1 - e) ln(1 - e)), where e is the error rate (Geifman, Uziel & El-Yaniv, ICLR
    2019). The subtracted value is the limit for many images: for n images, the best order
    still has an E-AURC between 0 and e / n.

    Ties: as in `aurc`.

    Args:
        scores: one score per ID image, shape [n]; higher is more confident.
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: as `aurc`.
    """
    value = aurc(scores, correct)
    accuracy = float(np.asarray(correct, dtype=np.float64).mean())
    limit = 1 - accuracy + (accuracy * math.log(accuracy) if accuracy > 0 else 0.0)
    return value - limit


def augrc(scores: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Area under the generalized risk-coverage curve: the average risk of an undetected error.

    The generalized risk at a coverage is (errors among the answered images) / n. The area is taken
    by trapezoids, as in FD-Shifts, and equals (1 - a) e (1 - e) + e^2 / 2, where e is the error
    rate and a is the failure AUROC (Traub et al., NeurIPS 2024). The best value is
    e^2 / 2. FD-Shifts reports it times 1,000.

    Ties: trapezoids give the expected value over all orders of the images with equal scores.

    Args:
        scores: one score per ID image, shape [n]; higher is more confident.
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.

    Returns:
        A fraction in [0, 0.5]; lower is better.

    Raises:
        ValueError: as `aurc`.
    """
    sizes, errors = _errors_by_score(scores, correct)
    twice = 2 * np.cumsum(errors) - errors
    return float(np.sum(sizes * twice) / (2 * sizes.sum() ** 2))


def failure_auroc(scores: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """AUROC of correctly classified images against misclassified ones (AUROC_f).

    The probability that a correctly classified image scores above a misclassified one
    (Hendrycks & Gimpel, ICLR 2017; Jaeger et al., ICLR 2023). It does not depend on the accuracy,
    so a less accurate classifier can have the higher value. 0.5 is chance.

    Ties: a pair of equal scores counts one half, the expected value over both orders.

    Args:
        scores: one score per ID image, shape [n]; higher is more confident.
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: as `aurc`; or no image is classified correctly, or all are.
    """
    confidence = checked_scores("scores", scores)
    right = checked_correctness("correct", correct, confidence.size)
    if right.all() or not right.any():
        raise ValueError(
            "failure_auroc needs images that are classified correctly and images that are not; "
            f"correct has {right.sum()} of the first and {(~right).sum()} of the second"
        )
    return float(roc.auroc(rank(confidence[right], confidence[~right]).counts()))


def risk_coverage(scores: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """Coverage and selective risk at each threshold that can be chosen.

    The definitions of Geifman & El-Yaniv (NeurIPS 2017), on the images given.

    Ties: images with equal scores are answered together, as with any threshold.

    Args:
        scores: one score per ID image, shape [n]; higher is more confident.
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.

    Returns:
        Fractions of shape [G], one for each distinct score, by increasing coverage.

    Raises:
        ValueError: as `aurc`.
    """
    sizes, errors = _errors_by_score(scores, correct)
    answered = np.cumsum(sizes)
    return RiskCoverage(answered / answered[-1], np.cumsum(errors) / answered)


def scod_risk_coverage(
    id_scores: npt.ArrayLike, id_correct: npt.ArrayLike, ood_scores: npt.ArrayLike
) -> RiskCoverage:
    """Risk-coverage curve of selective classification with OOD images (SCOD).

    Every answer for an OOD image is an error: the risk is (misclassified ID + OOD) / all, among the
    answered images (Kim et al., 2021; Xia & Bouganis, ACCV 2022). It depends on
    the proportion of OOD images.

    Ties: as in `risk_coverage`.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        id_correct: whether each ID image is classified correctly, shape [n_id].
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        Fractions of shape [G], one for each distinct score, by increasing coverage.

    Raises:
        ValueError: scores are empty, are not one-dimensional, or hold NaN or infinity; or
            `id_correct` has another shape than `id_scores`, or values other than 0 and 1.
    """
    return risk_coverage(*_ood_as_errors(id_scores, id_correct, ood_scores))


def scod_aurc(
    id_scores: npt.ArrayLike, id_correct: npt.ArrayLike, ood_scores: npt.ArrayLike
) -> float:
    """Area under the risk-coverage curve of selective classification with OOD images (SCOD).

    `aurc` of ID and OOD images together, where every OOD image is an error (Kim et al., 2021). It
    depends on the proportion of OOD images.

    Ties: as in `aurc`.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        id_correct: whether each ID image is classified correctly, shape [n_id].
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: as `scod_risk_coverage`.
    """
    return aurc(*_ood_as_errors(id_scores, id_correct, ood_scores))


def _ood_as_errors(
    id_scores: npt.ArrayLike, id_correct: npt.ArrayLike, ood_scores: npt.ArrayLike
) -> tuple[Array, npt.NDArray[np.bool_]]:
    known, unknown = (
        checked_scores("id_scores", id_scores),
        checked_scores("ood_scores", ood_scores),
    )
    right = checked_correctness("id_correct", id_correct, known.size)
    return np.append(known, unknown), np.append(right, np.zeros(unknown.size, np.bool_))


def _errors_by_score(
    scores: npt.ArrayLike, correct: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images and errors that have each distinct score, in descending order, both of shape [G]."""
    confidence = checked_scores("scores", scores)
    wrong = ~checked_correctness("correct", correct, confidence.size)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group[wrong], minlength=sizes.size)
    return sizes.astype(np.int64), errors.astype(np.int64)
