"""The reports in a run directory, by file name.

What is measured once and for all and what depends on the machine and its load are in files of their
own: `quality.*` and `summary.json` are the same bytes whenever the scores are, `cost.*` never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.report.leaderboard import Leaderboard
from oodbench.report.tables import leaderboard as tables
from oodbench.report.writers import exports, markdown


def _quality(board: Leaderboard) -> str:
    return markdown.render(board.without_costs())


def _cost(board: Leaderboard) -> str:
    return markdown.render_document(tables.cost(board, best="bold", split=True))


RUN_FILES: Mapping[str, Callable[[Leaderboard], str]] = MappingProxyType(
    {
        "leaderboard.md": markdown.render,
        "leaderboard.csv": exports.to_csv,
        "leaderboard.json": exports.to_json,
        "quality.md": _quality,
        "quality.json": lambda board: exports.to_json(board.without_costs()),
        "cost.md": _cost,
        "cost.json": exports.cost_json,
        "summary.json": exports.summary_json,
    }
)
"""Each gives the whole file as text."""
