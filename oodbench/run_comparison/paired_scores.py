"""Differences of one method between two runs, from the scores of the same images on both sides.

The AUROC is tested by DeLong's method (`delong`), with all covariances of means over seeds and OOD
sets. The other metrics are tested by the paired bootstrap. Both sides, all seeds and all OOD sets
have the same resamples of the ID images (`bootstrap.SharedResamples`), so the standard deviation of
a mean difference over resamples includes the covariances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np

from oodbench import metrics
from oodbench.bootstrap import SharedResamples
from oodbench.metrics import Array
from oodbench.report.differences import Scores, id_scores
from oodbench.report.leaderboard import FPR, TNR
from oodbench.run_comparison.delong import Components, components, variance_of_sum

RESAMPLES = 1000
"""Bootstrap resamples: a standard error is known within about 2 %."""

AUROC = "auroc"
"""The metric that DeLong's method tests."""

T = TypeVar("T", float, Array)

Values = Mapping[int, tuple[float, float]]
"""Seed -> value in the base and in the head."""


class ImageErrors(NamedTuple):
    """What the sampling of the test images does to a difference.

    Attributes:
        components: of the difference of the AUROCs.
        resampled: metric -> difference on each resample, shape [R].
    """

    components: Components
    resampled: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class PairedSet:
    """A method on one OOD set in both runs.

    Attributes:
        values: metric -> values of each seed.
        errors: of the mean difference over seeds; None if all scores are equal in both runs.
    """

    values: Mapping[str, Values]
    errors: ImageErrors | None


def pair(
    base: Mapping[int, Scores],
    head: Mapping[int, Scores],
    ood: str,
    id_dataset: str,
    chosen: Sequence[str],
    shared: SharedResamples,
) -> PairedSet:
    """Compare the scores of one method on one OOD set.

    Args:
        base: seed -> finite scores, of the same images in the same order on both sides.
        head: likewise, for the same seeds.
        ood: the OOD set.
        id_dataset: the ID data set.
        chosen: metrics, by the names of `report.leaderboard.SHOWN`.
        shared: the resamples.
    """
    values: dict[str, dict[int, tuple[float, float]]] = {metric: {} for metric in chosen}
    errors: list[ImageErrors] = []
    for seed in base:
        old, new = ((id_scores(side[seed], ood), side[seed][ood]) for side in (base, head))
        equal = all(np.array_equal(*arrays) for arrays in zip(old, new, strict=True))
        before = _with_fpr(metrics.evaluate(*old))
        after = before if equal else _with_fpr(metrics.evaluate(*new))
        for metric in chosen:
            values[metric][seed] = before[metric], after[metric]
        if not equal:
            errors.append(_errors(old, new, shared, (id_dataset, ood), chosen))
    return PairedSet(values, _mean_errors(errors, len(base)) if errors else None)


def image_error(metric: str, sets: Sequence[PairedSet]) -> float:
    """Standard error of the mean difference over OOD sets from the sampling of the images."""
    # Sets with equal scores differ by 0, whichever the images.
    errors = [each.errors for each in sets if each.errors is not None]
    if not errors:
        return 0.0
    if metric == AUROC:
        return math.sqrt(variance_of_sum([each.components for each in errors])) / len(sets)
    resampled = np.sum([each.resampled[metric] for each in errors], axis=0)
    return float(np.std(resampled, ddof=1)) / len(sets)


def by_seed(metric: str, sets: Sequence[PairedSet]) -> Values:
    """Seed -> means over OOD sets of the values of both sides."""
    return {
        seed: (
            fmean(each.values[metric][seed][0] for each in sets),
            fmean(each.values[metric][seed][1] for each in sets),
        )
        for seed in sets[0].values[metric]
    }


def _errors(
    base: tuple[Array, Array],
    head: tuple[Array, Array],
    shared: SharedResamples,
    datasets: tuple[str, str],
    chosen: Sequence[str],
) -> ImageErrors:
    """The errors of one seed, of scores that are not all equal."""
    before, after = components(*base), components(*head)
    resampled: dict[str, Array] = {}
    if others := [metric for metric in chosen if metric != AUROC]:
        names = {TNR if metric == FPR else metric for metric in others}
        old, new = (
            _with_fpr(shared.bootstrap(datasets[0], side[0], datasets[1], side[1], names))
            for side in (base, head)
        )
        resampled = {metric: new[metric] - old[metric] for metric in others}
    return ImageErrors(Components(after.id - before.id, after.ood - before.ood), resampled)


def _mean_errors(errors: Sequence[ImageErrors], seeds: int) -> ImageErrors:
    """The errors of a mean over seeds; seeds that are left out have none."""
    parts = [
        np.sum(each, axis=0) / seeds for each in zip(*(e.components for e in errors), strict=True)
    ]
    resampled = {
        metric: np.sum([each.resampled[metric] for each in errors], axis=0) / seeds
        for metric in errors[0].resampled
    }
    return ImageErrors(Components(*parts), resampled)


def _with_fpr(values: Mapping[str, T]) -> dict[str, T]:
    return {**values, **({FPR: 1 - values[TNR]} if TNR in values else {})}
