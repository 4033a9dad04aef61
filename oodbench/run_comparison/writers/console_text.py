"""A comparison on a terminal: the verdict, the gate's findings, what differs."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from oodbench.report.tables.document import Section, Table
from oodbench.report.writers import terminal
from oodbench.run_comparison.changes import GateResult, RunComparison
from oodbench.run_comparison.writers.overview import Overview, overview

_MOST_ROWS, _MOST_FINDINGS = 25, 10
"""Rows of a section and findings; the other formats show all of them."""

_STYLES = {
    "FAILURE": "bold red",
    "WARNING": "magenta",
    "NOT COMPARABLE": "bold magenta",
    "failed": "bold red",
    "incomplete": "bold magenta",
    "passed": "green",
}


def renderables(
    comparison: RunComparison, gate: GateResult, width: int = 120
) -> list[RenderableType]:
    """The parts to print, in order, on a console of at least `width` characters.

    Columns that do not fit are left out, the least important first, and named below the table;
    text is wrapped; numbers stay whole.
    """
    found = overview(comparison, gate)
    shown: list[RenderableType] = [
        _prose(found.title, width, style="bold"),
        *(_prose(side, width, indent="  ") for side in found.sides),
        Text(),
        _prose(found.verdict, width, style="bold"),
        _prose(found.gate, width, style=_STYLES[found.state]),
        *([_prose(found.rules, width, indent="  ")] if found.rules else []),
        *_findings(found, width),
    ]
    for table in found.changed:
        shown += [Text(), *terminal.table_renderables(_cut(table), width)]
    if found.unchanged:
        shown += [Text(), _prose(found.unchanged, width)]
    if found.notes:
        shown += [Text(), Text("Notes", style="bold")]
        shown += [_prose(f"- {note}", width, indent="  ") for note in found.notes]
    return shown


def render(comparison: RunComparison, gate: GateResult, width: int = 120) -> str:
    """A comparison as plain text, without colors, no line wider than `width`."""
    return terminal.plain(renderables(comparison, gate, width), width)


def _findings(found: Overview, width: int) -> list[Text]:
    """The gate's first findings, the most severe first, and how many more there are."""
    lines = [
        _prose(f"{severity}: {text}", width, indent="  ", style=_STYLES[severity])
        for severity, text in found.findings[:_MOST_FINDINGS]
    ]
    more = len(found.findings) - _MOST_FINDINGS
    return [*lines, Text(f"... and {more} more.")] if more > 0 else lines


def _prose(text: str, width: int, *, indent: str = "", style: str = "") -> Text:
    """Text in lines of at most `width` characters, broken at blanks: names stay whole."""
    lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False)
    return Text(f"\n{indent}".join(lines), style=style)


def _cut(table: Table) -> Table:
    """The table with the first rows of each section, and a note about the others."""
    sections, notes = [], list(table.notes)
    for section in table.sections:
        more = len(section.rows) - _MOST_ROWS
        sections.append(Section(section.label, section.rows[:_MOST_ROWS]))
        if more > 0:
            label = f"{section.label}: " if section.label else ""
            notes.append(f"{label}{more} more rows; --format md, html and json have them.")
    return replace(table, sections=tuple(sections), notes=tuple(notes))
