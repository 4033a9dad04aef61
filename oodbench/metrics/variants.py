"""The metrics as other code defines them, for comparison with published numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from oodbench.metrics.roc import measure, ood_above_at_95_tpr, precision, ratio
from oodbench.metrics.sorted_scores import Array, Counts


def lee(counts: Counts) -> dict[str, Array]:
    """The six metrics as the code of Lee et al. (2018) defines them; counts of shape [G + 1]."""
    id_left, ood_left = _removal_pass(counts)
    n_id, n_ood = id_left[0], ood_left[0]
    tpr, fpr = id_left / n_id, ood_left / n_ood
    # The published code also adds points to the other ends of the curves; none has any width. The
    # step with nothing left has no precision in, the step with nothing removed none out.
    precision_in = id_left[:-1] / (id_left[:-1] + ood_left[:-1])
    id_gone, ood_gone = n_id - id_left[1:], n_ood - ood_left[1:]
    precision_out = ood_gone / (id_gone + ood_gone)
    return {
        "auroc": -_trapezoid(1 - fpr, tpr),
        "tnr_at_95_tpr": 1 - _fpr_nearest_95_tpr(id_left, ood_left),
        "dtacc": np.max((tpr + (1 - fpr)) / 2),
        "aupr_in": -_trapezoid(np.append(precision_in, 0), np.append(tpr[:-1], 0)),
        "aupr_out": _trapezoid(np.append(0, precision_out), np.append(0, 1 - fpr[1:])),
        "fpr95_ood_positive": _fpr_nearest_95_tpr(*_removal_pass(counts.swapped())),
    }


def _removal_pass(counts: Counts) -> tuple[Array, Array]:
    """ID and OOD images left as they are removed one by one by ascending score, shape [N + 1].

    Among equal scores the ID images go first, which makes every tie count as an error.
    """
    per_score = np.stack([np.diff(counts.id_above), np.diff(counts.ood_above)], axis=1)[::-1]
    is_id = np.repeat(np.tile([True, False], per_score.shape[0]), per_score.ravel().astype(np.intp))
    id_left = counts.n_id - np.concatenate([[0], np.cumsum(is_id)])
    ood_left = counts.n_ood - np.concatenate([[0], np.cumsum(~is_id)])
    return id_left, ood_left


def _fpr_nearest_95_tpr(id_left: Array, ood_left: Array) -> Array:
    # In floating point, as published: where two steps are equally near, rounding picks one.
    step = np.argmin(np.abs(id_left / id_left[0] - 0.95))
    return ratio(ood_left[step], ood_left[0])


def openood(counts: Counts) -> dict[str, Array]:
    """The six metrics as OpenOOD defines them; counts of shape [G + 1]."""
    swapped = counts.swapped()
    bends = _without_collinear_points(swapped)
    return measure(counts) | {
        "aupr_in": _precision_recall_trapezoid(counts),
        "aupr_out": _precision_recall_trapezoid(swapped),
        "fpr95_ood_positive": ratio(ood_above_at_95_tpr(bends), bends.n_ood),
    }


def _precision_recall_trapezoid(counts: Counts) -> Array:
    values = np.concatenate([[1.0], precision(counts)])
    return _trapezoid(values, counts.id_above / counts.n_id)


def _without_collinear_points(counts: Counts) -> Counts:
    """The thresholds that scikit-learn's `roc_curve` keeps by default.

    It drops a finite threshold where both counts grow as much as at the threshold before it. The
    area does not change, but the first kept point with a TPR of 95% may be further along.
    """
    id_bends = np.diff(counts.id_above[1:], n=2) != 0
    ood_bends = np.diff(counts.ood_above[1:], n=2) != 0
    # The ends stay; so does the first finite threshold: +infinity is put before it afterwards.
    kept = np.ones(counts.id_above.size, dtype=np.bool_)
    kept[2:-1] = id_bends | ood_bends
    return Counts(counts.id_above[kept], counts.ood_above[kept])


def _trapezoid(y: Array, x: Array) -> Array:
    return np.asarray(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2, dtype=np.float64)


VARIANTS: Mapping[str, Callable[[Counts], dict[str, Array]]] = MappingProxyType(
    {"adopted": measure, "lee": lee, "openood": openood}
)
