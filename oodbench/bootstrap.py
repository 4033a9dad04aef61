"""Confidence intervals of the metrics: the percentile bootstrap, stratified over ID and OOD images.

ID and OOD images are resampled separately, so every resample keeps both numbers of images (Efron &
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). The scores are ranked once: a
resample is a weight for each image, not an array of its own to sort.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oodbench import metrics
from oodbench.files import digest
from oodbench.metrics.resampled_values import Images, resampled_values

# Counts held at a time. A few rows of 20,000 images stay in a core's cache; more only costs memory.
_BLOCK = 1 << 16


def resample_counts(
    n: int, resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Counts of each image in bootstrap resamples: `n` draws with replacement from `n` images.

    Draw the counts once for each data set and pass them to `bootstrap` for every method: then
    methods are compared on the same resamples.

    Args:
        n: number of images.
        resamples: number of resamples.
        generator: source of randomness.

    Returns:
        Counts of shape [resamples, n]; each row sums to `n`. One byte each: an image drawn 256
        times in one resample has a probability below 1e-500.

    Raises:
        ValueError: `n` or `resamples` is less than 1.
    """
    if n < 1 or resamples < 1:
        raise ValueError(f"n and resamples must be at least 1, not {n} and {resamples}")
    counts = np.empty((resamples, n), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return counts


def bootstrap(
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    id_counts: metrics.Weights,
    ood_counts: metrics.Weights,
    names: Iterable[str] = metrics.METRICS,
) -> dict[str, metrics.Array]:
    """Metrics, by the adopted definitions, of each resample.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].
        id_counts: how often each ID image is drawn, shape [R, n_id] (`resample_counts`).
        ood_counts: how often each OOD image is drawn, shape [R, n_ood].
        names: names of the metrics; default: the six of `metrics.METRICS`.

    Returns:
        Fractions in [0, 1] of shape [R], under these names and in their order; exactly the metrics
        of the resampled arrays.

    Raises:
        ValueError: scores are empty, not one-dimensional, NaN or infinite; counts are not unsigned
            integers of the shapes above, or a resample draws no image.
    """
    ranking = metrics.rank(id_scores, ood_scores)
    resamples = id_counts.shape[0]
    _check_counts("id_counts", id_counts, (resamples, ranking.n_id))
    _check_counts("ood_counts", ood_counts, (resamples, ranking.n_ood))
    return _measure_resamples(ranking, id_counts, ood_counts, names)


@dataclass(frozen=True, slots=True)
class Measured:
    """The six metrics of two arrays of scores, as a record holds them.

    Attributes:
        values: metric -> fraction in [0, 1].
        intervals: metric -> ends of its 95 % interval.
        tie_fraction: see `metrics.tie_fraction`.
        n_id, n_ood: numbers of images.
        resampled: metric -> values on the resamples, shape [R].
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    tie_fraction: float
    n_id: int
    n_ood: int
    resampled: dict[str, metrics.Array]


class OptionalValue(NamedTuple):
    """A metric on request.

    Attributes:
        value: a fraction; None if it is not defined for these images.
        interval: ends of its 95 % interval, over the resamples for which it is defined.
    """

    value: float | None
    interval: tuple[float, float] | None


class SharedResamples:
    """Resamples of data sets: the same for every method, model and seed, in every process.

    They depend only on the name of a data set and its number of images.

    Args:
        resamples: number of resamples, R.
    """

    def __init__(self, resamples: int) -> None:
        self._resamples = resamples
        self._drawn: dict[tuple[str, int], npt.NDArray[np.unsignedinteger[Any]]] = {}

    def counts(self, dataset: str, images: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """How often each image is drawn, shape [R, images]."""
        key = dataset, images
        if key not in self._drawn:
            generator = np.random.default_rng([int(digest(dataset)[:8], 16), images])
            self._drawn[key] = resample_counts(images, self._resamples, generator)
        return self._drawn[key]

    def bootstrap(
        self,
        id_dataset: str,
        id_scores: npt.NDArray[np.float64],
        ood_dataset: str,
        ood_scores: npt.NDArray[np.float64],
        names: Iterable[str] = metrics.METRICS,
    ) -> dict[str, metrics.Array]:
        """Metrics of each resample of these data sets, as from the function `bootstrap`."""
        return bootstrap(
            id_scores,
            ood_scores,
            self.counts(id_dataset, len(id_scores)),
            self.counts(ood_dataset, len(ood_scores)),
            names,
        )

    def measure(
        self,
        id_dataset: str,
        id_scores: npt.NDArray[np.float64],
        ood_dataset: str,
        ood_scores: npt.NDArray[np.float64],
    ) -> Measured:
        """Metrics, intervals and ties of the scores of these data sets, shapes [n_id], [n_ood].

        Raises:
            ValueError: scores are empty, not one-dimensional, NaN or infinite.
        """
        resampled = self.bootstrap(id_dataset, id_scores, ood_dataset, ood_scores)
        return Measured(
            values=metrics.evaluate(id_scores, ood_scores),
            intervals={name: percentile_interval(each) for name, each in resampled.items()},
            tie_fraction=metrics.tie_fraction(id_scores, ood_scores),
            n_id=len(id_scores),
            n_ood=len(ood_scores),
            resampled=resampled,
        )

    def optional(
        self, images: Images, id_dataset: str, ood_dataset: str | None, names: Iterable[str]
    ) -> dict[str, OptionalValue]:
        """Metrics on request of the images of these data sets, with intervals.

        Args:
            images: with all that these metrics need.
            id_dataset: the ID data set.
            ood_dataset: the OOD set; None if no metric needs one.
            names: names of `metrics.OPTIONAL`. Of shares of accepted images, the interval is that
                of Clopper and Pearson: the threshold is fixed.
        """
        names = list(names)
        if accepting := metrics.accepting(names):
            accepted = {name: images.accepted(name)[1] for name in accepting}
            others = [name for name in names if name not in accepted]
            more = self.optional(images, id_dataset, ood_dataset, others) if others else {}
            return more | {
                name: OptionalValue(found.rate, (found.low, found.high))
                for name, found in accepted.items()
            }
        known = images.id_scores if images.correct is None else images.correct
        assert known is not None
        of_id = self.counts(id_dataset, known.size)
        of_ood = None
        if ood_dataset is not None and images.ood_scores is not None:
            of_ood = self.counts(ood_dataset, images.ood_scores.size)
        once = None if of_ood is None else np.ones_like(of_ood[:1])
        values = resampled_values(images, np.ones_like(of_id[:1]), once, names)
        resampled = resampled_values(images, of_id, of_ood, names)
        return {name: _optional(float(values[name][0]), resampled[name]) for name in names}


def _optional(value: float, resampled: metrics.Array) -> OptionalValue:
    defined = resampled[np.isfinite(resampled)]
    if np.isnan(value) or not defined.size:
        return OptionalValue(None, None)
    return OptionalValue(value, percentile_interval(defined))


def _measure_resamples(
    ranking: metrics.Ranking,
    id_counts: metrics.Weights,
    ood_counts: metrics.Weights,
    names: Iterable[str] = metrics.METRICS,
) -> dict[str, metrics.Array]:
    resamples = id_counts.shape[0]
    values = {name: np.empty(resamples) for name in names}
    step = max(1, _BLOCK // ranking.order.size)
    for start in range(0, resamples, step):
        block = slice(start, start + step)
        counts = ranking.weighted_counts(id_counts[block], ood_counts[block])
        for name, value in metrics.measure(counts, values).items():
            values[name][block] = value
    return values


def _check_counts(name: str, counts: metrics.Weights, shape: tuple[int, int]) -> None:
    if counts.shape != shape or counts.dtype.kind != "u":
        raise ValueError(
            f"{name} is {counts.dtype} of shape {counts.shape}; expected unsigned integers of "
            f"shape {shape}, one row for each resample and one column for each image"
        )
    if not counts.any(axis=1).all():
        raise ValueError(f"{name}[{int(np.argmin(counts.any(axis=1)))}] draws no image")


def percentile_interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds a fraction `level` of the values.

    Args:
        values: bootstrap values of a metric, shape [R].
        level: confidence level, between 0 and 1 exclusively.

    Returns:
        The (1 - level) / 2 and (1 + level) / 2 quantiles, interpolated linearly.

    Raises:
        ValueError: `level` is not between 0 and 1, or there are no values.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("values is empty")
    low, high = np.quantile(array, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def confidence_intervals(
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap confidence intervals of the six metrics.

    They show how much the values would vary with other *images* from the same sources, not with
    another training run of the model.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].
        generator: source of randomness; the ID resamples are drawn first. Memory is
            `resamples` bytes per image.
        resamples: number of bootstrap resamples.
        level: confidence level, between 0 and 1 exclusively.

    Returns:
        The lower and upper end for each name of `metrics.METRICS`, as fractions in [0, 1].

    Raises:
        ValueError: scores are empty, not one-dimensional, NaN or infinite; `resamples` is less
            than 1; `level` is not between 0 and 1.
    """
    ranking = metrics.rank(id_scores, ood_scores)
    id_counts = resample_counts(ranking.n_id, resamples, generator)
    ood_counts = resample_counts(ranking.n_ood, resamples, generator)
    values = _measure_resamples(ranking, id_counts, ood_counts)
    return {name: percentile_interval(value, level) for name, value in values.items()}
