"""A report on a terminal: columns that do not fit are left out, numbers are never cut."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from oodbench.report.leaderboard import Leaderboard
from oodbench.report.tables import (
    TIED_SIGN,
    Cell,
    Document,
    Heading,
    Table,
    longest_piece,
    overview,
    wrap,
)

BEST_SIGN = "*"
"""Follows the best value of a column: bold is lost when output is piped."""

_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
_GROUP_GAP = 2
"""Further spaces before a group of columns."""

_NEVER_DROPPED = 9
_WORDS_WIDTH = 20
"""Columns are left out before a column of words is made narrower than this."""


class _Layout(NamedTuple):
    """Which columns of a table are shown, how wide they are, and the space between them."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int


def renderables(leaderboard: Leaderboard, width: int = 120) -> list[RenderableType]:
    """What to print, in order, on a console of at least `width` characters.

    Args:
        leaderboard: the leaderboard.
        width: characters a line may have. Columns that do not fit are left out, the least
            important first, and named below the table; text is wrapped; numbers stay whole.
    """
    return document_renderables(overview(leaderboard, best=f"bold, with {BEST_SIGN}"), width)


def document_renderables(document: Document, width: int = 120) -> list[RenderableType]:
    """What to print of a report, as `renderables` of a leaderboard."""
    shown: list[RenderableType] = [_lines(document.title, width, style="bold")]
    shown += [_lines(line, width) for line in document.summary]
    if document.warnings:
        shown += [Text(), Text("Warnings", style="bold yellow")]
        shown += [_lines(f"- {each}", width, indent="  ") for each in document.warnings]
    for table in document.tables:
        shown += [Text(), *_table(table, width)]
    if document.notes:
        shown += [Text(), Text("Notes", style="bold")]
        shown += [_lines(f"- {note}", width, indent="  ") for note in document.notes]
    return shown


def render(leaderboard: Leaderboard, width: int = 120) -> str:
    """The same as plain text, without colours, no line wider than `width`."""
    return _plain(renderables(leaderboard, width), width)


def render_document(document: Document, width: int = 120) -> str:
    """A report as plain text, without colours, no line wider than `width`."""
    return _plain(document_renderables(document, width), width)


def _plain(shown: Sequence[RenderableType], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for each in shown:
            console.print(each)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def _lines(text: str, width: int, *, indent: str = "", style: str = "") -> Text:
    return Text(f"\n{indent}".join(wrap(text, width - len(indent))), style=style)


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    grids = _grids(table)
    layout = _layout(table, [row for grid in grids for row in grid], width)
    yield _lines(table.title, width, style="bold")
    if table.groups:
        yield _group_line(table.headings, layout)
    # The head stands above the label of the first section, too.
    with_head = not table.sections[0].label
    if not with_head:
        yield _section(table.headings, [], layout, with_head=True)
    for number, (section, grid) in enumerate(zip(table.sections, grids, strict=True)):
        if section.label:
            yield from [Text()] * (number > 0)
            yield _lines(section.label, width, style="italic")
        yield _section(table.headings, grid, layout, with_head=with_head and number == 0)
    left_out = [
        heading.title for index, heading in enumerate(table.headings) if index not in layout.columns
    ]
    if left_out:
        names = ", ".join(dict.fromkeys(left_out))
        yield _lines(f"Not shown at this width: {names}.", width, style="dim")
    for note in table.notes:
        yield _lines(f"- {note}", width, indent="  ")


def _group_line(headings: Sequence[Heading], layout: _Layout) -> Text:
    """What stands above the columns: each group's name, and a rule over the rest of its columns."""
    line, start = "", 0
    columns = list(zip(layout.columns, layout.widths, strict=True))
    for group, members in groupby(columns, key=lambda column: headings[column[0]].group):
        widths = [width for _, width in members]
        span = sum(widths) + layout.gap * (len(widths) - 1)
        if group:
            inner = span - _GROUP_GAP
            title = f"{group[: inner - 1]} "
            line = f"{line:<{start + _GROUP_GAP}}{title:{_RULE}<{inner}}"
        start += span + layout.gap
    return Text(line)


def _section(
    headings: Sequence[Heading], rows: Sequence[Sequence[Text]], layout: _Layout, *, with_head: bool
) -> RichTable:
    shown = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_header=with_head,
        pad_edge=False,
        # The box itself draws one space between columns.
        padding=(0, layout.gap - 1, 0, 0),
        header_style="",
    )
    for index, width in zip(layout.columns, layout.widths, strict=True):
        heading = headings[index]
        shown.add_column(
            Text("\n".join(wrap(heading.short, width))),
            justify="left" if heading.text else "right",
            width=width,
            no_wrap=True,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(
            *(
                Text("\n".join(wrap(row[index].plain, width)))
                if headings[index].text
                else row[index]
                for index, width in zip(layout.columns, layout.widths, strict=True)
            )
        )
    return shown


def _grids(table: Table) -> list[list[list[Text]]]:
    """The cells of each section, padded so that in each column decimals and signs align."""
    indices = range(len(table.headings))
    has_mark = [table.has_marks(index) for index in indices]
    spreads = [max(len(cell.spread) for cell in table.column(index)) for index in indices]
    return [
        [
            [_padded(*each) for each in zip(row, has_mark, spreads, strict=True)]
            for row in section.rows
        ]
        for section in table.sections
    ]


def _padded(cell: Cell, has_mark: bool, spread: int) -> Text:
    sign = {"best": BEST_SIGN, "tied": TIED_SIGN, None: " "}[cell.mark] if has_mark else ""
    text = Text(cell.text + sign, style="bold" if cell.mark == "best" else "")
    return text.append(f" {cell.spread:>{spread}}", style="not bold") if spread else text


def _layout(table: Table, rows: Sequence[Sequence[Text]], width: int) -> _Layout:
    """Columns and widths that fit: first closer together, then with words wrapped, then fewer."""
    headings = table.headings
    heads = [longest_piece(heading.short) for heading in headings]
    natural = [
        max(head, *map(len, column))
        for head, column in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    for index in range(len(headings)):
        natural[index] += _GROUP_GAP if table.starts_group(index) else 0
    wrapped = [
        min(full, max(head, _WORDS_WIDTH)) if heading.text else full
        for heading, head, full in zip(headings, heads, natural, strict=True)
    ]
    kept = list(range(len(headings)))
    while True:
        for gap in (2, 1):
            space = width - gap * (len(kept) - 1)
            if sum(natural[index] for index in kept) <= space:
                return _Layout(tuple(kept), tuple(natural[index] for index in kept), gap)
        if sum(wrapped[index] for index in kept) <= space:
            break
        dropped = min(kept, key=lambda index: (headings[index].importance, -index))
        if headings[dropped].importance == _NEVER_DROPPED:
            wrapped = [
                head if heading.text else full
                for heading, head, full in zip(headings, heads, natural, strict=True)
            ]
            break
        # Groups of columns stay alike.
        twins = headings[dropped].title if headings[dropped].group else None
        kept = [index for index in kept if index != dropped and headings[index].title != twins]
    widths = _narrowed(
        [natural[index] for index in kept], [wrapped[index] for index in kept], space
    )
    return _Layout(tuple(kept), tuple(widths), gap)


def _narrowed(widths: Sequence[int], least: Sequence[int], space: int) -> list[int]:
    """The widths, the widest made narrower until they fit, or until none can be."""
    narrow = list(widths)
    while sum(narrow) > space:
        open_ = [index for index, width in enumerate(narrow) if width > least[index]]
        if not open_:
            break
        narrow[max(open_, key=narrow.__getitem__)] -= 1
    return narrow
