"""How certain a difference is: its standard errors, interval and p-value, and Holm's correction.

A difference has two sources of error, as in `report.seed_means`:

- Sampling of the test images. Its error is normal.
- Training again, if the two runs have different networks. Its error is the spread over seeds of the
  paired differences, with seeds - 1 degrees of freedom (Student's t).

The half-width of the interval is the root of the sum of both squared half-widths. That is
conservative: at equal level it is never narrower than the interval of Cochran and Cox. The p-value
is the level at which the interval reaches 0.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LEVEL = 0.95
"""Confidence level of the intervals of differences."""

_SMALLEST = 1e-16
"""Smallest p-value of a test with a spread over seeds; smaller ones are reported as this one."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A mean difference and its errors.

    Attributes:
        difference: head - base, a fraction.
        below: standard error from the test images, for the lower end of the interval.
        above: likewise for the upper end; intervals of records are not symmetric.
        spread: standard error of the mean from the spread over seeds; 0 if the networks are the
            same in both runs.
        seeds: number of seeds.
        images: number of images of the smallest data set.
    """

    difference: float
    below: float
    above: float
    spread: float = 0.0
    seeds: int = 1
    images: int

    def interval(self) -> tuple[float, float]:
        """Confidence interval of the difference, at `LEVEL`."""
        low, high = (self._half_width(error, 1 - LEVEL) for error in (self.below, self.above))
        return self.difference - low, self.difference + high

    def p_value(self) -> float:
        """Two-sided p-value of no difference.

        If no error can be seen, because every image changed in the same way, this is the p-value of
        the sign test: 2 ** (1 - images).
        """
        size = abs(self.difference)
        if size == 0:
            return 1.0
        error = self.above if self.difference < 0 else self.below
        if self.spread == 0:
            if error == 0:
                return math.ldexp(1.0, 1 - min(self.images, 1000))
            return math.erfc(size / error / math.sqrt(2))
        low, high = math.log(_SMALLEST), 0.0
        for _ in range(60):
            middle = (low + high) / 2
            wide = self._half_width(error, math.exp(middle)) > size
            low, high = (middle, high) if wide else (low, middle)
        return math.exp(high)

    def _half_width(self, error: float, p: float) -> float:
        """Distance from the difference to an end of the interval of level 1 - p."""
        # scipy.stats has the same functions, but takes a second to import.
        from scipy.special import ndtri, stdtrit

        sampled = -float(ndtri(p / 2)) * error
        if self.spread == 0:
            return sampled
        return math.hypot(sampled, float(stdtrit(self.seeds - 1, p / 2)) * self.spread)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979).

    Rejecting all hypotheses with a corrected p-value below a level makes one false rejection or
    more with at most that probability, however the tests depend on each other.

    Args:
        p_values: hypothesis -> p-value.
    """
    corrected: dict[K, float] = {}
    largest = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for place, (key, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p))
        corrected[key] = largest
    return corrected
