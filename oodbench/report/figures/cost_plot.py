"""Figure of quality against cost, with the methods that no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from oodbench.report.figures.canvas import (
    COLORS,
    ID,
    MUTED,
    RULE,
    SOFT,
    TEXT,
    legend,
    new_figure,
    plain,
    title,
)
from oodbench.report.leaderboard import RANKED_BY, LeaderboardData, Row
from oodbench.report.tables.values import BASELINE_SIGN, metric_title

_LEADER = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
_DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (6, 14, 24, 36, 50)
"""Where a label may stand beside its point, in points; a thin line leads to a distant one."""


def quality_against_cost(
    board: LeaderboardData, highlighted: Sequence[str], heading: str
) -> Figure:
    """Mean AUROC against the time per image, relative to the baseline.

    The line joins the methods that no method beats in both (`frontier`); these and the highlighted
    ones are named, as far as there is room.

    Args:
        board: of at least two methods with `relative_to_baseline` (`points`).
        highlighted: methods to name beside those on the line.
        heading: title above the figure.
    """
    rows = points(board)
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    plain(axes)
    best = frontier(rows)
    named = [row for row in rows if row in best or row.method in highlighted]
    for row in rows:
        x, y = _place(row)
        found = row.entries[RANKED_BY, board.column("mean")].estimate
        if row in named and found.ci_low is not None and found.ci_high is not None:
            ends = (100 * found.ci_low, 100 * found.ci_high)
            axes.plot((x, x), ends, color=MUTED, linewidth=1.0, zorder=2)
        on_line = row in best
        color = COLORS[0] if on_line else COLORS[1] if row in named else ID
        axes.plot(
            *([x], [y]),
            color=color,
            marker="o" if on_line else "s" if row in named else "o",
            markersize=6 if row in named else 4,
            markeredgecolor="#ffffff",
            markeredgewidth=0.6,
            zorder=4 if row in named else 3,
        )
    line = [_place(row) for row in best]
    axes.step(*zip(*line, strict=True), where="post", color=COLORS[0], linewidth=1.3, zorder=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.margins(x=0.1, y=0.14)
    low, high = axes.get_ylim()
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, min(high, 100.0))
    axes.set_yticks([tick for tick in ticks if max(low, 0.0) <= tick <= min(high, 100.0)])
    axes.set_ylim(low, high)
    axes.set_xlabel(
        f"Time per image of a batch ({BASELINE_SIGN} baseline, logarithmic)", fontsize=8.5
    )
    axes.set_ylabel(f"{metric_title(RANKED_BY)} mean (%)", fontsize=8.5)
    title(figure, f"{heading}: quality against cost")
    handles = [_marker("o", COLORS[0], 6, "no method is both better and faster", line=True)]
    if any(row not in best for row in named):
        label = "other methods" if len(named) == len(rows) else "best and baseline"
        handles.append(_marker("s", COLORS[1], 6, label))
    if len(named) < len(rows):
        handles.append(_marker("o", ID, 4, "other methods"))
    legend(figure, handles, 6.4)
    _label(figure, axes, rows, best, named)
    return figure


def points(board: LeaderboardData) -> list[Row]:
    """The methods with a mean AUROC and a relative time, fastest first; no oracles."""
    found = [row for row in board.rows if not row.oracle and _time(row) and _has_mean(row)]
    return sorted(found, key=lambda row: (_place(row)[0], -_place(row)[1]))


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Of `points`, those that no method beats; each is slower and better than the one before.

    A method beats another if it is better and not slower, or as good and faster. Times are equal
    if they differ by no more than their repetitions vary: of equally fast methods, the best is on
    the line.
    """
    return [row for row in rows if not any(_beats(other, row) for other in rows)]


def _beats(one: Row, other: Row) -> bool:
    (time, mean), (other_time, other_mean) = _place(one), _place(other)
    if mean > other_mean:
        return time <= other_time or time - _margin(one) <= other_time + _margin(other)
    return mean == other_mean and time < other_time


def _margin(row: Row) -> float:
    """Half the range of the repetitions of a relative time; 0 if it is not known."""
    scatter = None if row.cost is None else row.cost.values["time_scatter"]
    return _place(row)[0] * (scatter or 0.0) / 2


def _time(row: Row) -> float | None:
    return None if row.cost is None else row.cost.values["relative_to_baseline"]


def _mean(row: Row) -> float | None:
    entries = (entry for (m, c), entry in row.entries.items() if (m, c.kind) == (RANKED_BY, "mean"))
    return next((entry.estimate.mean for entry in entries), None)


def _has_mean(row: Row) -> bool:
    return _mean(row) is not None


def _place(row: Row) -> tuple[float, float]:
    return _time(row) or 0.0, 100 * (_mean(row) or 0.0)


def _marker(marker: str, color: str, size: float, label: str, *, line: bool = False) -> Line2D:
    return Line2D(
        *([], []),
        color=color,
        linestyle="-" if line else "",
        linewidth=1.3,
        marker=marker,
        markersize=size,
        markeredgecolor="#ffffff",
        label=label,
    )


def _label(
    figure: Figure, axes: Axes, rows: Sequence[Row], line: Sequence[Row], named: Sequence[Row]
) -> None:
    """Name methods beside their points, where no label covers a point, the line or a label."""
    figure.draw_without_rendering()  # places of the points are known after the layout
    width, height = figure.bbox.size
    renderer = RendererAgg(width, height, figure.dpi)  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")
    unit = figure.dpi / 72
    taken = [_around(axes, *_place(row), 4.5 * unit) for row in rows]
    for one, other in pairwise([_place(row) for row in line]):
        taken += [_around(axes, x, one[1], unit) for x in np.geomspace(one[0], other[0], 60)]
        taken += [_around(axes, other[0], y, unit) for y in np.linspace(one[1], other[1], 30)]
    inside, labels = axes.bbox, list[Bbox]()
    for row in sorted(named, key=lambda row: -_place(row)[1]):
        for distance, (right, up) in product(_DISTANCES, _DIRECTIONS):
            text = axes.annotate(
                row.method,
                _place(row),
                xytext=(distance * right, distance * up),
                textcoords="offset points",
                ha=("center", "left", "right")[right],
                va=("center", "bottom", "top")[up],
                fontsize=8,
                color=TEXT,
                arrowprops=_LEADER if distance > _DISTANCES[0] else None,
                zorder=5,
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the thin line
            x, y = axes.transData.transform(_place(row))
            leader = [
                _square(x + part * distance * unit * right, y + part * distance * unit * up, unit)
                for part in np.linspace(0.5, 1, 12)
            ]
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0
            free = not any(box.overlaps(each) for each in taken)
            crossing = any(one.overlaps(other) for one in leader for other in labels)
            if fits and box.y1 <= inside.y1 and free and not crossing:
                taken += [box, *leader]
                labels.append(box)
                break
            text.remove()


def _around(axes: Axes, x: float, y: float, size: float) -> Bbox:
    """A square around a point of the plot."""
    across, up = axes.transData.transform((x, y))
    return _square(across, up, size)


def _square(x: float, y: float, size: float) -> Bbox:
    return Bbox.from_extents(x - size, y - size, x + size, y + size)
