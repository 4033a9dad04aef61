"""The first table of a leaderboard: ranks, AUROC and FPR95, and the two most telling costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from oodbench.report.columns import Column
from oodbench.report.leaderboard import FPR, RANKED_BY, LeaderboardData, Row
from oodbench.report.tables.cost_tables import SCATTER_LIMIT, relative_time, unsteady
from oodbench.report.tables.document import UNSTEADY_SIGN, Cell, Heading, Table
from oodbench.report.tables.method_cells import name_headings, named, sections
from oodbench.report.tables.notes import left_out_note
from oodbench.report.tables.values import (
    BASELINE_SIGN,
    cost_of,
    interval_text,
    interval_title,
    metric_title,
    percent,
    short_decimal,
    tuned_on_text,
    value_cell,
)

_CellColumn: TypeAlias = tuple[Heading, Callable[[Row], Cell]]

_TUNED = Heading("Tuned on", "Tuned on", text=True, importance=7)


def ranking_table(board: LeaderboardData, split: bool) -> Table:
    """The table.

    A group of all OOD sets would repeat the mean, and so would the worst of one set.

    Args:
        board: the leaderboard.
        split: whether a method is named in two columns, the trained model and the detector.
    """
    mean = board.column("mean")
    groups = [column for column in board.groups if column.sets != mean.sets]
    has_cost = any(row.cost is not None for row in board.rows)
    columns = [
        *(_group_column(each) for each in groups),
        *_mean_columns(board, mean),
        *(_worst_columns(board.column("worst")) if len(mean.sets) > 1 else ()),
        (
            Heading("ID accuracy (%)", "ID acc.", importance=1),
            lambda row: Cell(percent(row.id_accuracy.mean) if row.id_accuracy else ""),
        ),
        *(_COST_COLUMNS if has_cost else ()),
    ]
    headings = (
        Heading("#", "#", importance=8),
        *name_headings(board, split),
        _TUNED,
        *(heading for heading, _ in columns),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        return (
            Cell("" if row.rank is None else str(row.rank)),
            *named(row, board, split),
            Cell(tuned_on_text(row.tuned_on, row.tuning_ood)),
            *(cell(row) for _, cell in columns),
        )

    title = "Quality (%) and cost" if has_cost else "Quality (%)"
    notes = [left_out_note(board.left_out)] if board.left_out else []
    if any(map(unsteady, board.rows)):
        notes.append(
            f"{UNSTEADY_SIGN} after a time: its repetitions vary by more than {SCATTER_LIMIT:.0%} "
            "(see the cost table)."
        )
    return Table(title, headings, sections(board, cells), tuple(notes))


def _group_column(group: Column) -> _CellColumn:
    title = f"{metric_title('auroc')} {group.name}"
    return (
        Heading(f"{title} (%)", title, importance=8),
        lambda row: value_cell(row.entries.get(("auroc", group))),
    )


def _mean_columns(board: LeaderboardData, mean: Column) -> list[_CellColumn]:
    """AUROC with its interval, and FPR95."""
    interval = interval_title(row.entries.get((RANKED_BY, mean)) for row in board.rows)
    over = "" if len(mean.sets) == 1 else " mean"
    auroc, fpr = (f"{metric_title(metric)}{over}" for metric in ("auroc", FPR))

    def between(row: Row) -> Cell:
        entry = row.entries.get(("auroc", mean))
        return Cell(interval_text(entry.estimate) if entry else "")

    return [
        (
            Heading(f"{auroc} (%)", auroc),
            lambda row: value_cell(row.entries.get(("auroc", mean)), spread=True),
        ),
        (Heading(f"{interval} (%)", interval, importance=5), between),
        (
            Heading(f"{fpr} (%)", fpr, importance=8),
            lambda row: value_cell(row.entries.get((FPR, mean))),
        ),
    ]


def _worst_columns(worst: Column) -> list[_CellColumn]:
    """AUROC on the worst set, and which that is."""
    title = f"{metric_title('auroc')} worst"

    def which(row: Row) -> Cell:
        entry = row.entries.get(("auroc", worst))
        return Cell((entry.set_name or "") if entry else "")

    return [
        (
            Heading(f"{title} set (%)", title, importance=6),
            lambda row: value_cell(row.entries.get(("auroc", worst))),
        ),
        (Heading("Worst set", "Worst set", text=True, importance=2), which),
    ]


def _passes(row: Row) -> Cell:
    forwards, backwards = (
        cost_of(row, name) for name in ("forwards_per_image", "backwards_per_image")
    )
    if forwards is None or backwards is None:
        return Cell("")
    return Cell(f"{short_decimal(forwards)}/{short_decimal(backwards)}")


_COST_COLUMNS: list[_CellColumn] = [
    (Heading("Forwards/backwards per image", "Fwd/bwd per image", importance=4), _passes),
    (
        Heading(f"Time ({BASELINE_SIGN} baseline)", f"Time {BASELINE_SIGN}base", importance=7),
        relative_time,
    ),
]
