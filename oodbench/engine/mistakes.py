"""Signs of a mistake in the data of a call: labels that disagree with the model, shared images.

Each sign is one sentence. Nothing is refused: a sign can be an honest result, such as a model that
is bad at its task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from oodbench.detector import Outputs
from oodbench.errors import counted, listed

_SIGNIFICANCE = 0.01
"""Accuracies that chance reaches more often than this are called chance."""
_LEAST_AGREEMENT = 0.5
"""The share of fit labels that the model that was trained on them should give, at least."""
_FEW_ROWS = 5
"""Classes with fewer images say nothing about the order of classes."""
_OVERSHOOT = 0.25
"""How far bicubic resizing may lead out of [0, 1], at most."""
_BYTES = 50
"""Images of bytes have higher values than this; normalized ones do not."""
_SHOWN = 5
"""Classes that a message lists."""


@dataclass
class Confusion:
    """How often the model predicts each class for the images of each label.

    Attributes:
        counts: label, prediction -> images, shape [C, C].
    """

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        """Of no images."""
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    @classmethod
    def of(
        cls, num_classes: int, labels: NDArray[np.int64] | None, predicted: NDArray[np.int64]
    ) -> Confusion:
        """Of the images of a data set, of no images if it has no labels."""
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
        """The same outputs, counted where they have labels."""
        for batch in outputs:
            if batch.labels is not None:
                self.add(batch.labels.cpu().numpy(), batch.logits.argmax(dim=1).cpu().numpy())
            yield batch

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """How many of them the model classifies as their label says."""
        return int(np.trace(self.counts))


def labels_signs(
    name: str, seen: Confusion, *, fitted_on: bool = False, perhaps: str = ""
) -> Iterator[str]:
    """Signs that labels and model disagree.

    Args:
        name: of the data set.
        seen: of its images.
        fitted_on: whether the model was trained on these images.
        perhaps: a sentence with another reason, added to each sign.
    """
    for sign in _labels_signs(name, seen, fitted_on):
        yield f"{sign} {perhaps}".rstrip()


def _labels_signs(name: str, seen: Confusion, fitted_on: bool) -> Iterator[str]:
    if seen.images == 0:
        return
    classes, accuracy = len(seen.counts), seen.right / seen.images
    order = _other_order(seen.counts)
    if order:
        pairs = ", ".join(f"{label} as {given}" for label, given in order[:_SHOWN])
        more = ", ..." if len(order) > _SHOWN else ""
        raised = seen.right + sum(
            int(seen.counts[label, given] - seen.counts[label, label]) for label, given in order
        )
        yield (
            f"The labels of {name} seem to have their classes in another order than the model: it "
            f"classifies label {pairs}{more}. With these exchanged its accuracy would be "
            f"{raised / seen.images:.1%} instead of {accuracy:.1%}."
        )
    elif fitted_on and accuracy < _LEAST_AGREEMENT:
        yield (
            f"The labels of {name} agree with the model on {accuracy:.1%} of "
            f"{counted(seen.images, 'image')}. It was trained on such images: check the labels, "
            "the order of the classes and the preprocessing."
        )
    elif classes > 1 and bdtrc(seen.right - 1, seen.images, 1 / classes) > _SIGNIFICANCE:
        yield (
            f"The accuracy on {name} is {accuracy:.1%}, no better than chance "
            f"({classes} classes): check the labels, the weights and the preprocessing."
        )


def _other_order(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Label -> another class that the model gives for most of its images, one for each.

    Classes that a weak model confuses are no sign: most images of a label have to agree with the
    exchange, and at most a tenth with the label itself.
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
    # A model that gives one class for all images exchanges nothing.
    distinct = {other for _, other in exchanged}
    return exchanged if len(exchanged) > 1 and len(distinct) == len(exchanged) else []


@dataclass(frozen=True, slots=True)
class Values:
    """The values of the images of a data set.

    Attributes:
        scaled: whether some came as bytes and were scaled to [0, 1].
        low: lowest value of those that came as floating-point numbers; infinite if none did.
        high: highest value of these; minus infinite if none did.
    """

    scaled: bool
    low: float
    high: float

    @property
    def in_unit_range(self) -> bool:
        """Whether all images are in [0, 1], up to what resizing adds."""
        return self._floats_within(-_OVERSHOOT, 1 + _OVERSHOOT)

    @property
    def bytes_as_floats(self) -> bool:
        """Whether floating-point values look as bytes do, 0 to 255."""
        return self.high > _BYTES and self._floats_within(-255 * _OVERSHOOT, 255 * (1 + _OVERSHOOT))

    def _floats_within(self, low: float, high: float) -> bool:
        return self.low >= low and self.high <= high


def values_signs(values: Mapping[str, Values]) -> Iterator[str]:
    """Signs that images of data sets are on several scales.

    Args:
        values: name of a data set -> values of its images.
    """
    scaled = [name for name, each in values.items() if each.scaled]
    unit = scaled or [name for name, each in values.items() if each.in_unit_range]
    if not unit:
        return
    for name, each in values.items():
        if each.bytes_as_floats or (scaled and not each.in_unit_range):
            how = "came as bytes and were scaled to [0, 1]" if scaled else "are in [0, 1]"
            yield (
                f"The images of {name} have values from {each.low:.3g} to {each.high:.3g}, while "
                f"those of {listed(unit)} {how}: a difference in scale looks like a difference in "
                "distribution. Give all data sets the same transform."
            )


def shared_signs(images: Mapping[str, NDArray[np.uint64]]) -> Iterator[str]:
    """Signs that data sets which should have no image in common share some.

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
