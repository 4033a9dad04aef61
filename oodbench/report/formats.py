"""The formats of `oodbench report --format`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.report.leaderboard import Leaderboard

FORMATS: Mapping[str, Callable[[Leaderboard], str]] = MappingProxyType(
    {
        "table": Leaderboard.to_text,
        "md": Leaderboard.to_markdown,
        "csv": Leaderboard.to_csv,
        "json": Leaderboard.to_json,
        "html": Leaderboard.to_html,
        "latex": Leaderboard.to_latex,
    }
)
"""Each gives the whole document as text; what writes a format is imported when it is used."""
