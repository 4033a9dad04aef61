"""The formats of `oodbench report --format`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.errors import UserError
from oodbench.report.views import Leaderboard, PublishedComparison

Report = Leaderboard | PublishedComparison
"""A report that can be written in every format."""

FORMATS: Mapping[str, Callable[[Report], str]] = MappingProxyType(
    {
        "table": lambda report: report.to_text(),
        "md": lambda report: report.to_markdown(),
        "csv": lambda report: report.to_csv(),
        "json": lambda report: report.to_json(),
        "html": lambda report: report.to_html(),
        "latex": lambda report: report.to_latex(),
    }
)
"""Name -> function that returns the whole report as text in this format."""


def compact_table(report: Report) -> str:
    """A LaTeX table of the best methods that fits into a column of a paper.

    Raises:
        UserError: if the report is not a leaderboard.
    """
    from oodbench.report.writers import latex

    if not isinstance(report, Leaderboard):
        raise UserError(
            "--compact: a suite has no leaderboard.", "Give one of its run directories."
        )
    return latex.render_compact(report)
