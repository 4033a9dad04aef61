"""A published value with the measured one beside it, and the quantity of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from oodbench.report.seed_means import Estimate


class Measure(NamedTuple):
    """A quantity of a table.

    Attributes:
        name: as in records.
        title: for people.
        unit: "percent" or "nats", as it is shown; values are fractions or nats.
        decimals: as printed.
        higher_is_better: whether the better one has the larger value.
    """

    name: str
    title: str
    unit: Literal["percent", "nats"]
    decimals: int
    higher_is_better: bool

    @property
    def scale(self) -> float:
        """The factor from a value to the number shown."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0**-self.decimals / self.scale


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell, in fractions in [0, 1] or nats.

    Attributes:
        published: the printed value.
        rounding: half a unit of the last printed digit: the largest rounding error of `published`.
        measured: the measured value; None if it was not measured.
    """

    published: float
    rounding: float
    measured: Estimate | None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured.mean - self.published

    @property
    def covered(self) -> bool | None:
        """Whether the interval has a value that rounds to the published one; None without one."""
        found = self.measured
        if found is None or found.ci_low is None or found.ci_high is None:
            return None
        slack = self.rounding + 1e-12  # for ends that are equal in decimal fractions
        return found.ci_low - slack <= self.published <= found.ci_high + slack
