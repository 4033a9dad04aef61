"""Ranked scores, and how many images score above each threshold: all that a metric needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = npt.NDArray[np.unsignedinteger]


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
        return Counts(self.cumulative(weights * is_id), self.cumulative(weights * ~is_id))

    def cumulative(self, weights: Weights) -> Array:
        """Sums of ranked weights down to each distinct score, after a column of zeros.

        Args:
            weights: of the images in the order of `order`, shape [R, n_id + n_ood].

        Returns:
            Sums of shape [R, G + 1].
        """
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
    known = checked_scores("id_scores", id_scores)
    pooled = np.concatenate([known, checked_scores("ood_scores", ood_scores)])
    return ranked(pooled, known.size)


def ranked(pooled: Array, n_id: int) -> Ranking:
    """The ranking of checked scores, shape [n_id + n_ood]; those of ID images are first."""
    order = np.argsort(pooled)[::-1]
    scores = pooled[order]
    differs_from_next = np.append(scores[1:] != scores[:-1], True)
    return Ranking(order, np.flatnonzero(differs_from_next), n_id)


def checked_scores(name: str, scores: npt.ArrayLike) -> Array:
    """Scores as float64, shape [n]; ValueError if they are empty, misshapen or not finite."""
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


def checked_correctness(name: str, correct: npt.ArrayLike, images: int) -> npt.NDArray[np.bool_]:
    """Booleans of shape [images]; ValueError if the shape or a value is another."""
    array = np.asarray(correct)
    if array.shape != (images,):
        raise ValueError(
            f"{name} has shape {array.shape}; expected one value per score, shape [{images}]"
        )
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} has values other than 0 and 1; expected booleans, or 0 and 1")
    return array.astype(np.bool_)
