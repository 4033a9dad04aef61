"""Metrics of out-of-distribution detection: pure functions of two arrays of scores.

Everywhere a higher score means "more in-distribution", the in-distribution (ID) images are the
positive class unless a name says otherwise, and a value is a fraction in [0, 1]. Ties are exact:
images with equal scores are never ordered by chance.

All metrics depend on the scores only through cumulative counts, so the module has two layers.
Below, functions of `Counts`, for one set of counts or for many at once (bootstrap resamples);
above, functions of two arrays, which rank the scores once and count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = npt.NDArray[np.unsignedinteger]
Variant = Literal["adopted", "lee", "openood"]


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared.

    Attributes:
        title: the full name, for captions.
        short_title: the abbreviation, for column heads.
        higher_is_better: whether a detector with a larger value is the better one.
    """

    title: str
    short_title: str
    higher_is_better: bool


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "auroc": Metric("Area under the ROC curve", "AUROC", True),
        "tnr_at_95_tpr": Metric("True negative rate at 95% true positive rate", "TNR@95TPR", True),
        "dtacc": Metric("Detection accuracy", "DTACC", True),
        "aupr_in": Metric(
            "Area under the precision-recall curve, in-distribution positive", "AUPR-in", True
        ),
        "aupr_out": Metric(
            "Area under the precision-recall curve, out-of-distribution positive",
            "AUPR-out",
            True,
        ),
        "fpr95_ood_positive": Metric(
            "False positive rate at 95% true positive rate, out-of-distribution positive",
            "FPR95 (OOD positive)",
            False,
        ),
    }
)
"""The six metrics, by the names that records use, in the order in which they are shown."""


# --- counts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How many images score at or above each threshold: all that a metric needs to know.

    The thresholds are +infinity and then the G distinct scores in descending order. The leading
    axes, if any, are resamples. Counts are whole numbers held as float64, exact below 2**53, as
    are the sums over pairs of images for up to 60 million images of each kind.

    Attributes:
        id_above: ID images at or above each threshold, shape [..., G + 1]; starts at 0.
        ood_above: OOD images at or above each threshold, shape [..., G + 1]; starts at 0.
    """

    id_above: Array
    ood_above: Array

    @property
    def n_id(self) -> Array:
        """Number of ID images, shape [...]."""
        return self.id_above[..., -1]

    @property
    def n_ood(self) -> Array:
        """Number of OOD images, shape [...]."""
        return self.ood_above[..., -1]

    @cached_property
    def id_at(self) -> Array:
        """ID images that have each distinct score, shape [..., G]."""
        return np.diff(self.id_above)

    @cached_property
    def ood_at(self) -> Array:
        """OOD images that have each distinct score, shape [..., G]."""
        return np.diff(self.ood_above)

    @cached_property
    def above(self) -> Array:
        """Images at or above each threshold, shape [..., G + 1]."""
        return self.id_above + self.ood_above

    def swapped(self) -> Counts:
        """The counts with OOD as the positive class and every score negated."""
        return Counts(
            id_above=self.n_ood[..., np.newaxis] - self.ood_above[..., ::-1],
            ood_above=self.n_id[..., np.newaxis] - self.id_above[..., ::-1],
        )


@dataclass(frozen=True)
class Ranking:
    """Two sets of scores in one descending order: the only sort that any metric needs.

    Attributes:
        order: the images by descending score, shape [n_id + n_ood]; entries below `n_id` are ID
            images, the others are OOD images counted from `n_id`.
        last: for each distinct score, in descending order, the position in `order` of the last
            image that has it, shape [G].
        n_id: number of ID images.
    """

    order: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]
    n_id: int

    @property
    def n_ood(self) -> int:
        """Number of OOD images."""
        return self.order.size - self.n_id

    def counts(self) -> Counts:
        """The counts of the images themselves, shape [G + 1]."""
        id_above = np.zeros(self.last.size + 1)
        id_above[1:] = np.cumsum(self.order < self.n_id)[self.last]
        above = np.zeros(self.last.size + 1)
        above[1:] = self.last + 1
        return Counts(id_above, above - id_above)

    def weighted_counts(self, id_weights: Weights, ood_weights: Weights) -> Counts:
        """The counts when each image stands for several, or for none.

        Args:
            id_weights: how often each ID image counts, shape [R, n_id].
            ood_weights: how often each OOD image counts, shape [R, n_ood].

        Returns:
            Counts of shape [R, G + 1], on the same thresholds whatever the weights.
        """
        weights = np.concatenate([id_weights, ood_weights], axis=1).take(self.order, axis=1)
        is_id = self.order < self.n_id
        return Counts(self._cumulative(weights * is_id), self._cumulative(weights * ~is_id))

    def _cumulative(self, weights: Weights) -> Array:
        """Sums of ranked weights down to each distinct score, after a column of zeros."""
        # Summing integers is three times as fast as summing floats: an addition waits for the last.
        sums = np.cumsum(weights, axis=1, dtype=np.int64)
        above = np.zeros((sums.shape[0], self.last.size + 1))
        above[:, 1:] = sums if self.last.size == self.order.size else sums.take(self.last, axis=1)
        return above


def rank(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> Ranking:
    """Rank the scores of ID and OOD images together.

    Args:
        id_scores: one score per ID image, shape [n_id]; anything `numpy.asarray` takes.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        The ranking, computed in float64.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    known = _checked("id_scores", id_scores)
    pooled = np.concatenate([known, _checked("ood_scores", ood_scores)])
    order = np.argsort(pooled)[::-1]
    ranked = pooled[order]
    differs_from_next = np.append(ranked[1:] != ranked[:-1], True)
    return Ranking(order, np.flatnonzero(differs_from_next), known.size)


def _checked(name: str, scores: npt.ArrayLike) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected one score per image, shape [n]")
    if array.size == 0:
        raise ValueError(f"{name} is empty")
    finite = np.isfinite(array)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"{name}[{index}] is {array[index]}; scores must be finite")
    return array


# --- functions of counts -----------------------------------------------------------------------


def measure(counts: Counts) -> dict[str, Array]:
    """The six metrics of counts, by the definitions of this module's public functions.

    Args:
        counts: counts of shape [..., G + 1], with at least one ID and one OOD image each.

    Returns:
        Fractions in [0, 1] of shape [...], under the names and in the order of `METRICS`.
    """
    return {
        "auroc": _auroc(counts),
        "tnr_at_95_tpr": _tnr_at_95_tpr(counts),
        "dtacc": _dtacc(counts),
        "aupr_in": _average_precision_in(counts),
        "aupr_out": _average_precision_out(counts),
        "fpr95_ood_positive": _fpr95_ood_positive(counts),
    }


def _auroc(counts: Counts) -> Array:
    # Each OOD image loses to the ID images above it, and by half to those it ties with: the sum of
    # the counts at the threshold and just above it is twice that, and a whole number.
    twice_won = counts.id_above[..., 1:] + counts.id_above[..., :-1]
    twice_won *= counts.ood_at
    return _ratio(twice_won.sum(axis=-1), 2 * counts.n_id * counts.n_ood)


def _ood_above_at_95_tpr(counts: Counts) -> Array:
    """OOD images at or above the largest ID score that keeps 95% of the ID images, shape [...]."""
    # The first threshold that keeps enough is an ID score that was drawn, because the count of ID
    # images grows there.
    enough = counts.id_above >= _95_percent(counts.n_id)[..., np.newaxis]
    return _taken(counts.ood_above, np.argmax(enough, axis=-1))


def _tnr_at_95_tpr(counts: Counts) -> Array:
    return _ratio(counts.n_ood - _ood_above_at_95_tpr(counts), counts.n_ood)


def _fpr95_ood_positive(counts: Counts) -> Array:
    # As `_ood_above_at_95_tpr` of `counts.swapped()`: the last threshold with so few OOD images at
    # or above it that 95% are below.
    most = counts.n_ood - _95_percent(counts.n_ood)
    too_many = counts.ood_above > most[..., np.newaxis]
    accepted = _taken(counts.id_above, np.argmax(too_many, axis=-1) - 1)
    return _ratio(counts.n_id - accepted, counts.n_id)


def _95_percent(images: Array) -> Array:
    """The least number of images that is at least 95% of them."""
    # 0.95 is not a binary fraction; 19 n / 20 is exact where it is whole.
    return np.asarray(np.ceil(19 * images / 20))


def _taken(above: Array, index: npt.NDArray[np.intp]) -> Array:
    """A count for each row, shape [...], of counts of shape [..., G + 1]."""
    taken: Array = np.take_along_axis(above, index[..., np.newaxis], axis=-1)[..., 0]
    return taken


def _dtacc(counts: Counts) -> Array:
    # (TPR + TNR) / 2 = 1/2 + (TPR - FPR) / 2, with TPR - FPR over its common denominator.
    n_id, n_ood = counts.n_id, counts.n_ood
    gap = counts.id_above * n_ood[..., np.newaxis]
    gap -= counts.ood_above * n_id[..., np.newaxis]
    return 0.5 + _ratio(gap.max(axis=-1), 2 * n_id * n_ood)


def _average_precision_in(counts: Counts) -> Array:
    terms = _precision(counts)
    terms *= counts.id_at
    return _ratio(terms.sum(axis=-1), counts.n_id)


def _average_precision_out(counts: Counts) -> Array:
    # As the average precision of `counts.swapped()`: for each score the fraction of OOD images
    # among those at or below it.
    images = counts.n_id + counts.n_ood
    terms = counts.n_ood[..., np.newaxis] - counts.ood_above[..., :-1]
    terms /= np.maximum(images[..., np.newaxis] - counts.above[..., :-1], 1)
    terms *= counts.ood_at
    return _ratio(terms.sum(axis=-1), counts.n_ood)


def _precision(counts: Counts) -> Array:
    """Fraction of ID images among those at or above each finite threshold, shape [..., G]."""
    # In a resample the highest scores may not have been drawn; 0/0 then carries no weight.
    return np.asarray(counts.id_above[..., 1:] / np.maximum(counts.above[..., 1:], 1))


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.asarray(numerator / denominator, dtype=np.float64)


# --- other people's definitions ----------------------------------------------------------------


def _lee(counts: Counts) -> dict[str, Array]:
    """The six metrics as the code of Lee et al. (2018) has them, of counts of shape [G + 1]."""
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
    return _ratio(ood_left[step], ood_left[0])


def _openood(counts: Counts) -> dict[str, Array]:
    """The six metrics as OpenOOD has them, of counts of shape [G + 1]."""
    swapped = counts.swapped()
    bends = _without_collinear_points(swapped)
    return measure(counts) | {
        "aupr_in": _precision_recall_trapezoid(counts),
        "aupr_out": _precision_recall_trapezoid(swapped),
        "fpr95_ood_positive": _ratio(_ood_above_at_95_tpr(bends), bends.n_ood),
    }


def _precision_recall_trapezoid(counts: Counts) -> Array:
    precision = np.concatenate([[1.0], _precision(counts)])
    return _trapezoid(precision, counts.id_above / counts.n_id)


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


_VARIANTS: Mapping[str, Callable[[Counts], dict[str, Array]]] = MappingProxyType(
    {"adopted": measure, "lee": _lee, "openood": _openood}
)


# --- functions of scores -----------------------------------------------------------------------


def evaluate(
    id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, variant: Variant = "adopted"
) -> dict[str, float]:
    """The six metrics of `METRICS`, from one sort.

    Variants, for comparison with published numbers:

    - `adopted`: the definitions of this module's public functions.
    - `lee`: the code of Lee et al. (NeurIPS 2018). Images are removed one by one by ascending
      score, ID before OOD among equal scores, so ties count as errors (constant scores have an
      AUROC of 0). TNR is taken at the first step whose TPR is *nearest* to 0.95; areas are
      trapezoids, with an artificial precision of 0 where the recall is 0.
      `fpr95_ood_positive`, which that code lacks, is the FPR of the same pass with the roles
      swapped.
    - `openood`: OpenOOD (Zhang et al., 2023), which uses scikit-learn's curves. AUPR is the
      trapezoid under the precision-recall curve (optimiztic: Davis & Goadrich, ICML 2006);
      `fpr95_ood_positive` is read off a ROC curve without the points that are collinear with
      their neighbors. The other three are as adopted.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].
        variant: whose definitions to use.

    Returns:
        Fractions in [0, 1], under the names and in the order of `METRICS`.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity; or the
            variant is not known.
    """
    if variant not in _VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(_VARIANTS)}")
    values = _VARIANTS[variant](rank(id_scores, ood_scores).counts())
    return {name: float(value) for name, value in values.items()}


def auroc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that an ID image scores above an OOD image.

    P(s_ID > s_OOD) + P(s_ID = s_OOD) / 2, the Mann-Whitney statistic over the number of pairs
    (Hanley & McNeil, Radiology 1982). 0.5 is chance.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_auroc(rank(id_scores, ood_scores).counts()))


def tnr_at_95_tpr(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of OOD images rejected when at least 95% of the ID images are accepted.

    P(s_OOD < tau), with tau the largest observed ID score for which P(s_ID >= tau) >= 0.95
    (TNR at 95% TPR of Liang et al., ICLR 2018, with the threshold made exact). The number called
    FPR@95TPR with ID as the positive class is 1 minus this one.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_tnr_at_95_tpr(rank(id_scores, ood_scores).counts()))


def dtacc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Detection accuracy: the best accuracy of any threshold, with both classes equally likely.

    The maximum of (P(s_ID >= t) + P(s_OOD < t)) / 2 over all thresholds t, those that accept every
    image or none included (Lee et al., NeurIPS 2018). 0.5 is chance, and the least possible.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0.5, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_dtacc(rank(id_scores, ood_scores).counts()))


def aupr_in(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the precision-recall curve with ID as the positive class.

    Average precision: the sum over distinct scores, from the highest, of the precision there times
    the gain in recall (no interpolation; Davis & Goadrich, ICML 2006). Precision is of counts, so
    chance is n_id / (n_id + n_ood): values for different proportions are not comparable.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_average_precision_in(rank(id_scores, ood_scores).counts()))


def aupr_out(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the precision-recall curve with OOD as the positive class.

    `aupr_in` with the roles swapped and the scores negated; chance is n_ood / (n_id + n_ood).

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_average_precision_out(rank(id_scores, ood_scores).counts()))


def fpr95_ood_positive(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of ID images flagged when at least 95% of the OOD images are flagged.

    P(s_ID <= tau), with tau the smallest observed OOD score for which P(s_OOD <= tau) >= 0.95. The
    convention of OpenOOD (Zhang et al., 2023) and pytorch-ood, where OOD is the positive class; not
    1 minus `tnr_at_95_tpr`, which fixes the other rate.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(_fpr95_ood_positive(rank(id_scores, ood_scores).counts()))


def tie_fraction(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of the n_id * n_ood pairs of one ID and one OOD image whose scores are equal.

    Half of it is the AUROC that hangs on how ties are broken. Ties among ID images alone or OOD
    images alone do not count, as no metric depends on them.

    Args:
        id_scores: one score per ID image, shape [n_id].
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    counts = rank(id_scores, ood_scores).counts()
    tied = np.sum(np.diff(counts.id_above) * np.diff(counts.ood_above))
    return float(tied / (counts.n_id * counts.n_ood))
