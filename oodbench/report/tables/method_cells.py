"""Rows of the tables of a leaderboard: names of methods, sections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oodbench.report.leaderboard import ORACLE_LABEL, LeaderboardData, Row
from oodbench.report.tables.document import Cell, Heading, Section

METHOD = Heading("Method", "Method", text=True)

_SPLIT = (Heading("Training", "Training", text=True), Heading("Detector", "Detector", text=True))


RUN = Heading("Run", "Run", text=True)


def name_headings(board: LeaderboardData, split: bool) -> tuple[Heading, ...]:
    """Headings of the columns that name a method, and its run if there are several."""
    return (*(_SPLIT if split else (METHOD,)), *((RUN,) if board.runs else ()))


def named(row: Row, board: LeaderboardData, split: bool) -> tuple[Cell, ...]:
    """The cells that name a method; missing seeds or sets are noted after the name."""
    missing = _missing(row, board)
    run = (Cell(row.run),) if board.runs else ()
    if not split:
        return Cell(row.method + missing), *run
    return Cell(row.model), Cell(row.method.removeprefix(f"{row.model}+") + missing), *run


def _missing(row: Row, board: LeaderboardData) -> str:
    """Note after the name of a method without all seeds or sets."""
    if row.complete:
        return ""
    if len(row.seeds) < len(board.seeds):
        return f" ({len(row.seeds)}/{len(board.seeds)} seeds)"
    return " (sets missing)"


def sections(
    board: LeaderboardData,
    cells: Callable[[Row], tuple[Cell, ...]],
    key: Callable[[Row], Any] | None = None,
) -> tuple[Section, ...]:
    """The ranked methods, then the oracles; in the order of the leaderboard, or sorted by `key`."""
    parts = []
    for label, oracle in (("", False), (ORACLE_LABEL, True)):
        rows = [row for row in board.rows if row.oracle is oracle]
        if key is not None:
            rows.sort(key=key)
        if rows:
            parts.append(Section(label, tuple(cells(row) for row in rows)))
    return tuple(parts)
