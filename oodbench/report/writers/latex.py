"""A report as LaTeX tables, for a document that loads booktabs and graphicx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.tables.document import (
    TIED_SIGN,
    UNSTEADY_SIGN,
    Cell,
    Document,
    Heading,
    Section,
    Table,
)
from oodbench.report.tables.leaderboard_layout import compact, full
from oodbench.report.writers.wrapping import wrap

_REPLACEMENTS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row, these would become arguments of the \\ before it.
    "[": "{[}",
    "*": "{*}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
}
_SPECIAL = re.compile("|".join(map(re.escape, _REPLACEMENTS)))

_SIGNS = {TIED_SIGN: r"$^{=}$", UNSTEADY_SIGN: r"$^{\sim}$"}
_NO_SIGN = rf"\phantom{{{_SIGNS[TIED_SIGN]}}}"
"""As wide as a sign, so that digits stay aligned."""

_PACKAGES = r"% \usepackage{booktabs,graphicx}"

_PARAGRAPH = 40
"""Columns with longer cells than this are set as paragraphs."""

_HEAD = 11
"""Headings are broken into lines of this many characters."""


def render(leaderboard: LeaderboardData) -> str:
    """The full report of a leaderboard."""
    document = full(leaderboard, best="bold")
    tables = (replace(each, notes=(*_legend(each), *each.notes)) for each in document.tables)
    return render_document(replace(document, tables=tuple(tables)))


def render_compact(leaderboard: LeaderboardData) -> str:
    """One table of the best methods only, as wide as a column of a paper."""
    return "\n".join([_PACKAGES, "", *_table(compact(leaderboard, best="bold"), small=True)]) + "\n"


def render_document(document: Document) -> str:
    """A report: a `table` environment for each table, and a list of notes."""
    lines = [_PACKAGES, "", rf"\section*{{{_escaped(document.title)}}}"]
    lines += [_escaped(line) + r" \\" for line in document.summary[:-1]]
    lines += [_escaped(line) for line in document.summary[-1:]]
    if document.warnings:
        lines += ["", r"\paragraph{Warnings}", r"\begin{itemize}"]
        lines += [rf"  \item {_escaped(each)}" for each in document.warnings]
        lines += [r"\end{itemize}"]
    for table in document.tables:
        lines += ["", *_table(table)]
    if document.notes:
        lines += ["", r"\begin{itemize}"]
        lines += [rf"  \item {_escaped(note)}" for note in document.notes]
        lines += [r"\end{itemize}"]
    return "\n".join(lines) + "\n"


def _table(table: Table, *, small: bool = False) -> Iterator[str]:
    yield r"\begin{table}[htbp]"
    yield r"\centering\setlength{\tabcolsep}{4pt}" + r"\footnotesize" * small
    yield rf"\caption{{{_escaped(table.title)}}}"
    # Scaled down only if it is wider than the page.
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{''.join(_alignments(table))}}}"
    yield r"\toprule"
    yield from _groups(table)
    yield _row([_head(heading) for heading in table.headings])
    marked = [table.has_marks(index) for index in range(len(table.headings))]
    for section in table.sections:
        yield r"\midrule"
        if section.label:
            label = rf"\textit{{{_escaped(section.label)}}}"
            yield rf"\multicolumn{{{len(table.headings)}}}{{l}}{{{label}}} \\"
        yield from _rows(section, marked)
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    for note in table.notes:
        yield rf"\par\smallskip\raggedright\footnotesize {_escaped(note)}"
    yield r"\end{table}"


def _legend(table: Table) -> Iterator[str]:
    """Meaning of the bold type and the signs of a table, which may be far from the notes."""
    marks = {cell.mark for index in range(len(table.headings)) for cell in table.column(index)}
    said = ["Bold: the best of its column"] if "best" in marks else []
    said += [f"{TIED_SIGN} after a value: tied with the best"] if "tied" in marks else []
    if "covered" in marks:
        said.append(f"{TIED_SIGN} after a difference: the interval contains the published value")
    if said:
        yield f"{'; '.join(said)}."


def _groups(table: Table) -> Iterator[str]:
    """A row of group headings, with a rule below each group."""
    cells, rules, start = [], [], 1
    for group, columns in table.groups:
        cells.append(rf"\multicolumn{{{columns}}}{{c}}{{{_escaped(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + columns - 1}}}")
        start += columns
    if cells:
        yield _row(cells)
        yield "".join(rules)


def _rows(section: Section, marked: Sequence[bool]) -> Iterator[str]:
    for row in section.rows:
        yield _row([_cell(*each) for each in zip(row, marked, strict=True)])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _alignments(table: Table) -> Iterator[str]:
    for index, heading in enumerate(table.headings):
        if max(len(cell.text) for cell in table.column(index)) > _PARAGRAPH:
            yield r"p{0.4\linewidth}"
        else:
            yield "l" if heading.text else "r"


def _head(heading: Heading) -> str:
    lines = [_escaped(line) for line in wrap(heading.title, _HEAD)]
    stack = r" \\ ".join(lines)
    align = "l" if heading.text else "r"
    return stack if len(lines) == 1 else rf"\shortstack[{align}]{{{stack}}}"


def _cell(cell: Cell, has_marks: bool) -> str:
    text = _escaped(cell.text)
    if cell.mark == "best":
        text = rf"\textbf{{{text}}}"
    if has_marks and text:
        text += _SIGNS[cell.sign] if cell.sign else _NO_SIGN
    return f"{text} {_escaped(cell.spread)}".rstrip()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _REPLACEMENTS[found[0]], text)
