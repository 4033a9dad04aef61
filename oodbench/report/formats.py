"""The formats of `oodbench report --format`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.report.comparison import Comparison
from oodbench.report.leaderboard import Leaderboard

Report = Leaderboard | Comparison
"""What can be written in every format."""

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
"""Each gives the whole document as text; what writes a format is imported when it is used."""
