"""A report on a terminal: columns that do not fit are left out, numbers are never split."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from oodbench import argument_checks
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.tables.document import MOST_IMPORTANT, Cell, Document, Heading, Table
from oodbench.report.tables.leaderboard_layout import overview
from oodbench.report.writers.wrapping import longest_number, longest_piece, wrap

BEST_SIGN = "*"
"""Follows the best value of a column, because bold type is lost when output is piped."""

_STYLES = {"best": "bold", "better": "green", "worse": "bold red"}

_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
_GROUP_GAP = 2
"""Additional spaces before a group of columns."""

_SPLIT_WIDTH = 132
"""From this width, a method is named in two columns, the trained model and the detector."""

_WORD = 24
"""Columns are left out rather than making a column of words narrower than its `Heading.width` or
splitting a word of at most so many characters."""

_TIGHT = 8
"""Replaces `Heading.width` if no less important column is left."""

_PROSE = 120
"""Most characters of a line of prose: longer lines are hard to read."""

_NARROWEST = 20
"""Smallest width that users can ask for."""

_ENDLESS = 100_000
"""Width of output for programs: every row in one line."""


class _Layout(NamedTuple):
    """Columns of a table that are shown, their widths, and the space between them."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int


def renderables(leaderboard: LeaderboardData, width: int = 120) -> list[RenderableType]:
    """The parts to print, in order, on a console of at least `width` characters.

    Args:
        leaderboard: the leaderboard.
        width: largest number of characters of a line. Columns that do not fit are left out, the
            least important first, and named below the table; text is wrapped; numbers stay whole.
    """
    best, split = f"bold, with {BEST_SIGN}", width >= _SPLIT_WIDTH
    return document_renderables(overview(leaderboard, best=best, split=split), width)


def document_renderables(document: Document, width: int = 120) -> list[RenderableType]:
    """The parts to print of a report, as for a leaderboard (`renderables`)."""
    shown: list[RenderableType] = [paragraph(document.title, width, style="bold")]
    shown += [paragraph(line, width) for line in document.summary]
    if document.warnings:
        shown += [Text(), Text("Warnings", style="bold magenta")]
        shown += [paragraph(f"- {each}", width, indent="  ") for each in document.warnings]
    for table in document.tables:
        shown += [Text(), *table_renderables(table, width)]
    if document.notes:
        shown += [Text(), Text("Notes", style="bold")]
        shown += [paragraph(f"- {note}", width, indent="  ") for note in document.notes]
    return shown


def render(leaderboard: LeaderboardData, width: int = 120) -> str:
    """A leaderboard as plain text, without colors, no line wider than `width`.

    Raises:
        UserError: if `width` is no whole number of at least 20.
    """
    width = argument_checks.whole_number("width", width, _NARROWEST)
    return plain(renderables(leaderboard, width), width)


def render_document(document: Document, width: int = 120) -> str:
    """A report as plain text, without colors, no line wider than `width`.

    Raises:
        UserError: if `width` is no whole number of at least 20.
    """
    width = argument_checks.whole_number("width", width, _NARROWEST)
    return plain(document_renderables(document, width), width)


def print_list(table: Table) -> None:
    """Print a table: fitted to a terminal, with its notes; elsewhere, one line for each row."""
    console = Console()
    if not console.is_terminal:
        print(plain(table_renderables(replace(table, notes=()), _ENDLESS), _ENDLESS), end="")
        return
    for each in table_renderables(table, console.width):
        console.print(each)


def plain(shown: Iterable[RenderableType], width: int) -> str:
    """The parts as plain text, without spaces at the ends of lines."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for each in shown:
            console.print(each)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def paragraph(text: str, width: int, *, indent: str = "", style: str = "") -> Text:
    """Text in lines of at most `width` characters, all but the first indented by `indent`."""
    lines = wrap(text, min(width, _PROSE) - len(indent))
    return Text(f"\n{indent}".join(lines), style=style)


def table_renderables(table: Table, width: int) -> Iterator[RenderableType]:
    """The parts to print of a table, as for a leaderboard (`renderables`)."""
    grids = _grids(table)
    layout = _layout(table, [row for grid in grids for row in grid], width)
    if table.title:
        yield paragraph(table.title, width, style="bold")
    if any(table.headings[index].group for index in layout.columns):
        yield _group_line(table.headings, layout)
    # The headings come before the label of the first section, too.
    with_head = not table.sections[0].label
    if not with_head:
        yield _section(table.headings, [], layout, with_head=True)
    for number, (section, grid) in enumerate(zip(table.sections, grids, strict=True)):
        if section.label:
            yield from [Text()] * (number > 0)
            yield paragraph(section.label, width, style="italic")
        yield _section(table.headings, grid, layout, with_head=with_head and number == 0)
    if left_out := _left_out(table.headings, layout):
        yield paragraph(f"Not shown at this width: {', '.join(left_out)}.", width, style="dim")
    for note in table.notes:
        yield paragraph(f"- {note}", width, indent="  ")


def _left_out(headings: Sequence[Heading], layout: _Layout) -> list[str]:
    """Titles of the columns that are not shown; for a whole group, the title of the group."""
    shown = {headings[index].group for index in layout.columns}
    missing = [each for index, each in enumerate(headings) if index not in layout.columns]
    titles = [each.title if each.group in shown else each.group for each in missing]
    return list(dict.fromkeys(titles))


def _group_line(headings: Sequence[Heading], layout: _Layout) -> Text:
    """The line above the columns: the name of each group, and a rule over the rest of it."""
    blocks: list[tuple[int, int, list[str]]] = []
    start = 0
    columns = list(zip(layout.columns, layout.widths, strict=True))
    for group, members in groupby(columns, key=lambda column: headings[column[0]].group):
        widths = [width for _, width in members]
        span = sum(widths) + layout.gap * (len(widths) - 1)
        if group:
            inner = span - _GROUP_GAP
            blocks.append((start + _GROUP_GAP, inner, wrap(group, inner)))
        start += span + layout.gap
    lines = [""] * max(len(names) for _, _, names in blocks)
    for place, inner, names in blocks:
        # Names end in the same line, which has the rules.
        for number, name in enumerate(names, start=len(lines) - len(names)):
            last = number == len(lines) - 1 and len(name) < inner
            shown = f"{name} {'':{_RULE}<{inner - len(name) - 1}}" if last else name
            lines[number] = f"{lines[number]:<{place}}{shown}"
    return Text("\n".join(lines))


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
    """The cells of each section, padded so that decimals and signs align in each column."""
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
    sign = f"{BEST_SIGN if cell.mark == 'best' else cell.sign:1}" if has_mark else ""
    text = Text(cell.text + sign, style=_STYLES.get(cell.mark or "", ""))
    return text.append(f" {cell.spread:>{spread}}", style="not bold") if spread else text


def _layout(table: Table, rows: Sequence[Sequence[Text]], width: int) -> _Layout:
    """Columns and widths that fit: first with less space, then with wrapped words, then fewer."""
    headings = table.headings
    columns = [[cell.plain for cell in column] for column in zip(*rows, strict=True)]
    natural, wrapped, tight = [], [], []
    for index, (heading, cells) in enumerate(zip(headings, columns, strict=True)):
        extra = _GROUP_GAP if table.starts_group(index) else 0
        head = longest_piece(heading.short)
        if heading.text:
            whole = max(head, *map(longest_number, cells))
            full = max(whole, *map(len, cells))
            word = max(map(longest_piece, cells))
            natural.append(full + extra)
            wrapped.append(min(full, max(whole, heading.width, min(word, _WORD))) + extra)
            tight.append(max(whole, min(word, _TIGHT)) + extra)
        else:
            natural.append(max(head, *map(len, cells)) + extra)
            wrapped.append(natural[-1])
            tight.append(natural[-1])

    def fitting(kept: Sequence[int], least: Sequence[int]) -> _Layout | None:
        """A layout of these columns, none narrower than `least`; None if they do not fit."""
        for gap in (2, 1):
            space = width - gap * (len(kept) - 1)
            if sum(natural[index] for index in kept) <= space:
                return _Layout(tuple(kept), tuple(natural[index] for index in kept), gap)
        if sum(least[index] for index in kept) > space:
            return None
        widths = _narrowed([natural[i] for i in kept], [least[i] for i in kept], space)
        return _Layout(tuple(kept), tuple(widths), gap)

    kept = list(range(len(headings)))
    while (found := fitting(kept, wrapped)) is None:
        dropped = min(kept, key=lambda index: (headings[index].importance, -index))
        if headings[dropped].importance == MOST_IMPORTANT:
            break
        # All groups keep the same columns.
        twins = headings[dropped].title if headings[dropped].group else None
        kept = [index for index in kept if index != dropped and headings[index].title != twins]
    while found is None and (found := fitting(kept, tight)) is None:
        name = next((index for index in kept if headings[index].text), kept[0])
        if kept == [name]:
            return _Layout((name,), (width,), 1)
        last = max(index for index in kept if index != name)
        group = headings[last].group
        kept = [i for i in kept if i != last and (not group or headings[i].group != group)]
    return found


def _narrowed(widths: Sequence[int], least: Sequence[int], space: int) -> list[int]:
    """The widths, with the widest reduced until all fit or none can be reduced."""
    narrow = list(widths)
    while sum(narrow) > space:
        open_ = [index for index, width in enumerate(narrow) if width > least[index]]
        if not open_:
            break
        narrow[max(open_, key=narrow.__getitem__)] -= 1
    return narrow
