"""A report as GitHub-flavored Markdown."""

from __future__ import annotations

import re

from tabulate import tabulate

from oodbench.errors import visible
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.tables.document import Cell, Document, Section, Table
from oodbench.report.tables.leaderboard_layout import full

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")
_ADDRESS = re.compile(r"(:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""Where an address is broken, so that renderers make no link of it."""


def render(leaderboard: LeaderboardData) -> str:
    """The full report of a leaderboard."""
    return render_document(full(leaderboard, best="bold", split=True))


def render_document(document: Document) -> str:
    """A report. Text from records is escaped, so that names are shown unchanged."""
    parts = [f"# {escaped(document.title)}"]
    parts.append("\n".join(f"- {escaped(line)}" for line in document.summary))
    if document.warnings:
        parts += ["**Warnings**", "\n".join(f"- {escaped(each)}" for each in document.warnings)]
    for table in document.tables:
        parts.append(f"## {escaped(table.title)}")
        for section in table.sections:
            if section.label:
                parts.append(f"**{escaped(section.label)}**")
            parts.append(table_text(table, section))
        parts += [escaped(note) for note in table.notes]
    if document.notes:
        parts += ["## Notes", "\n".join(f"- {escaped(note)}" for note in document.notes)]
    return "\n\n".join(parts) + "\n"


def table_text(table: Table, section: Section) -> str:
    """The rows of a section, below the headings of its table."""
    return tabulate(
        [[_cell(cell) for cell in row] for row in section.rows],
        headers=[escaped(heading.full_title) for heading in table.headings],
        tablefmt="pipe",  # as "github", with the alignment in it
        colalign=["left" if heading.text else "right" for heading in table.headings],
        disable_numparse=True,
    )


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    if cell.mark == "best":
        text = f"**{text}**"
    else:
        text += escaped(cell.sign)
    return f"{text} {cell.spread}".rstrip()


def escaped(text: str) -> str:
    """Text without a meaning in Markdown: one line, no markup, no links."""
    return _ADDRESS.sub(r"\\\1", _SPECIAL.sub(r"\\\1", visible(text)))
