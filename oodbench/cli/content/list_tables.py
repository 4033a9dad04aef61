"""The rows of `oodbench list` as a table, and one row in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodbench.cli.content.list_rows import Row
from oodbench.detector import FAMILIES
from oodbench.models.registry import HEADS
from oodbench.plugins.content_folders import BUILT_IN
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.writers.wrapping import wrap

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "detectors": (
        *("name", "aliases", "summary", "family", "reference", "paper", "code"),
        *("needs", "cost", "source"),
    ),
    "benchmarks": ("name", "summary", "kind", "id", "ood", "source"),
    "datasets": ("name", "summary", "shape", "classes", "splits", "source"),
    "models": ("name", "summary", "parameters", "input", "weights", "source"),
}
_NOT_PIPED = frozenset({"family", "paper", "code", "cost"})
"""Columns of a table that is not grouped which would make its lines very long; --json has them."""
_NUMBERS = ("classes", "parameters")
_IMPORTANCE = {"name": 9, "summary": 9, "reference": 8, "needs": 7, "id": 7, "shape": 7, "heads": 7}
_IMPORTANCE |= {"code": 5, "paper": 4, "aliases": 3, "source": 2}
"""Of columns, for `Heading`; 6 of the others."""
_WIDTH = {"name": 26, "summary": 36, "paper": 40, "needs": 20, "ood": 20}
"""Of columns, as of `Heading`."""
_SHORT = {"forward": "fwd", "backward": "bwd", "https://github.com/": "", "https://": ""}
"""Words in the cells of a grouped table -> shorter ones."""


def table(kind: str, rows: list[Row], *, grouped: bool = False) -> Table:
    """The rows as a table; the status is shown where it is not "ok".

    Args:
        kind: what is listed.
        rows: its rows.
        grouped: for a terminal, with detectors grouped by family; else for a pipe or a file, where
            every row is a line.
    """
    mixed = any(row["source"] != BUILT_IN for row in rows) and kind != "models"
    hidden = {"family"} if grouped else _NOT_PIPED
    hidden |= set() if mixed or kind == "models" else {"source"}
    columns = [name for name in _COLUMNS[kind] if name not in hidden]
    headings = tuple(
        Heading(
            _WORDS.get(name, name),
            _WORDS.get(name, name),
            text=name not in _NUMBERS,
            importance=8 if name == "source" and mixed else _IMPORTANCE.get(name, 6),
            width=_WIDTH.get(name, 16),
        )
        for name in columns
    )
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    if grouped and kind == "detectors":
        sections = {title: [] for title in FAMILIES.values()}
    for row in rows:
        texts = [_text(row.get(column)) for column in columns]
        if grouped:
            texts = [
                _brief(text) if name in ("cost", "code") else text
                for name, text in zip(columns, texts, strict=True)
            ]
        if row["status"] != "ok":
            index = columns.index("summary")
            texts[index] = f"{row['status'].upper()}: {texts[index]}"
        title = FAMILIES[row["family"]] if "family" in row else "Broken"
        sections.setdefault(title if grouped and kind == "detectors" else "", []).append(
            tuple(map(Cell, texts))
        )
    return Table(
        "",
        headings,
        tuple(Section(title, tuple(cells)) for title, cells in sections.items() if cells),
        _NOTES.get(kind, ()),
    )


_NOTES = {
    "models": (f"Heads (hf:PATH has softmax only): {', '.join(HEADS)}.",),
    "detectors": (
        "`oodbench list detectors NAME` shows everything about one detector, with its formula; "
        "--json everything about all.",
    ),
}


def details(row: Row, width: int) -> str:
    """All that is known of one row: a line or more for each key.

    Args:
        row: the row.
        width: characters a line may have.
    """
    shown = {_WORDS.get(key, key): _text(value) for key, value in row.items() if key not in _HIDDEN}
    indent = max(map(len, shown)) + 2
    lines = [str(row["name"])]
    for key, text in shown.items():
        first, *others = wrap(text, width - indent - 2) if text else [""]
        lines += [f"  {key:<{indent}}{first}"] if text else []
        lines += [f"  {'':{indent}}{each}" for each in others]
    return "\n".join(lines)


_HIDDEN = frozenset({"name", "status", "year"})
_WORDS = {"reference": "published", "search_space": "tuned over", "summary": "title"}
_WORDS |= {"nonnegative_features": "assumes features >= 0", "export_obstacle": "not exported"}
"""Key of a row -> how it is shown."""


def _brief(text: str) -> str:
    for long, short in _SHORT.items():
        text = text.replace(long, short)
    return text


def _text(value: Any) -> str:
    """On one line."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, dict):
        lists = any(isinstance(item, list) for item in value.values())
        mark, between = (": ", "; ") if lists else (" ", ", ")
        return between.join(f"{key}{mark}{_text(item)}" for key, item in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())
