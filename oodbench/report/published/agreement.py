"""How well measured values agree with published ones, and whether methods keep their order."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from oodbench.report.published.cells import Measure
from oodbench.report.published.compared_tables import ComparedTable, Place, PublishedComparisonData
from oodbench.report.seed_means import Estimate


class Agreement(NamedTuple):
    """Agreement of one measured column with the published one, over the rows of a table.

    Attributes:
        table: title of the table.
        measure: the quantity.
        column: the column, as published.
        cells: number of cells.
        measured: how many of them were measured.
        with_interval: how many of these have an interval.
        covered: how many of these intervals cover the published value.
        mean: mean difference, measured minus published; None if nothing was measured.
        largest: the difference of the largest size, with its sign.
        where: the row of the largest difference.
    """

    table: str
    measure: Measure
    column: str
    cells: int
    measured: int
    with_interval: int
    covered: int
    mean: float | None
    largest: float | None
    where: Place | None


class Order(NamedTuple):
    """Number of rows in which one method is ahead of another.

    Attributes:
        table: title of the table.
        measure: the metric.
        ahead: the published column that is tested for being ahead.
        behind: the published column it is compared with.
        rows: number of rows.
        published: number of rows in which `ahead` is ahead by the published values.
        measured: number of rows with both methods measured.
        here: number of these rows in which `ahead` is ahead by the measured means.
        every_seed: number of these rows in which it is ahead on each common seed, two at least.
    """

    table: str
    measure: Measure
    ahead: str
    behind: str
    rows: int
    published: int
    measured: int
    here: int
    every_seed: int


def agreements(comparison: PublishedComparisonData) -> list[Agreement]:
    """The agreement of each measure and column of each table."""
    return [
        _agreement(table, measure, column)
        for table in comparison.tables
        for measure in table.measures
        for column in table.columns
    ]


def orders(comparison: PublishedComparisonData) -> list[Order]:
    """The order of each two methods, for each metric of each table about detection.

    `ahead` is the method that comes later in the published table: the one that the publication
    argues for, or the one that costs more.
    """
    return [
        _order(table, measure, ahead, behind)
        for table in comparison.tables
        if table.about == "detection"
        for measure in table.measures
        for index, ahead in enumerate(table.columns)
        for behind in list(table.columns)[:index]
    ]


def _agreement(table: ComparedTable, measure: Measure, column: str) -> Agreement:
    cells = table.of(measure, column)
    gaps = {place: cell.difference for place, cell in cells.items() if cell.difference is not None}
    where = max(gaps, key=lambda place: abs(gaps[place])) if gaps else None
    covered = [cell.covered for cell in cells.values() if cell.covered is not None]
    return Agreement(
        table=table.title,
        measure=measure,
        column=column,
        cells=len(cells),
        measured=len(gaps),
        with_interval=len(covered),
        covered=sum(covered),
        mean=fmean(gaps.values()) if gaps else None,
        largest=None if where is None else gaps[where],
        where=where,
    )


def _order(table: ComparedTable, measure: Measure, ahead: str, behind: str) -> Order:
    sign = 1 if measure.higher_is_better else -1
    first, second = table.of(measure, ahead), table.of(measure, behind)
    both = [
        (one.measured, other.measured)
        for one, other in zip(first.values(), second.values(), strict=True)
        if one.measured is not None and other.measured is not None
    ]
    here = [(one, other) for one, other in both if sign * (one.mean - other.mean) > 0]
    return Order(
        table=table.title,
        measure=measure,
        ahead=ahead,
        behind=behind,
        rows=len(first),
        published=sum(
            sign * (first[place].published - second[place].published) > 0 for place in first
        ),
        measured=len(both),
        here=len(here),
        every_seed=sum(_on_every_seed(one, other, sign) for one, other in here),
    )


def _on_every_seed(one: Estimate, other: Estimate, sign: int) -> bool:
    """Whether the first is ahead on each common seed, of which there are two at least."""
    seeds = one.by_seed.keys() & other.by_seed.keys()
    ahead = [sign * (one.by_seed[seed] - other.by_seed[seed]) > 0 for seed in seeds]
    return len(ahead) > 1 and all(ahead)
