"""The reports in a run directory, by file name.

Quality and costs have separate files. `quality.*` and `summary.json` are the same bytes whenever
the scores are the same; `cost.*` depends on the machine and its load. `published.*` are written if
the benchmark names published averages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.published.averages import ComparedAverages
from oodbench.report.tables import averages_layout, leaderboard_layout
from oodbench.report.writers import averages_exports, leaderboard_exports, markdown
from oodbench.storage.run_directory import RunDirectory


def _quality(board: LeaderboardData) -> str:
    return markdown.render(board.without_costs())


def _cost(board: LeaderboardData) -> str:
    return markdown.render_document(leaderboard_layout.cost(board, best="bold", split=True))


RUN_FILES: Mapping[str, Callable[[LeaderboardData], str]] = MappingProxyType(
    {
        "leaderboard.md": markdown.render,
        "leaderboard.csv": leaderboard_exports.to_csv,
        "leaderboard.json": leaderboard_exports.to_json,
        "quality.md": _quality,
        "quality.json": lambda board: leaderboard_exports.to_json(board.without_costs()),
        "cost.md": _cost,
        "cost.json": leaderboard_exports.cost_json,
        "summary.json": leaderboard_exports.summary_json,
    }
)
"""File name -> function that returns the whole file as text."""

PUBLISHED_FILES: Mapping[str, Callable[[ComparedAverages], str]] = MappingProxyType(
    {
        "published.md": lambda found: markdown.render_document(averages_layout.document(found)),
        "published.csv": averages_exports.to_csv,
        "published.json": averages_exports.to_json,
    }
)
"""File name -> function that returns the comparison with published averages as text."""


def files_of(board: LeaderboardData) -> dict[str, str]:
    """File name -> content of every report of a run."""
    found = {name: written(board) for name, written in RUN_FILES.items()}
    if board.published is not None:
        found |= {name: written(board.published) for name, written in PUBLISHED_FILES.items()}
    return found


def write_reports(board: LeaderboardData, directory: RunDirectory) -> None:
    """Write every report of a run into its directory.

    Raises:
        UserError: if a file cannot be written.
    """
    for name, text in files_of(board).items():
        directory.write_text(name, text)
