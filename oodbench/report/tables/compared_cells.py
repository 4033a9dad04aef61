"""Published and measured values as text: numbers, intervals, differences."""

from __future__ import annotations

from oodbench.report.published.cells import Compared, Measure
from oodbench.report.seed_means import Estimate
from oodbench.report.tables.document import TIED_SIGN, Cell

COVERED_SIGN = TIED_SIGN
"""Follows a difference if the interval covers the published value: no difference is shown."""


def measure_title(measure: Measure) -> str:
    """The title of a measure with its unit."""
    return f"{measure.title} ({'%' if measure.unit == 'percent' else 'nats'})"


def number(value: float | None, measure: Measure) -> str:
    """A value as it is printed; empty if there is none."""
    return "" if value is None else f"{value * measure.scale:.{measure.decimals}f}"


def signed(value: float | None, measure: Measure) -> str:
    """A difference with a sign, unless it rounds to zero; empty if there is none."""
    if value is None:
        return ""
    text = f"{abs(value) * measure.scale:.{measure.decimals}f}"
    sign = "-" if value < 0 else "+"
    return text if float(text) == 0 else sign + text


def interval(found: Estimate | None, measure: Measure) -> str:
    """The interval of a value; with two seeds their values; empty if there is neither."""
    if found is None:
        return ""
    if found.ci_low is not None and found.ci_high is not None:
        return f"{number(found.ci_low, measure)}-{number(found.ci_high, measure)}"
    if len(found.by_seed) > 1:
        return ", ".join(number(value, measure) for value in found.by_seed.values())
    return ""


def difference_cell(compared: Compared | None, measure: Measure) -> Cell:
    """Measured minus published, marked if the interval covers the published value."""
    if compared is None:
        return Cell()
    return Cell(signed(compared.difference, measure), "covered" if compared.covered else None)
