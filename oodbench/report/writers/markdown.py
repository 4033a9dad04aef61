"""A report as GitHub-flavored Markdown."""

from __future__ import annotations

import re

from tabulate import tabulate

from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.tables.document import Cell, Document, Section, Table
from oodbench.report.tables.leaderboard_layout import full

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")


def render(leaderboard: LeaderboardData) -> str:
    """The full report of a leaderboard."""
    return render_document(full(leaderboard, best="bold", split=True))


def render_document(document: Document) -> str:
    """A report. Text from records is escaped, so that names are shown unchanged."""
    parts = [f"# {_escaped(document.title)}"]
    parts.append("\n".join(f"- {_escaped(line)}" for line in document.summary))
    if document.warnings:
        parts += ["**Warnings**", "\n".join(f"- {_escaped(each)}" for each in document.warnings)]
    for table in document.tables:
        parts.append(f"## {_escaped(table.title)}")
        for section in table.sections:
            if section.label:
                parts.append(f"**{_escaped(section.label)}**")
            parts.append(_table(table, section))
        parts += [_escaped(note) for note in table.notes]
    if document.notes:
        parts += ["## Notes", "\n".join(f"- {_escaped(note)}" for note in document.notes)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table, section: Section) -> str:
    return tabulate(
        [[_cell(cell) for cell in row] for row in section.rows],
        headers=[_escaped(heading.full_title) for heading in table.headings],
        tablefmt="pipe",  # as "github", with the alignment in it
        colalign=["left" if heading.text else "right" for heading in table.headings],
        disable_numparse=True,
    )


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    if cell.mark == "best":
        text = f"**{text}**"
    else:
        text += _escaped(cell.sign)
    return f"{text} {cell.spread}".rstrip()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
