"""The metrics on request when each image stands for several, or for none: bootstrap resamples.

With a weight of 1 for each image, these are the values of the functions of `oodbench.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from oodbench.metrics import roc
from oodbench.metrics.metric_tables import OPTIONAL
from oodbench.metrics.sorted_scores import Array, Counts, Ranking, Weights, ranked
from oodbench.metrics.thresholds import Acceptance, Threshold, acceptance, conformal_threshold

_BLOCK = 1 << 18
"""Weights held at a time."""

_BINS = 15
"""Bins of the expected calibration error."""


@dataclass(frozen=True, eq=False)
class Images:
    """What the metrics on request are computed from; None for what is not known.

    Attributes:
        id_scores: one finite float64 score per ID image, shape [n_id].
        correct: whether the classifier is right for each of them.
        confidence: its largest softmax probability for each of them.
        ood_scores: one score per OOD image, shape [n_ood].
        validation_scores: one score per ID validation image, shape [n_validation].
    """

    id_scores: Array | None = None
    correct: npt.NDArray[np.bool_] | None = None
    confidence: Array | None = None
    ood_scores: Array | None = None
    validation_scores: Array | None = None

    def lacks(self, metric: str) -> tuple[str, ...]:
        """The inputs of a metric that are not known."""
        known = {
            "ID scores": self.id_scores,
            "correctness": self.correct,
            "confidence": self.confidence,
            "OOD scores": self.ood_scores,
            "validation scores": self.validation_scores,
        }
        return tuple(need for need in OPTIONAL[metric].needs if known[need] is None)

    def accepted(self, metric: str) -> tuple[Threshold, Acceptance]:
        """The threshold of an acceptance metric, and what it accepts of the images it is of.

        The ID images are then those of the ID test set alone, without csID sets.
        """
        about = OPTIONAL[metric]
        tested = self.ood_scores if about.of == "set" else self.id_scores
        assert self.validation_scores is not None
        assert tested is not None
        threshold = conformal_threshold(self.validation_scores, float(about.accept))
        return threshold, acceptance(tested, threshold.value)

    @cached_property
    def id_ranking(self) -> Ranking:
        """The ID images by score."""
        assert self.id_scores is not None
        return ranked(self.id_scores, self.id_scores.size)

    @cached_property
    def ranking(self) -> Ranking:
        """All images by score."""
        assert self.id_scores is not None
        assert self.ood_scores is not None
        return ranked(np.concatenate([self.id_scores, self.ood_scores]), self.id_scores.size)


def resampled_values(
    images: Images, id_weights: Weights, ood_weights: Weights | None, names: Iterable[str]
) -> dict[str, Array]:
    """Metrics on request of each resample.

    Args:
        images: with all that these metrics need.
        id_weights: how often each ID image counts, shape [R, n_id].
        ood_weights: how often each OOD image counts, shape [R, n_ood]; None without OOD images.
        names: names of `OPTIONAL`.

    Returns:
        Fractions of shape [R]; NaN where a resample has no value: `failure_auroc` without a
        correctly classified or without a misclassified image.
    """
    resamples, size = id_weights.shape
    values = {name: np.empty(resamples) for name in names}
    step = max(1, _BLOCK // (size + (0 if ood_weights is None else ood_weights.shape[1])))
    for start in range(0, resamples, step):
        part = slice(start, start + step)
        block = _Block(images, id_weights[part], None if ood_weights is None else ood_weights[part])
        for name, found in values.items():
            found[part] = _VALUES[name](block)
    return values


class _Block:
    """A few resamples: counts of images at and above each distinct score, shape [R, G + 1]."""

    def __init__(self, images: Images, id_weights: Weights, ood_weights: Weights | None) -> None:
        self.images, self.id_weights, self._ood_weights = images, id_weights, ood_weights

    @property
    def n_id(self) -> int:
        return len(self.id_weights[0])

    @property
    def n_ood(self) -> int:
        return len(self.ood_weights[0])

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        assert self.images.correct is not None
        return self.images.correct

    @property
    def ood_weights(self) -> Weights:
        assert self._ood_weights is not None
        return self._ood_weights

    @cached_property
    def right_above(self) -> Array:
        """Correctly classified ID images, on the scores of the ID images."""
        return self._of_id(self.correct)

    @cached_property
    def wrong_above(self) -> Array:
        """Misclassified ID images, on the scores of the ID images."""
        return self._of_id(~self.correct)

    def _of_id(self, chosen: npt.NDArray[np.bool_]) -> Array:
        ranking = self.images.id_ranking
        return ranking.cumulative((self.id_weights * chosen).take(ranking.order, axis=1))

    @cached_property
    def _all_weights(self) -> Weights:
        both = np.concatenate([self.id_weights, self.ood_weights], axis=1)
        return both.take(self.images.ranking.order, axis=1)

    def among_all(self, chosen: npt.NDArray[np.bool_]) -> Array:
        """Some images, on the scores of all: chosen by a boolean per image, ID images first."""
        ranking = self.images.ranking
        return ranking.cumulative(self._all_weights * chosen[ranking.order])

    @cached_property
    def ood_above(self) -> Array:
        """OOD images, on the scores of all images."""
        return self.among_all(np.arange(self.n_id + self.n_ood) >= self.n_id)

    @cached_property
    def right_among_all(self) -> Array:
        """Correctly classified ID images, on the scores of all images."""
        return self.among_all(np.append(self.correct, np.zeros(self.n_ood, dtype=np.bool_)))

    @cached_property
    def images_above(self) -> Array:
        """All images, on the scores of all images."""
        return self.images.ranking.cumulative(self._all_weights)


def _risk_area(images_above: Array, errors_above: Array) -> Array:
    """AURC (`selective_classification.aurc`) from images and errors at or above each score."""
    # The k-th of m images that share a score has (errors above) + (k errors / m) errors expected
    # among (images above) + k: with harmonic numbers H, the sum over k is in closed form.
    n = round(float(images_above[0, -1]))
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, n + 1)))
    places = images_above.astype(np.intp)
    images, errors = np.diff(images_above), np.diff(errors_above)
    rate = errors / np.maximum(images, 1)
    fixed = errors_above[:, :-1] - images_above[:, :-1] * rate
    found = errors + fixed * np.diff(harmonic[places])
    return np.asarray(found.sum(axis=1) / n)


def _aurc(block: _Block) -> Array:
    return _risk_area(block.right_above + block.wrong_above, block.wrong_above)


def _e_aurc(block: _Block) -> Array:
    accuracy = block.right_above[:, -1] / block.n_id
    term = accuracy * np.log(np.where(accuracy > 0, accuracy, 1.0))
    return np.asarray(_aurc(block) - (1 - accuracy + term))


def _augrc(block: _Block) -> Array:
    images = np.diff(block.right_above + block.wrong_above)
    twice = block.wrong_above[:, 1:] + block.wrong_above[:, :-1]
    return np.asarray((images * twice).sum(axis=1) / (2 * block.n_id**2))


def _failure_auroc(block: _Block) -> Array:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as documented
        return roc.auroc(Counts(block.right_above, block.wrong_above))


def _scod_aurc(block: _Block) -> Array:
    return _risk_area(block.images_above, block.images_above - block.right_among_all)


def _oscr(block: _Block) -> Array:
    right, accepted = block.right_among_all, np.diff(block.ood_above)
    twice = (right[:, 1:] + right[:, :-1]) * accepted
    return np.asarray(twice.sum(axis=1) / (2 * block.n_id * block.n_ood))


def _ccr_at_fpr(block: _Block, level: str) -> Array:
    place = ceil(Fraction(level) * block.n_ood)
    # The last threshold above the score of the OOD image at this place.
    before = np.argmax(block.ood_above >= place, axis=1) - 1
    accepted = np.take_along_axis(block.right_among_all, before[:, np.newaxis], axis=1)[:, 0]
    return np.asarray(accepted / block.n_id)


def _autc(block: _Block) -> Array:
    images = block.images
    assert images.id_scores is not None
    assert images.ood_scores is not None
    distinct = np.concatenate([images.id_scores, images.ood_scores])[
        images.ranking.order[images.ranking.last]
    ]
    above = block.images_above[:, 1:]
    highest = distinct[np.argmax(above > 0, axis=1)]
    lowest = distinct[np.argmax(above == above[:, -1:], axis=1)]
    known = block.id_weights.astype(np.float64) @ images.id_scores / block.n_id
    unknown = block.ood_weights.astype(np.float64) @ images.ood_scores / block.n_ood
    span = highest - lowest
    gap = (unknown - known) / np.where(span > 0, span, 1.0)
    return np.asarray(np.where(span > 0, (1 + gap) / 2, 0.5))


def _ece(block: _Block) -> Array:
    confidence = block.images.confidence
    assert confidence is not None
    gap = np.zeros((block.n_id, _BINS))
    bins = np.searchsorted(np.arange(1, _BINS) / _BINS, confidence)
    gap[np.arange(block.n_id), bins] = block.correct - confidence
    return np.asarray(np.abs(block.id_weights.astype(np.float64) @ gap).sum(axis=1) / block.n_id)


def _at_level(level: str) -> Callable[[_Block], Array]:
    return lambda block: _ccr_at_fpr(block, level)


_VALUES: Mapping[str, Callable[[_Block], Array]] = MappingProxyType(
    {
        "aurc": _aurc,
        "e_aurc": _e_aurc,
        "augrc": _augrc,
        "failure_auroc": _failure_auroc,
        "scod_aurc": _scod_aurc,
        "oscr": _oscr,
        **{name: _at_level(each.level) for name, each in OPTIONAL.items() if each.level},
        "autc": _autc,
        "ece": _ece,
    }
)
