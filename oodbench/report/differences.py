"""Paired differences of each method to the best one of a column: what ties are decided by.

All methods of a benchmark are tested on the same images, and those of one model on the same
checkpoints: the difference of two methods is known better than either. Its error has two parts:

- The test images are a sample. All methods and seeds are resampled on the same draws of a data set
  (`intervals.SharedResamples`), so the standard deviation over resamples of the mean difference is
  its standard error, whatever the correlations.
- Another training gives another model. The differences of the seeds, paired by seed, scatter.

Fractions are compared by their normal quantiles (probits; sqrt(2) times the probit of an AUROC is
the detection index d_a). A training that is a little better or worse moves these by about as much
wherever a method stands. And nothing that is as good as a method at 100 % can scatter: on this
scale a method at 55 % is not tied with it because it scatters widely. Values closer to 0 or 1 than
half an image of the smallest data set count as that.

`oodbench.report.simultaneous` makes intervals from both that allow for the number of methods, and
for the
best one being chosen by the same data. A method is tied with the best if its interval reaches 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oodbench import bootstrap as intervals
from oodbench.metrics import METRICS
from oodbench.report import simultaneous
from oodbench.report.columns import Column, columns_of
from oodbench.storage.records import DifferenceRecord, QualityRecord

ORACLE = "ood_oracle"
"""How methods are tuned that saw the OOD sets: they are compared with nothing."""

Key = tuple[str, int]
"""A method's name and a seed."""

Values = Mapping[str, npt.NDArray[np.floating]]
"""Metric -> values on the shared resamples, shape [R]."""

Resampled = Mapping[str, Values]
"""OOD set -> values."""

Scores = Mapping[str, npt.NDArray[np.float64]]
"""Data set -> scores; "id" is the ID test set, or "id@SET" for each OOD set."""

_Recorded = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Method -> OOD set -> seed -> value of one metric."""


class _Pair(NamedTuple):
    """A method and the best one of a column.

    Attributes:
        method: the method.
        best: the best one.
        seeds: seeds that both have.
        values: of the best one and of the method, for each of these.
        sign: 1 if higher values are better, -1 if lower ones are.
        resolution: how close to 0 and 1 a value can be told from them.
        sets: the OOD sets that the two are measured on: of the column, or the worst of each.
    """

    method: str
    best: str
    seeds: tuple[int, ...]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    sign: int
    resolution: float
    sets: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def difference(self) -> float:
        """How far the best one is ahead, mean over the seeds."""
        return fmean(self.sign * (best - value) for best, value in zip(*self.values, strict=True))

    def shifts(self) -> list[float]:
        """How far it is ahead with each seed, on the scale of `_probit`."""
        best, own = _probit(np.array(self.values), self.resolution)
        return [float(each) for each in self.sign * (best - own)]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """All methods of one metric and column, against the best one.

    Attributes:
        metric: name of the metric.
        column: the column.
        methods: number of methods.
        pairs: one for each method but the best.
    """

    metric: str
    column: Column
    methods: int
    pairs: tuple[_Pair, ...]


def id_key(ood: str) -> str:
    """Key of the ID test scores of a method that is tuned on each OOD set."""
    return f"id@{ood}"


def id_scores(scores: Scores, ood: str) -> npt.NDArray[np.float64]:
    """Scores of the ID test images, by the detector that judges an OOD set."""
    return scores[id_key(ood) if id_key(ood) in scores else "id"]


def differences_to_best(
    records: Iterable[QualityRecord], resampled: Callable[[Key], Resampled]
) -> list[DifferenceRecord]:
    """For each metric, column and method but the best one: the difference with its interval.

    Methods that were tuned on the OOD sets are left out.

    Args:
        records: quality records of one run.
        resampled: gives the metrics of a method and seed on the resamples that all share.

    Returns:
        The records, in an order that does not depend on that of the quality records; none where
        fewer than two methods have values.
    """
    records = list(records)
    kept: dict[Key, Resampled] = {}

    def values(key: Key) -> Resampled:
        if key not in kept:
            kept[key] = resampled(key)
        return kept[key]

    found = []
    for comparison in _comparisons(records):
        pairs = comparison.pairs
        errors = _image_errors(comparison, values)
        shifts = [pair.shifts() for pair in pairs]
        ranges = simultaneous.intervals(shifts, errors, comparison.methods)
        for pair, shift in zip(pairs, ranges, strict=True):
            found.append(
                DifferenceRecord(
                    run_id=records[0].run_id,
                    benchmark=records[0].benchmark,
                    benchmark_version=records[0].benchmark_version,
                    metric=comparison.metric,
                    column_kind=comparison.column.kind,
                    column=comparison.column.name,
                    method=pair.method,
                    best=pair.best,
                    methods=comparison.methods,
                    seeds=len(pair.seeds),
                    difference=pair.difference,
                    shift=shift.mean,
                    shift_low=shift.low,
                    shift_high=shift.high,
                    image_error=shift.image_error,
                    seed_error=shift.seed_error,
                    degrees_of_freedom=shift.degrees_of_freedom,
                    image_critical=shift.image_critical,
                    seed_critical=shift.seed_critical,
                )
            )
    return found


def from_scores(
    records: Iterable[QualityRecord], scores: Callable[[Key], Scores], resamples: int
) -> list[DifferenceRecord]:
    """As `differences_to_best`, from scores.

    Args:
        records: quality records of one run.
        scores: gives those of a method and seed.
        resamples: number of bootstrap resamples.
    """
    records = list(records)
    shared = intervals.SharedResamples(resamples)
    id_dataset = records[0].id_dataset if records else ""

    def resampled(key: Key) -> Resampled:
        return resample(scores(key), shared, id_dataset)

    return differences_to_best(records, resampled)


def resample(
    scores: Scores, shared: intervals.SharedResamples, id_dataset: str
) -> dict[str, Values]:
    """The metrics of one method and seed on every OOD set, on the shared resamples.

    Kept in float32: what is made of them is a standard error.
    """
    return {
        ood: as_kept(shared.bootstrap(id_dataset, id_scores(scores, ood), ood, found))
        for ood, found in scores.items()
        if not (ood == "id" or ood.startswith(id_key("")))
    }


def as_kept(values: Mapping[str, npt.NDArray[np.float64]]) -> Values:
    """Bootstrap values as they are kept until a run ends: half as large."""
    return {metric: found.astype(np.float32) for metric, found in values.items()}


def belong(differences: Iterable[DifferenceRecord], records: Iterable[QualityRecord]) -> bool:
    """Whether differences are those of these quality records, and all of them.

    A run that was stopped, or goes on with other methods, may have older ones on disk.
    """
    expected = {
        (each.metric, each.column.kind, each.column.name, pair.method): (
            pair.best,
            each.methods,
            len(pair.seeds),
            pair.difference,
        )
        for each in _comparisons(list(records))
        for pair in each.pairs
    }
    found = {
        (each.metric, each.column_kind, each.column, each.method): (
            each.best,
            each.methods,
            each.seeds,
            each.difference,
        )
        for each in differences
    }
    return found.keys() == expected.keys() and all(
        found[key][:3] == values[:3] and math.isclose(found[key][3], values[3], abs_tol=1e-9)
        for key, values in expected.items()
    )


# --- who is compared with whom -----------------------------------------------------------------


def _comparisons(records: Sequence[QualityRecord]) -> Iterator[_Comparison]:
    groups: dict[str, str | None] = {}
    images = [n for r in records for n in (r.n_id, r.n_ood) if r.status == "ok" and n]
    resolution = 0.5 / min(images, default=1000)
    values: dict[str, dict[str, dict[str, dict[int, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for record in records:
        if record.status == "ok" and record.ood_dataset is not None:
            groups[record.ood_dataset] = record.ood_group
            if record.tuned_on != ORACLE and record.value is not None:
                of_method = values[record.metric][record.method]
                of_method[record.ood_dataset][record.seed] = record.value
    columns = columns_of({name: groups[name] for name in sorted(groups)})
    for metric in METRICS:
        for column in columns:
            yield from _comparison(metric, column, values.get(metric, {}), resolution)


def _comparison(
    metric: str, column: Column, values: _Recorded, resolution: float
) -> Iterator[_Comparison]:
    sign = 1 if METRICS[metric].higher_is_better else -1
    sets: dict[str, tuple[str, ...]] = {}
    by_seed: dict[str, dict[int, float]] = {}
    for method, by_set in sorted(values.items()):
        chosen = _sets(column, by_set, sign)
        found = mean_of_sets([by_set.get(name, {}) for name in chosen])
        if found:
            sets[method] = chosen
            by_seed[method] = found
    if len(by_seed) < 2:
        return
    best = max(by_seed, key=lambda method: sign * fmean(by_seed[method].values()))
    pairs = []
    for method, mine in by_seed.items():
        seeds = tuple(sorted(mine.keys() & by_seed[best].keys()))
        if method != best and seeds:
            both = tuple(by_seed[best][seed] for seed in seeds), tuple(mine[seed] for seed in seeds)
            on = sets[best], sets[method]
            pairs.append(_Pair(method, best, seeds, both, sign, resolution, on))
    yield _Comparison(metric, column, len(by_seed), tuple(pairs))


def _sets(column: Column, by_set: Mapping[str, Mapping[int, float]], sign: int) -> tuple[str, ...]:
    """The OOD sets of a column; the worst of them for that column, if all are there."""
    if column.kind != "worst" or not all(by_set.get(name) for name in column.sets):
        return column.sets
    return (min(column.sets, key=lambda name: (sign * fmean(by_set[name].values()), name)),)


def mean_of_sets(by_set: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Seed -> mean over OOD sets, of the seeds that have every set."""
    seeds = sorted(set[int].intersection(*map(set, by_set))) if by_set else []
    return {seed: fmean(found[seed] for found in by_set) for seed in seeds}


def _image_errors(comparison: _Comparison, resampled: Callable[[Key], Resampled]) -> list[float]:
    """For each pair the standard deviation of the mean difference of probits over resamples."""

    @cache
    def mean(
        method: str, sets: tuple[str, ...], seeds: tuple[int, ...], resolution: float
    ) -> npt.NDArray[np.float64]:
        by_seed = [
            np.mean([resampled((method, seed))[name][comparison.metric] for name in sets], axis=0)
            for seed in seeds
        ]
        return np.asarray(_probit(np.array(by_seed, dtype=np.float64), resolution).mean(axis=0))

    errors = []
    for pair in comparison.pairs:
        best, own = (
            mean(method, sets, pair.seeds, pair.resolution)
            for method, sets in zip((pair.best, pair.method), pair.sets, strict=True)
        )
        errors.append(float((best - own).std(ddof=1)) if len(own) > 1 else 0.0)
    return errors


def _probit(values: npt.NDArray[np.float64], resolution: float) -> npt.NDArray[np.float64]:
    """The normal quantile of fractions, none closer to 0 and 1 than the number of images tells."""
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(values, resolution, 1 - resolution)))
