"""Differences of one method between two runs, from the scores of the same images on both sides.

The AUROC is tested by DeLong's method (`delong`), with all covariances of means over seeds and OOD
sets. The other metrics are tested by the paired bootstrap. Both sides, all seeds and all OOD sets
have the same resamples of the ID images (`bootstrap.SharedResamples`), so the standard deviation of
a mean difference over resamples includes the covariances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import numpy as np

from oodbench import metrics
from oodbench.bootstrap import SharedResamples
from oodbench.metrics import Array
from oodbench.report.differences import Scores, id_scores
from oodbench.report.leaderboard import FPR, RANKED_BY, TNR
from oodbench.run_comparison.delong import Components, components, variance_of_mean

RESAMPLES = 1000
"""Bootstrap resamples: a standard error is known within about 2 %."""

T = TypeVar("T", float, Array)

Values = Mapping[int, tuple[float, float]]
"""Seed -> value in the base and in the head."""


@dataclass(frozen=True, slots=True)
class PairedSet:
    """A method on one OOD set in both runs.

    Attributes:
        values: metric -> values of each seed.
        components: of the difference of the AUROCs, mean over seeds.
        resampled: metric -> difference, mean over seeds, on each resample, shape [R].
        identical: whether all scores are equal in both runs.
    """

    values: Mapping[str, Values]
    components: Components
    resampled: Mapping[str, Array]
    identical: bool


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
    of_id: list[Array] = []
    of_ood: list[Array] = []
    resampled: dict[str, list[Array]] = {metric: [] for metric in chosen if metric != RANKED_BY}
    identical = True
    for seed in base:
        sides = [(id_scores(side[seed], ood), side[seed][ood]) for side in (base, head)]
        before, after = (_with_fpr(metrics.evaluate(*side)) for side in sides)
        for metric in chosen:
            values[metric][seed] = before[metric], after[metric]
        if all(np.array_equal(*arrays) for arrays in zip(*sides, strict=True)):
            of_id.append(np.zeros(len(sides[0][0])))
            of_ood.append(np.zeros(len(sides[0][1])))
            continue
        identical = False
        old, new = (components(*side) for side in sides)
        of_id.append(new.id - old.id)
        of_ood.append(new.ood - old.ood)
        if resampled:
            drawn = [
                _with_fpr(shared.bootstrap(id_dataset, side[0], ood, side[1])) for side in sides
            ]
            for metric, found in resampled.items():
                found.append(drawn[1][metric] - drawn[0][metric])
    seeds = len(base)
    return PairedSet(
        values,
        Components(np.mean(of_id, axis=0), np.mean(of_ood, axis=0)),
        # Seeds with equal scores differ by 0 on every resample.
        {metric: np.sum(found, axis=0) / seeds for metric, found in resampled.items() if found},
        identical,
    )


def image_error(metric: str, sets: Sequence[PairedSet]) -> float:
    """Standard error of the mean difference over OOD sets from the sampling of the images."""
    if metric == RANKED_BY:
        return float(np.sqrt(variance_of_mean([each.components for each in sets])))
    found = [each.resampled[metric] for each in sets if metric in each.resampled]
    if not found:
        return 0.0
    return float(np.std(np.sum(found, axis=0) / len(sets), ddof=1))


def by_seed(metric: str, sets: Sequence[PairedSet]) -> Values:
    """Seed -> means over OOD sets of the values of both sides."""
    return {
        seed: (
            fmean(each.values[metric][seed][0] for each in sets),
            fmean(each.values[metric][seed][1] for each in sets),
        )
        for seed in sets[0].values[metric]
    }


def _with_fpr(values: Mapping[str, T]) -> dict[str, T]:
    return {**values, FPR: 1 - values[TNR]}
