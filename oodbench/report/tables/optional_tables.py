"""Tables of the metrics on request, with the definition of each below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from oodbench.errors import listed
from oodbench.metrics import OPTIONAL, accepting, of_id_images
from oodbench.report.columns import Column
from oodbench.report.leaderboard import LeaderboardData, Row
from oodbench.report.tables.document import Cell, Heading, Table
from oodbench.report.tables.method_cells import name_headings, named, sections
from oodbench.report.tables.values import metric_title, value_cell

_DECIMALS = 2
"""Good values of areas of risk are near 0."""

_Shown = Sequence[tuple[str, Column, Heading]]
"""Metric, column of the board, and heading of each column of a table."""


_FEW = {True: 4, False: 2}
"""Most metrics whose groups of OOD sets are shown, in a whole report and in an overview."""


def optional_tables(board: LeaderboardData, *, split: bool, whole: bool = True) -> list[Table]:
    """A table of the metrics of the ID images alone, and one of the means over the OOD sets.

    Args:
        board: the leaderboard.
        split: whether a method is named in two columns, the trained model and the detector.
        whole: whether the report is a whole one, not an overview.
    """
    others = [metric for metric in board.optional if not accepting([metric])]
    of_id = [metric for metric in others if of_id_images(metric)]
    of_sets = [metric for metric in others if not of_id_images(metric)]
    tables = []
    if of_id:
        column = board.column("id")
        shown = [(name, column, Heading(metric_title(name), metric_title(name))) for name in of_id]
        title = "Metrics on request, of the ID images alone (%)"
        tables.append(_table(board, split, title, shown, _notes(board, of_id)))
    if of_sets:
        mean = board.column("mean")
        few = len(of_sets) <= _FEW[whole]
        groups = [column for column in board.groups if few and column.sets != mean.sets]
        shown = [
            (name, column, _heading(name, column if groups else None))
            for name in of_sets
            for column in (*groups, mean)
        ]
        what = "mean over the OOD sets" if len(mean.sets) > 1 else f"against {mean.sets[0]}"
        title = f"Metrics on request, {what} (%)"
        notes = _notes(board, of_sets, said=bool(of_id))
        tables.append(_table(board, split, title, shown, notes))
    return tables


def optional_set_tables(board: LeaderboardData, *, split: bool) -> list[Table]:
    """A table of each metric on request on each OOD set, if there are several sets."""
    sets = [column for column in board.columns if column.kind == "set"]
    names = [
        name
        for name in board.optional
        if len(sets) > 1 and not of_id_images(name) and not accepting([name])
    ]
    groups = {each.name: each.group for each in board.ood_sets}
    tables = []
    for name in names:
        titles = [f"{c.name} ({groups[c.name]})" if groups[c.name] else c.name for c in sets]
        shown = [
            (name, column, Heading(title, title))
            for column, title in zip(sets, titles, strict=True)
        ]
        tables.append(_table(board, split, f"{metric_title(name)} on each OOD set (%)", shown))
    return tables


def _heading(name: str, column: Column | None) -> Heading:
    """The heading of the mean, of a group, or of a metric without columns for groups."""
    if column is None:
        return Heading(metric_title(name), metric_title(name))
    if column.kind == "mean":
        return Heading("mean", "mean", group=metric_title(name))
    return Heading(column.name, column.name, importance=4, group=metric_title(name))


def _table(
    board: LeaderboardData, split: bool, title: str, shown: _Shown, notes: Iterable[str] = ()
) -> Table:
    def cells(row: Row) -> tuple[Cell, ...]:
        entries = (row.entries.get((name, column)) for name, column, _ in shown)
        values = (value_cell(entry, spread=True, decimals=_DECIMALS) for entry in entries)
        return *named(row, board, split), *values

    headings = (*name_headings(board, split), *(heading for _, _, heading in shown))
    return Table(title, headings, sections(board, cells), tuple(notes))


def _notes(board: LeaderboardData, names: Sequence[str], *, said: bool = False) -> Iterator[str]:
    """The definition of each metric, and what limits its values."""
    levels = [name for name in names if OPTIONAL[name].level]
    for name in names:
        if name not in levels:
            yield f"{metric_title(name)}: {OPTIONAL[name].definition}."
    if levels:
        yield (
            f"{', '.join(map(metric_title, levels))}: share of ID images that are correctly "
            "classified and score above the threshold that accepts less than this fraction of the "
            "OOD images."
        )
        yield from _coarse(board, levels)
    if not said:
        yield "Ties of metrics on request are not tested, so no value is marked as the best."


def _coarse(board: LeaderboardData, levels: Sequence[str]) -> Iterator[str]:
    """Levels that are finer than one OOD image."""
    for name in levels:
        least = 1 / Fraction(OPTIONAL[name].level)
        few = [each.name for each in board.ood_sets if each.images and each.images < least]
        if few:
            sets = "every OOD set" if len(few) == len(board.ood_sets) else listed(few)
            verb = "has" if len(few) in (1, len(board.ood_sets)) else "have"
            yield (
                f"{metric_title(name)}: {sets} {verb} fewer than {int(least):,} images, so the "
                "value is that of a threshold that accepts no OOD image."
            )
