"""Histograms, ROC and precision-recall curves of stored scores, thinned to what a figure shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.metrics import rank
from oodbench.metrics.roc import precision, threshold_at_95_tpr

MOST_POINTS = 200
"""Most points of a curve."""

_BINS = 40
_MOST_RANGES = 4
_TOLERANCE = 0.002
"""Largest error of a thinned curve that does not have `MOST_POINTS` points: half a pixel."""

Array = NDArray[np.float64]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SetCurves:
    """Curves of one OOD set against the ID images.

    Attributes:
        name: name of the OOD set.
        median: median of its scores.
        shares: its histogram: the share of its images in each bin.
        roc: share of OOD images accepted, share of ID images accepted (ID is positive).
        precision_in: recall and precision with ID as the positive class.
        precision_out: the same with OOD as the positive class.
    """

    name: str
    median: float
    shares: tuple[float, ...]
    roc: Points
    precision_in: Points
    precision_out: Points


@dataclass(frozen=True, slots=True)
class ScoreCurves:
    """Curves of one method and seed.

    Attributes:
        seed: the seed.
        low: lower end of the histograms; the outer bins include all scores beyond.
        high: upper end.
        id_median: median of the scores of the ID images.
        id_shares: histogram of the ID images.
        threshold: score that at least 95% of the ID images reach.
        sets: curves of each OOD set.
    """

    seed: int
    low: float
    high: float
    id_median: float
    id_shares: tuple[float, ...]
    threshold: float
    sets: tuple[SetCurves, ...]


def score_curves(seed: int, scores: Mapping[str, Array], names: tuple[str, ...]) -> ScoreCurves:
    """The curves of the scores of one method and seed.

    Args:
        seed: the seed.
        scores: data set -> scores [N]; "id" has those of the ID images.
        names: the OOD sets to draw, of which `scores` must have one; others are left out.

    Raises:
        ValueError: if scores are missing, empty, not one-dimensional or not finite.
    """
    found = {name: scores[name] for name in names if name in scores}
    if "id" not in scores or not found:
        raise ValueError("scores of the ID images or of all OOD sets are missing")
    known = scores["id"]
    ranked = {name: rank(known, each).counts() for name, each in found.items()}
    low, high = histogram_range(known, np.concatenate([known, *found.values()]))
    if not (math.isfinite(high - low) and high > low):
        raise ValueError("scores are too large to draw")
    fewest = min(map(len, (known, *found.values())))
    edges = np.linspace(low, high, min(_BINS, max(10, math.isqrt(fewest))) + 1)

    def shares(values: Array) -> tuple[float, ...]:
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        return tuple((counts / len(values)).tolist())

    sets = []
    for name, counts in ranked.items():
        accepted = counts.id_above / counts.n_id
        swapped = counts.swapped()
        sets.append(
            SetCurves(
                name=name,
                median=float(np.median(found[name])),
                shares=shares(found[name]),
                roc=thinned(counts.ood_above / counts.n_ood, accepted),
                precision_in=thinned(accepted[1:], precision(counts)),
                precision_out=thinned(swapped.id_above[1:] / swapped.n_id, precision(swapped)),
            )
        )
    return ScoreCurves(
        seed=seed,
        low=low,
        high=high,
        id_median=float(np.median(known)),
        id_shares=shares(known),
        threshold=threshold_at_95_tpr(known),
        sets=tuple(sets),
    )


def histogram_range(known: Array, pooled: Array) -> tuple[float, float]:
    """The scores that histograms show.

    99% of all scores, but not more than four times the range of the ID images on either side: a
    few very low scores of OOD images would make all others one bin.

    Args:
        known: scores of the ID images.
        pooled: all scores.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = map(float, np.quantile(pooled, (0.005, 0.995)))
        id_low, id_high = map(float, np.quantile(known, (0.01, 0.99)))
    reach = _MOST_RANGES * (id_high - id_low)
    if reach > 0:
        low, high = max(low, id_low - reach), min(high, id_high + reach)
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # also where all scores are equal
        low, high = low - 0.5, high + 0.5
    return low, high


def thinned(x: Array, y: Array) -> Points:
    """At most `MOST_POINTS` points of a curve, its ends among them.

    The algorithm of Ramer, Douglas and Peucker: the point that is farthest from the thinned curve
    is added until none is farther than `_TOLERANCE`.

    Args:
        x: shape [N], in [0, 1].
        y: shape [N], in [0, 1].
    """
    points = np.stack([x, y], axis=1)
    kept = {0, len(points) - 1}
    spans = [_farthest(points, 0, len(points) - 1)]
    while spans and len(kept) < MOST_POINTS:
        distance, index, first, last = max(spans)
        if distance <= _TOLERANCE:
            break
        spans.remove((distance, index, first, last))
        kept.add(index)
        spans += [_farthest(points, *span) for span in ((first, index), (index, last))]
    return tuple((float(a), float(b)) for a, b in points[sorted(kept)])


def _farthest(points: Array, first: int, last: int) -> tuple[float, int, int, int]:
    """Distance and index of the point that is farthest from the line between two points."""
    inner = points[first + 1 : last] - points[first]
    if not len(inner):
        return 0.0, first, first, last
    along = points[last] - points[first]
    length = float(np.hypot(*along))
    if length == 0:
        distances = np.hypot(inner[:, 0], inner[:, 1])
    else:
        distances = np.abs(inner[:, 0] * along[1] - inner[:, 1] * along[0]) / length
    index = int(np.argmax(distances))
    return float(distances[index]), first + 1 + index, first, last
