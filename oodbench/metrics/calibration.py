"""Metrics of scores that are read as numbers, not as an order: probabilities and thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oodbench.metrics.sorted_scores import checked_correctness, checked_scores


def ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = 15) -> float:
    """Expected calibration error: by how much confidence differs from accuracy.

    The sum over bins b of (n_b / n) |accuracy_b - mean confidence_b|, with bins of equal width,
    ((b - 1) / n_bins, b / n_bins] (Guo et al., ICML 2017, equation 3). A confidence of 0 is in the
    first bin. The value depends on the number of bins.

    Ties: equal confidences are in one bin; their order does not matter.

    Args:
        confidence: probability of the predicted class of each ID image, shape [n], in [0, 1].
        correct: whether each image is classified correctly, shape [n]; booleans, or 0 and 1.
        n_bins: number of bins.

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: `confidence` is empty, is not one-dimensional, or holds values outside [0, 1];
            `correct` has another shape or other values; or `n_bins` is less than 1.
    """
    probability = checked_scores("confidence", confidence)
    right = checked_correctness("correct", correct, probability.size)
    outside = (probability < 0) | (probability > 1)
    if outside.any():
        index = int(np.argmax(outside))
        raise ValueError(f"confidence[{index}] is {probability[index]}; expected values in [0, 1]")
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; expected at least 1")
    inner_edges = np.arange(1, n_bins) / n_bins
    gap = np.bincount(np.searchsorted(inner_edges, probability), weights=right - probability)
    return float(np.abs(gap).sum() / probability.size)


def autc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the threshold curve: the mean error of all thresholds, not of the best ones.

    (integral of FPR(t) dt + integral of FNR(t) dt) / 2 over t in [0, 1], where FPR(t) is
    P(s_OOD >= t) and FNR(t) is P(s_ID < t) (Humblot-Renaux, Escalera & Moeslund, CVPRW 2023). The
    scores of all images together are scaled to [0, 1] first, as pytorch-ood does. The rates are
    step functions with exact integrals, which give (1 + mean s_OOD - mean s_ID) / 2. An increasing
    function of the scores changes the AUTC, and one extreme score can dominate it.

    Ties: they have no effect. If all scores are equal, every scale gives 0.5.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    known, unknown = (
        checked_scores("id_scores", id_scores),
        checked_scores("ood_scores", ood_scores),
    )
    lowest = min(known.min(), unknown.min())
    span = max(known.max(), unknown.max()) - lowest
    if span == 0:
        return 0.5
    return float((1 + ((unknown - lowest) / span).mean() - ((known - lowest) / span).mean()) / 2)
