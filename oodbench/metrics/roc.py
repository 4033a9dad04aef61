"""Areas and points of the ROC and precision-recall curves, as functions of counts.

Each function takes one set of counts, or many at once (bootstrap resamples), which scikit-learn's
`roc_auc_score` and `average_precision_score` do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from oodbench.metrics.sorted_scores import Array, Counts


def auroc(counts: Counts) -> Array:
    """Area under the ROC curve (`oodbench.metrics.auroc`), shape [...]."""
    # Each OOD image loses to the ID images above it, and by half to those it ties with: the sum of
    # the counts at the threshold and just above it is twice that, and a whole number.
    twice_won = counts.id_above[..., 1:] + counts.id_above[..., :-1]
    twice_won *= counts.ood_at
    return ratio(twice_won.sum(axis=-1), 2 * counts.n_id * counts.n_ood)


def ood_above_at_95_tpr(counts: Counts) -> Array:
    """OOD images at or above the largest ID score that keeps 95% of the ID images, shape [...]."""
    # The first threshold that keeps enough is an ID score that was drawn, because the count of ID
    # images grows there.
    enough = counts.id_above >= _95_percent(counts.n_id)[..., np.newaxis]
    return _taken(counts.ood_above, np.argmax(enough, axis=-1))


def threshold_at_95_tpr(id_scores: Array) -> float:
    """The largest ID score that keeps 95% of the ID images, of scores of shape [N].

    `tnr_at_95_tpr` counts OOD images at or above it.
    """
    below = id_scores.size // 20
    return float(np.partition(id_scores, below)[below])


def tnr_at_95_tpr(counts: Counts) -> Array:
    """True negative rate at 95% true positive rate, shape [...]."""
    return ratio(counts.n_ood - ood_above_at_95_tpr(counts), counts.n_ood)


def fpr95_ood_positive(counts: Counts) -> Array:
    """False positive rate at 95% true positive rate with OOD positive, shape [...]."""
    # As `ood_above_at_95_tpr` of `counts.swapped()`: the last threshold with so few OOD images at
    # or above it that 95% are below.
    most = counts.n_ood - _95_percent(counts.n_ood)
    too_many = counts.ood_above > most[..., np.newaxis]
    accepted = _taken(counts.id_above, np.argmax(too_many, axis=-1) - 1)
    return ratio(counts.n_id - accepted, counts.n_id)


def _95_percent(images: Array) -> Array:
    """The least number of images that is at least 95% of them."""
    # 0.95 is not a binary fraction; 19 n / 20 is exact where it is whole.
    return np.asarray(np.ceil(19 * images / 20))


def _taken(above: Array, index: npt.NDArray[np.intp]) -> Array:
    """A count for each row, shape [...], of counts of shape [..., G + 1]."""
    taken: Array = np.take_along_axis(above, index[..., np.newaxis], axis=-1)[..., 0]
    return taken


def dtacc(counts: Counts) -> Array:
    """Detection accuracy, shape [...]."""
    # (TPR + TNR) / 2 = 1/2 + (TPR - FPR) / 2, with TPR - FPR over its common denominator.
    n_id, n_ood = counts.n_id, counts.n_ood
    gap = counts.id_above * n_ood[..., np.newaxis]
    gap -= counts.ood_above * n_id[..., np.newaxis]
    return 0.5 + ratio(gap.max(axis=-1), 2 * n_id * n_ood)


def average_precision_in(counts: Counts) -> Array:
    """Average precision with ID positive, shape [...]."""
    terms = precision(counts)
    terms *= counts.id_at
    return ratio(terms.sum(axis=-1), counts.n_id)


def average_precision_out(counts: Counts) -> Array:
    """Average precision with OOD positive, shape [...]."""
    # As the average precision of `counts.swapped()`: for each score the fraction of OOD images
    # among those at or below it.
    images = counts.n_id + counts.n_ood
    terms = counts.n_ood[..., np.newaxis] - counts.ood_above[..., :-1]
    terms /= np.maximum(images[..., np.newaxis] - counts.above[..., :-1], 1)
    terms *= counts.ood_at
    return ratio(terms.sum(axis=-1), counts.n_ood)


def precision(counts: Counts) -> Array:
    """Fraction of ID images among those at or above each finite threshold, shape [..., G]."""
    # In a resample the highest scores may not have been drawn; 0/0 then carries no weight.
    return np.asarray(counts.id_above[..., 1:] / np.maximum(counts.above[..., 1:], 1))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient, float64."""
    return np.asarray(numerator / denominator, dtype=np.float64)


MEASURES: Mapping[str, Callable[[Counts], Array]] = MappingProxyType(
    {
        "auroc": auroc,
        "tnr_at_95_tpr": tnr_at_95_tpr,
        "dtacc": dtacc,
        "aupr_in": average_precision_in,
        "aupr_out": average_precision_out,
        "fpr95_ood_positive": fpr95_ood_positive,
    }
)
"""The metrics as `oodbench.metrics` defines them, under the names and in the order of `METRICS`."""


def measure(counts: Counts, names: Iterable[str] = MEASURES) -> dict[str, Array]:
    """Metrics of counts.

    Args:
        counts: counts of shape [..., G + 1], with at least one ID and one OOD image each.
        names: names of the metrics; default: all six.

    Returns:
        Fractions in [0, 1] of shape [...].
    """
    return {name: MEASURES[name](counts) for name in names}
