"""Measured averages against published ones, as plots with the line of equal values."""

from __future__ import annotations

from oodbench.report.published.averages import Average, AverageRow, ComparedAverages
from oodbench.report.site.plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Line,
    Plot,
    Point,
    Scale,
    path_through,
)
from oodbench.report.tables.compared_cells import interval, number, signed

_WIDTH, _HEIGHT = 340, 320


def scatter_plots(averages: ComparedAverages) -> tuple[Plot, ...]:
    """A plot for each metric and group with a published and a measured value."""
    shown = [each for each in averages.averages if each.group is not None and each.overview]
    plots = (_plot(averages, average) for average in shown)
    return tuple(plot for plot in plots if plot is not None)


def _plot(averages: ComparedAverages, average: Average) -> Plot | None:
    name = average.measure.name
    rows = [row for row in averages.rows if name in row.published and name in row.measured]
    if not rows:
        return None
    ends = [row.published[name].mean for row in rows]
    for row in rows:
        found = row.measured[name]
        ends += [end for end in (found.mean, found.ci_low, found.ci_high) if end is not None]
    margin = max(0.5, 5 * (max(ends) - min(ends)))
    low, high = max(0.0, 100 * min(ends) - margin), min(100.0, 100 * max(ends) + margin)
    across = Scale(low, high, LEFT, _WIDTH - RIGHT)
    up = Scale(low, high, _HEIGHT - BOTTOM, TOP)
    title = f"{average.measure.title}, {average.group}-OOD"
    largest = max(rows, key=lambda row: abs(_difference(row, average)))
    return Plot(
        title=title,
        description=f"{title}: measured against published values of {len(rows)} methods. The "
        f"largest difference is {signed(_difference(largest, average), average.measure)} "
        f"({largest.method}). The values are in the table of this section.",
        width=_WIDTH,
        height=_HEIGHT,
        x_title="Published (%)",
        y_title="Measured (%)",
        x_ticks=across.ticks(6),
        y_ticks=up.ticks(6),
        lines=(
            Line(
                path_through([(across(low), up(low)), (across(high), up(high))]), None, dashed=True
            ),
        ),
        points=tuple(_point(row, average, across, up) for row in rows),
    )


def _point(row: AverageRow, average: Average, across: Scale, up: Scale) -> Point:
    known, found = row.published[average.measure.name], row.measured[average.measure.name]
    y = up(100 * found.mean)
    shown = interval(found, average.measure)
    return Point(
        x=across(100 * known.mean),
        y=y,
        low=y if found.ci_low is None else up(100 * found.ci_low),
        high=y if found.ci_high is None else up(100 * found.ci_high),
        text=f"{row.method}: published {number(known.mean, average.measure)} %, measured "
        f"{number(found.mean, average.measure)} %"
        + (f" ({shown})" if shown else "")
        + (", contested" if row.contested else ""),
        hollow=bool(row.contested),
    )


def _difference(row: AverageRow, average: Average) -> float:
    name = average.measure.name
    return row.measured[name].mean - row.published[name].mean
