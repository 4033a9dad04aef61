"""Results of detectors on the committed leaderboards: docs/leaderboards and docs/results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from documentation.markdown_text import cell, table
from documentation.repository_links import ROOT
from oodbench.report.leaderboard import FPR, RANKED_BY, Row
from oodbench.report.tables.values import interval_text, tuned_on_text, value_cell
from oodbench.report.views import Leaderboard
from oodbench.storage.stored_run import read_stored_run

_FOLDERS = ("docs/leaderboards", "docs/results")


@dataclass(frozen=True)
class Board:
    """A committed leaderboard.

    Attributes:
        page: its page, relative to docs.
        name: name of its folder.
        data: the leaderboard.
    """

    page: str
    name: str
    data: Leaderboard

    def rows(self, detector: str) -> Iterator[Row]:
        """The methods with a detector, in the order of their ranks."""
        return (row for row in self.data.rows if row.detector == detector)


@cache
def boards() -> tuple[Board, ...]:
    """Every committed leaderboard that has a page."""
    found = []
    for folder in _FOLDERS:
        for records in sorted((ROOT / folder).glob("*/records.jsonl")):
            page = records.with_name("leaderboard.md")
            if page.exists():
                path = page.relative_to(ROOT / "docs").as_posix()
                found.append(Board(path, records.parent.name, _read(records.parent)))
    return tuple(found)


def _read(folder: Path) -> Leaderboard:
    run = read_stored_run(folder)
    return Leaderboard.from_records(run.records, run.costs)


def results(detector: str) -> str:
    """Markdown with a table for each board that a detector is on; empty if it is on none."""
    parts = []
    for board in boards():
        rows = [*board.rows(detector)]
        if rows:
            parts += [f"{_title(board)}\n", _table(board, rows)]
    return "\n".join(parts)


def _title(board: Board) -> str:
    data = board.data
    sets = ", ".join(each.name for each in data.ood_sets)
    ranked = sum(row.rank is not None and not row.oracle for row in data.rows)
    seeds = f"{len(data.seeds)} seed{'s' if len(data.seeds) > 1 else ''}"
    return (
        f"[**{board.name}**](../../{board.page}): {data.id_dataset} against {sets}; "
        f"{ranked} methods, {seeds}."
    )


def _table(board: Board, rows: list[Row]) -> str:
    columns: Mapping[str, str] = {"auroc": "AUROC↑ %", FPR: "FPR95↓ %"}
    head = ("Rank", "Method", "Tuned on", *columns.values(), "95 % interval of AUROC", "Time x")
    mean = board.data.columns[0]
    cells = []
    for row in rows:
        values = [row.entries.get((metric, mean)) for metric in columns]
        auroc = row.entries.get((RANKED_BY, mean))
        relative = row.cost.values["relative_to_baseline"] if row.cost else None
        cells.append(
            (
                "oracle" if row.oracle else str(row.rank or "-"),
                cell(row.method),
                cell(tuned_on_text(row.tuned_on, row.tuning_ood)),
                *[value_cell(each).text or "-" for each in values],
                interval_text(auroc.estimate) if auroc else "-",
                "-" if relative is None else f"{relative:.1f}",
            )
        )
    return table(head, cells)
