"""Paired differences of each method to the best one of a column, which decide ties.

All methods of a benchmark are tested on the same images, and all methods of a model on the same
checkpoints. The difference of two methods is therefore known more precisely than either value. Its
error has two parts:

- Sampling of the test images. All methods and seeds use the same bootstrap resamples of a data set
  (`bootstrap.SharedResamples`), so the standard deviation over resamples of the mean difference is
  its standard error, whatever the correlations.
- Variation between training runs: the spread over seeds of the difference, paired by seed.

Fractions are compared by their normal quantiles (probits; sqrt(2) times the probit of an AUROC is
the detection index d_a). On this scale, a slightly better or worse training run changes all methods
by about the same amount, whether their fractions are near 0.5 or near 1. As fractions, a method at
55 % with a wide spread could be tied with a best method at 100 %, although no method that good can
have such a spread. Values closer to 0 or 1 than half an image of the smallest data set are clipped
to that distance.

`report.simultaneous_intervals` computes intervals from both parts, corrected for the number of
methods and for choosing the best one on the same data. A method is tied with the best unless its
interval lies entirely above 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oodbench import bootstrap as intervals
from oodbench.errors import UserError
from oodbench.metrics import METRICS
from oodbench.report import simultaneous_intervals as simultaneous
from oodbench.report.columns import Column, columns_of
from oodbench.storage.records import DifferenceRecord, QualityRecord

ORACLE = "ood_oracle"
"""`tuned_on` of methods that are tuned on the OOD sets: they are left out."""

Key = tuple[str, int]
"""Name of a method, and a seed."""

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
        values: values of the best one and of the method, for each of these seeds.
        sign: 1 if higher values are better, -1 if lower ones are.
        resolution: smallest distance from 0 and 1 at which values are distinguished.
        sets: OOD sets of the best one and of the method: those of the column, or the worst of each.
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
        """Lead of the best one, mean over the seeds."""
        return fmean(self.sign * (best - value) for best, value in zip(*self.values, strict=True))

    def shifts(self) -> list[float]:
        """Lead of the best one for each seed, as a difference of probits."""
        best, own = _probit(np.array(self.values), self.resolution)
        return [float(each) for each in self.sign * (best - own)]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """All methods in one metric and column, compared with the best one.

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


def joined(scores: Scores, csid: Collection[str]) -> Scores:
    """Scores with those of the csID sets in "id", whose images count as ID (full-spectrum).

    Args:
        scores: as stored, with the csID sets under their names.
        csid: names of the csID sets, in the order of the benchmark.

    Raises:
        UserError: if scores of the ID set or of a csID set are missing or no list.
    """
    if not csid:
        return scores
    for name in ("id", *csid):
        if name not in scores or scores[name].ndim != 1:
            wrong = "not a list" if name in scores else "missing"
            raise UserError(f"The scores of '{name}', whose images count as ID, are {wrong}.")
    known = np.concatenate([scores["id"], *(scores[name] for name in csid)])
    return {name: known if name == "id" else scores[name] for name in scores if name not in csid}


def id_scores(scores: Scores, ood: str) -> npt.NDArray[np.float64]:
    """Scores of the ID test images by the detector that scores this OOD set."""
    return scores[id_key(ood) if id_key(ood) in scores else "id"]


def differences_to_best(
    records: Iterable[QualityRecord], resampled: Callable[[Key], Resampled]
) -> list[DifferenceRecord]:
    """The difference to the best method, with its interval, for each metric, column and method.

    Methods that are tuned on the OOD sets are left out.

    Args:
        records: quality records of one run.
        resampled: returns the metrics of a method and seed on the shared resamples.

    Returns:
        The records, in an order that does not depend on the order of the quality records; none
        for columns in which fewer than two methods have values.
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
    """The records of `differences_to_best`, computed from scores.

    Args:
        records: quality records of one run.
        scores: returns the scores of a method and seed, as stored.
        resamples: number of bootstrap resamples.
    """
    records = list(records)
    shared = intervals.SharedResamples(resamples)

    def resampled(key: Key) -> Resampled:
        return resample(joined(scores(key), records[0].csid or ()), shared, records[0].id_dataset)

    return differences_to_best(records, resampled)


def resample(
    scores: Scores, shared: intervals.SharedResamples, id_dataset: str
) -> dict[str, Values]:
    """The metrics of one method and seed on every OOD set, on the shared resamples.

    The scores of csID sets are joined to those of the ID set before (`joined`).

    In float32: they only serve to compute standard errors.
    """
    return {
        ood: as_kept(shared.bootstrap(id_dataset, id_scores(scores, ood), ood, found))
        for ood, found in scores.items()
        if not (ood == "id" or ood.startswith(id_key("")))
    }


def as_kept(values: Mapping[str, npt.NDArray[np.float64]]) -> Values:
    """Bootstrap values as float32, of half the size, to keep until a run ends."""
    return {metric: found.astype(np.float32) for metric, found in values.items()}


def belong(differences: Iterable[DifferenceRecord], records: Iterable[QualityRecord]) -> bool:
    """Whether these are exactly the differences of these quality records.

    A run that was stopped or resumed with other methods may have outdated differences on disk.
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


# --- pairs of methods ----------------------------------------------------------------------------


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
    """The OOD sets of a column; for the column "worst", the worst set if no set is missing."""
    if column.kind != "worst" or not all(by_set.get(name) for name in column.sets):
        return column.sets
    return (min(column.sets, key=lambda name: (sign * fmean(by_set[name].values()), name)),)


def mean_of_sets(by_set: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Seed -> mean over OOD sets, for the seeds with all sets."""
    seeds = sorted(set[int].intersection(*map(set, by_set))) if by_set else []
    return {seed: fmean(found[seed] for found in by_set) for seed in seeds}


def _image_errors(comparison: _Comparison, resampled: Callable[[Key], Resampled]) -> list[float]:
    """For each pair, the standard deviation over resamples of the mean difference of probits."""

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
    """Normal quantiles of fractions, clipped to a distance `resolution` from 0 and 1."""
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(values, resolution, 1 - resolution)))
