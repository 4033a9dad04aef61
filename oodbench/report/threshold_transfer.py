"""Threshold transfer: what a threshold that is set on ID validation images accepts of test images.

First the fields of records, then their means over seeds for leaderboards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import listed
from oodbench.metrics import OPTIONAL, accepting
from oodbench.metrics.resampled_values import Images
from oodbench.metrics.thresholds import (
    counted_acceptance,
    images_needed,
    percentage,
    threshold_rank,
)
from oodbench.report.seed_means import Estimate, Measurement, estimate
from oodbench.storage.records import QualityRecord

ID_PART = "id"
"""The ID test images, among the parts of `accepted_counts`."""

_CLASS = "class "

PART_KINDS = ("csid", "class")
"""Kinds of the other parts."""

Parts = Mapping[tuple[str, str], Estimate]
"""Metric and part of the ID images -> share of accepted images, mean over seeds."""


def threshold_fields(images: Images, metric: str) -> dict[str, Any]:
    """The fields `threshold` and `n_validation` of a record; none for other metrics."""
    if not accepting([metric]):
        return {}
    threshold, _ = images.accepted(metric)
    finite = np.isfinite(threshold.value)
    return {"threshold": threshold.value if finite else None, "n_validation": threshold.images}


def accepted_counts(
    threshold: float | None,
    id_scores: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
    csid: Mapping[str, NDArray[np.float64]],
) -> dict[str, list[int]]:
    """Numbers of accepted images and of images: of the ID test set, each csID set and each class.

    Args:
        threshold: None accepts every image.
        id_scores: scores of the ID test images, shape [N].
        labels: their classes, shape [N]; None if they are not known.
        csid: csID set -> scores.
    """
    value = -np.inf if threshold is None else threshold
    scores = {ID_PART: id_scores, **csid}
    counts = {name: [int((each >= value).sum()), each.size] for name, each in scores.items()}
    if labels is not None and labels.shape == id_scores.shape:
        images = np.bincount(labels)
        accepted = np.bincount(labels[id_scores >= value], minlength=images.size)
        for number in np.flatnonzero(images):
            counts[f"{_CLASS}{number}"] = [int(accepted[number]), int(images[number])]
    return counts


# --- leaderboards --------------------------------------------------------------------------------


def mean_parts(records: Iterable[QualityRecord]) -> Parts:
    """The parts of the ID images of one method; intervals are those of Clopper and Pearson."""
    found: dict[tuple[str, str], dict[int, Measurement]] = defaultdict(dict)
    for record in records:
        for part, (accepted, images) in (record.accepted_counts or {}).items():
            each = counted_acceptance(accepted, images)
            measured = Measurement(each.rate, each.low, each.high)
            found[record.metric, part][record.seed] = measured
    means = ((key, estimate([by_seed])) for key, by_seed in found.items())
    return {key: mean for key, mean in means if mean is not None}


def part_columns(parts: Parts) -> Iterator[tuple[str, str, str, Estimate]]:
    """Metric, kind of `PART_KINDS`, name, and value of each csID set and each class."""
    for (metric, part), found in parts.items():
        if part != ID_PART:
            of_class = part.startswith(_CLASS)
            yield metric, PART_KINDS[of_class], part.removeprefix(_CLASS), found


def threshold_facts(images: int | None, use: Sequence[str]) -> dict[str, Any]:
    """What exports say of the validation images of a method; nothing without thresholds."""
    return {} if images is None else {"validation_images": images, "validation_use": use}


def class_parts(parts: Parts, metric: str) -> dict[int, Estimate]:
    """Class -> share of accepted ID test images, in the order of the classes."""
    found = {
        int(part.removeprefix(_CLASS)): each
        for (name, part), each in parts.items()
        if name == metric and part.startswith(_CLASS)
    }
    return dict(sorted(found.items()))


def validation_use(records: Iterable[QualityRecord]) -> tuple[str, ...]:
    """What else the validation images of a method were used for."""
    return tuple(dict.fromkeys(use for record in records for use in record.validation_use or ()))


def validation_images(records: Iterable[QualityRecord]) -> int | None:
    """Number of validation images that thresholds are set on, the least if there are several."""
    sizes = {each.n_validation for each in records if each.n_validation is not None}
    return min(sizes, default=None)


def few_images_warnings(records: Sequence[QualityRecord]) -> Iterator[str]:
    """A sentence if there are too few validation images for a wanted rate."""
    images = validation_images(records)
    if images is None:
        return
    names = accepting(dict.fromkeys(record.metric for record in records))
    rates = {OPTIONAL[name].accept: float(OPTIONAL[name].accept) for name in names}
    few = [rate for rate in sorted(rates.values()) if threshold_rank(images, rate) == 0]
    if few:
        needed = listed(f"{images_needed(rate):,} for {percentage(rate)}" for rate in few)
        yield (
            f"{images:,} ID validation images are too few to set a threshold that accepts "
            f"{listed(map(percentage, few))} of the ID images, so it accepts every image. "
            f"At least {needed} are needed."
        )
