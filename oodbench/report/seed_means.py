"""Means over seeds with their standard deviation and confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from oodbench.report.differences import mean_of_sets

LEVEL = 0.95
"""Confidence level of all intervals, those of the records included."""

FEWEST_SEEDS = 3
"""Fewest seeds for an interval over seeds; with two, Student's interval is too wide."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Value of one seed on one OOD set, in [0, 1], with its bootstrap interval if it has one."""

    value: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds; fractions in [0, 1].

    Attributes:
        mean: mean over seeds.
        std: standard deviation over seeds, with seeds - 1 degrees of freedom; None for one seed.
        ci_low: lower end of the confidence interval of the mean; None for two seeds, and if the
            records have no intervals.
        ci_high: upper end.
        seeds: number of seeds.
        by_seed: the value of each seed.
    """

    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    seeds: int
    by_seed: Mapping[int, float] = field(default_factory=dict)


def estimate(by_set: Sequence[Mapping[int, Measurement]]) -> Estimate | None:
    """Mean over seeds of the mean over OOD sets.

    The interval covers two sources of uncertainty:

    (a) Sampling of the test images. The records have a bootstrap interval for each seed. All seeds
        are tested on the same images, so their errors do not average out: the half-width is the
        mean over seeds, without a factor 1 / sqrt(S). All OOD sets share the ID images, so the
        half-width of a mean over sets is the mean half-width of the sets. Both are conservative:
        they are exact if the errors are perfectly correlated.
    (b) Variation between training runs. For S seeds with standard deviation s, the half-width is
        that of Student's interval of a mean, t(S - 1) * s / sqrt(S). With one seed this is unknown,
        and the interval has (a) only. With two seeds it is hardly known (t is 12.7): there is no
        interval, and reports show both values.

    The two sources are independent, so their half-widths are added in quadrature, separately for
    each side, because bootstrap intervals near 1 are asymmetric. Ends are clipped to [0, 1].

    Args:
        by_set: for each OOD set, the measurement of each seed. Only seeds with all sets are used,
            because means over fewer sets are not comparable.

    Returns:
        The estimate; None if no seed has all sets.
    """
    by_seed = mean_of_sets([{s: each.value for s, each in seen.items()} for seen in by_set])
    if not by_seed:
        return None
    seeds, values = list(by_seed), list(by_seed.values())
    mean = fmean(values)
    std = stdev(values) if len(values) > 1 else None
    if 1 < len(seeds) < FEWEST_SEEDS:
        return Estimate(mean, std, None, None, len(seeds), by_seed)
    spread = 0.0 if std is None else _spread(std, len(values))
    measured = [[seen[seed] for seed in seeds] for seen in by_set]
    below = _mean_half_width([[(m.ci_low, m.value) for m in seen] for seen in measured])
    above = _mean_half_width([[(m.value, m.ci_high) for m in seen] for seen in measured])
    return Estimate(
        mean=mean,
        std=std,
        ci_low=None if below is None else max(0.0, mean - math.hypot(below, spread)),
        ci_high=None if above is None else min(1.0, mean + math.hypot(above, spread)),
        seeds=len(seeds),
        by_seed=by_seed,
    )


def of_runs(by_seed: Mapping[int, float], *, ceiling: float = math.inf) -> Estimate | None:
    """Mean over seeds of a value that is recorded without a bootstrap interval.

    The interval covers only source (b) of `estimate`; with fewer than three seeds there is none.

    Args:
        by_seed: the value of each seed, not negative.
        ceiling: largest possible value, to which the interval is clipped.

    Returns:
        The estimate; None without seeds.
    """
    if not by_seed:
        return None
    values = list(by_seed.values())
    mean = fmean(values)
    std = stdev(values) if len(values) > 1 else None
    if std is None or len(values) < FEWEST_SEEDS:
        return Estimate(mean, std, None, None, len(values), dict(by_seed))
    half = _spread(std, len(values))
    low, high = max(0.0, mean - half), min(ceiling, mean + half)
    return Estimate(mean, std, low, high, len(values), dict(by_seed))


def _spread(std: float, seeds: int) -> float:
    """Half-width of Student's interval of a mean over seeds."""
    return _t_quantile(seeds - 1) * std / math.sqrt(seeds)


def _mean_half_width(
    by_set: Iterable[Sequence[tuple[float | None, float | None]]],
) -> float | None:
    """Mean over sets of the distance from the mean lower to the mean upper end of each pair.

    None if an end is missing. A percentile interval may exclude its own value by a little; the
    width on that side is then 0.
    """
    widths = []
    for pairs in by_set:
        distances = [
            upper - lower for lower, upper in pairs if lower is not None and upper is not None
        ]
        if len(distances) < len(pairs):
            return None
        widths.append(max(0.0, fmean(distances)))
    return fmean(widths)


def _t_quantile(degrees: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t."""
    # scipy.stats has the same function, but takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))
