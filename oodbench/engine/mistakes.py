"""Signs of a mistake: labels that disagree with the model, shared images, signed features.

Each sign is one sentence. Nothing is refused, because a sign may have an innocent cause, such as a
model with a low accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc
from torch import Tensor

from oodbench.detector import Outputs
from oodbench.errors import counted, listed
from oodbench.planning.plan import Method, Plan

_SIGNIFICANCE = 0.01
"""An accuracy counts as chance if guessing reaches it with a higher probability than this, and a
model that is halfway between guessing and no error stays at or below it with a lower one. Of few
images, every accuracy may be chance."""
_LEAST_AGREEMENT = 0.5
"""Smallest accuracy that is expected on the images that a model was trained on."""
_FEW_ROWS = 5
"""Fewest images of a class from which its place in the order of classes is inferred."""
_OVERSHOOT = 0.25
"""Largest distance from [0, 1] that bicubic resizing causes."""
_BYTES = 50
"""Images with values 0 to 255 exceed this; normalized images do not."""
_SHOWN = 5
"""Number of classes that a message lists."""
_SIGNED = 0.01
"""Share of negative features from which they count as signed."""
_ROUNDING = 1e-6
"""Negative features up to this share of an image's largest one may be zeros that were rounded."""


@dataclass
class Confusion:
    """How often the model predicts each class for the images of each label.

    Attributes:
        counts: label, prediction -> images, shape [C, C].
    """

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        """Counts of no images."""
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    @classmethod
    def of(
        cls, num_classes: int, labels: NDArray[np.int64] | None, predicted: NDArray[np.int64]
    ) -> Confusion:
        """Counts of the images of a data set; of no images if it has no labels."""
        confusion = cls.empty(num_classes)
        if labels is not None:
            confusion.add(labels, predicted)
        return confusion

    def add(self, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        """Count a batch.

        Args:
            labels: shape [B].
            predicted: the classes that the model gives, shape [B].
        """
        np.add.at(self.counts, (labels, predicted), 1)

    def watched(self, outputs: Iterator[Outputs]) -> Iterator[Outputs]:
        """Yield the same outputs, and count those with labels."""
        for batch in outputs:
            if batch.labels is not None:
                self.add(batch.labels.cpu().numpy(), batch.logits.argmax(dim=1).cpu().numpy())
            yield batch

    @property
    def images(self) -> int:
        """Number of images that were counted."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """Number of images that the model classifies correctly."""
        return int(np.trace(self.counts))


class FeatureSigns:
    """How many of the penultimate features are negative; counted where they are, without a copy.

    Args:
        negative: number of negative ones that were counted before.
        features: number of all that were counted before.
    """

    def __init__(self, negative: int = 0, features: int = 0) -> None:
        self._negative: Tensor | int = negative
        self._all = features

    def add(self, features: Tensor) -> None:
        """Count a batch, shape [B, D]."""
        if features.numel():
            largest = torch.linalg.vector_norm(features, torch.inf, dim=1, keepdim=True)
            self._negative = self._negative + (features < -_ROUNDING * largest).sum()
            self._all += features.numel()

    @property
    def counts(self) -> tuple[int, int]:
        """Number of negative ones, beyond rounding, and of all."""
        return int(self._negative), self._all

    @property
    def share(self) -> float:
        """The share of negative ones, beyond rounding."""
        negative, features = self.counts
        return negative / max(features, 1)


def features_signs(methods: Iterable[Method], share: float) -> Iterator[str]:
    """A sign that detectors assume what the features of a model are not.

    Args:
        methods: methods of one model.
        share: share of the model's penultimate features that are negative.
    """
    detectors = (method.detector for method in methods)
    names = list(dict.fromkeys(each.label for each in detectors if each.nonnegative_features))
    if names and share >= _SIGNED:
        assume = "assumes" if len(names) == 1 else "assume"
        yield (
            f"{listed(names, most=len(names))} {assume} features that are not negative; "
            f"{share:.0%} of the model's penultimate features are negative."
        )


def labels_signs(
    name: str, seen: Confusion, *, fitted_on: bool = False, perhaps: str = ""
) -> Iterator[str]:
    """Signs that labels and model disagree.

    Args:
        name: name of the data set.
        seen: counts of its images.
        fitted_on: whether the model was trained on these images.
        perhaps: a sentence with another possible reason, added to each sign.
    """
    for sign in _labels_signs(name, seen, fitted_on):
        yield f"{sign} {perhaps}".rstrip()


def _labels_signs(name: str, seen: Confusion, fitted_on: bool) -> Iterator[str]:
    if seen.images == 0:
        return
    classes, accuracy = len(seen.counts), seen.right / seen.images
    order = other_order(seen.counts)
    if order:
        pairs = ", ".join(f"{label} as {given}" for label, given in order[:_SHOWN])
        more = ", ..." if len(order) > _SHOWN else ""
        raised = seen.right + sum(
            int(seen.counts[label, given] - seen.counts[label, label]) for label, given in order
        )
        yield (
            f"The labels of {name} seem to have their classes in another order than the model: it "
            f"classifies label {pairs}{more}. With these labels exchanged, its accuracy would be "
            f"{raised / seen.images:.1%} instead of {accuracy:.1%}."
        )
    elif fitted_on and accuracy < _LEAST_AGREEMENT:
        yield (
            f"The labels of {name} agree with the model on {accuracy:.1%} of "
            f"{counted(seen.images, 'image')}. It was trained on such images: check the labels, "
            "the order of the classes and the preprocessing."
        )
    elif (
        classes > 1
        and bdtrc(seen.right - 1, seen.images, 1 / classes) > _SIGNIFICANCE
        and bdtr(seen.right, seen.images, (1 + 1 / classes) / 2) < _SIGNIFICANCE
    ):
        yield (
            f"The accuracy on {name} is {accuracy:.1%}, no better than chance "
            f"({classes} classes): check the labels, the weights and the preprocessing."
        )


def other_order(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of a label and the other class that the model predicts for most of its images.

    Classes that a weak model confuses are not a sign. Therefore, the model must predict the other
    class for more than half of the images of a label, and the label itself for less than a tenth.
    """
    given = counts.argmax(axis=1)
    sizes = counts.sum(axis=1)
    exchanged = [
        (label, int(other))
        for label, other in enumerate(given)
        if label != other
        and sizes[label] >= _FEW_ROWS
        and counts[label, other] > sizes[label] / 2
        and counts[label, label] < sizes[label] / 10
    ]
    # A model that predicts one class for all images does not exchange classes.
    distinct = {other for _, other in exchanged}
    return exchanged if len(exchanged) > 1 and len(distinct) == len(exchanged) else []


@dataclass(frozen=True, slots=True)
class Values:
    """The values of the images of a data set.

    Attributes:
        scaled: whether some images were of type uint8 and were scaled to [0, 1].
        low: lowest value of the floating-point images; infinity without such images.
        high: highest value of the floating-point images; minus infinity without such images.
    """

    scaled: bool
    low: float
    high: float

    @property
    def in_unit_range(self) -> bool:
        """Whether all images are in [0, 1], with a margin for resizing."""
        return self._floats_within(-_OVERSHOOT, 1 + _OVERSHOOT)

    @property
    def bytes_as_floats(self) -> bool:
        """Whether floating-point values seem to be in the range 0 to 255."""
        return self.high > _BYTES and self._floats_within(-255 * _OVERSHOOT, 255 * (1 + _OVERSHOOT))

    def _floats_within(self, low: float, high: float) -> bool:
        return self.low >= low and self.high <= high


def values_signs(values: Mapping[str, Values]) -> Iterator[str]:
    """Signs that the images of different data sets have different scales.

    Args:
        values: name of a data set -> values of its images.
    """
    scaled = [name for name, each in values.items() if each.scaled]
    unit = scaled or [name for name, each in values.items() if each.in_unit_range]
    if not unit:
        return
    for name, each in values.items():
        if each.bytes_as_floats or (scaled and not each.in_unit_range):
            how = "were uint8 and are scaled to [0, 1]" if scaled else "are in [0, 1]"
            yield (
                f"The images of {name} have values from {each.low:.3g} to {each.high:.3g}, while "
                f"the images of {listed(unit)} {how}: detectors cannot tell a difference in scale "
                "from a difference in distribution. Give all data sets the same transform."
            )


def shared_signs(images: Mapping[str, NDArray[np.uint64]]) -> Iterator[str]:
    """Signs that data sets that should be disjoint share images.

    Args:
        images: name of a data set -> `data.duplicates.fingerprints` of its images.
    """
    for (first, some), (second, others) in combinations(images.items(), 2):
        shared = int(np.isin(others, some).sum())
        if not shared:
            continue
        if shared == len(others) == len(some):
            yield f"{first} and {second} hold the same {counted(shared, 'image')}."
        else:
            yield (
                f"{shared:,} of the {counted(len(others), 'image')} of {second} "
                f"{'is an image' if shared == 1 else 'are images'} of {first} too."
            )


def in_order(warnings: Mapping[str, list[str]], plan: Plan) -> dict[str, list[str]]:
    """The warnings of a run, in an order that depends on its plan alone.

    Args:
        warnings: "model, seed k", or a model, or another place -> signs.
        plan: of the run.
    """
    cells = [(model, seed) for seed in plan.seeds for model in plan.models]
    places = [place for model, seed in cells for place in (f"{model}, seed {seed}", model)]
    order = {place: index for index, place in reversed([*enumerate(places)])}
    return dict(sorted(warnings.items(), key=lambda item: order.get(item[0], -1)))
