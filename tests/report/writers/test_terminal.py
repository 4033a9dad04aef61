"""Reports on a terminal: lines fit, columns that do not fit are named, numbers stay whole."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers.boards import METHODS, SPECIAL, mean_of, quality_records, vars_of
from helpers.tiers import by_default
from rich.console import Console

from oodbench.cli import plan_display as plan_view
from oodbench.cli import suite_display
from oodbench.cli.content import list_rows, list_tables
from oodbench.errors import UserError
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.plugins.catalog import Catalog
from oodbench.report import Leaderboard
from oodbench.report.tables import evaluation_layout
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.tables.leaderboard_layout import overview as tables_of
from oodbench.report.writers import terminal
from oodbench.storage.records import QualityRecord


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_lines_fit_and_numbers_are_whole(width: int, board: Leaderboard) -> None:
    text = board.to_text(width)
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for method in METHODS:
        assert re.search(rf"(?<![\d.]){100 * mean_of(board, method):.1f}(?![\d.])", text)


def test_at_120_columns_every_column_of_the_leaderboard_is_there(board: Leaderboard) -> None:
    text = board.to_text(120)
    assert "Not shown" not in text
    head = text.split("Quality (%) and cost")[1].split("\N{BOX DRAWINGS LIGHT HORIZONTAL}")[0]
    for wanted in ("near", "far", "mean", "interval", "Worst", "FPR95", "acc.", "Fwd/", "base"):
        assert wanted in head


def test_columns_left_out_are_named(board: Leaderboard) -> None:
    assert "Not shown at this width: " in board.to_text(80)
    assert "ID accuracy (%)" in board.to_text(80)


def test_decimals_are_aligned(board: Leaderboard) -> None:
    lines = board.to_text(120).splitlines()
    rows = [line for line in lines if re.match(r"\d ", line)]
    assert len(rows) == len(METHODS)
    assert len({row.index("\N{PLUS-MINUS SIGN}") for row in rows}) == 1


def test_terminal_marks(board: Leaderboard) -> None:
    lines = board.to_text(120).splitlines()
    best, *others = [line for line in lines if re.match(r"\d ", line)]
    assert f"{100 * mean_of(board, 'DisMax+Entropy'):.1f}*" in best
    assert not any("*" in line for line in others[-2:])
    assert any("= " in line for line in others)


def test_renderables_are_printed_bold_where_there_are_styles(board: Leaderboard) -> None:
    console = Console(width=120, force_terminal=True, color_system="standard", file=io.StringIO())
    with console.capture() as capture:
        for each in terminal.renderables(board, 120):
            console.print(each)
    best = f"{100 * mean_of(board, 'DisMax+Entropy'):.1f}*"
    assert f"\x1b[1m{best}" in capture.get()


def test_a_long_name_without_a_break_is_cut_over_lines() -> None:
    records = [
        QualityRecord(**{**vars_of(record), "method": "x" * 90})
        for record in quality_records(1)
        if record.method == SPECIAL
    ]
    text = Leaderboard.from_records(records, []).to_text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "80." in text or "79." in text


def listed(*kinds: str) -> Iterator[Table]:
    catalog = Catalog()
    for kind in kinds:
        yield list_tables.table(kind, list_rows.LISTERS[kind](catalog))


def planned() -> Iterator[Table]:
    catalog = Catalog()
    suite = load_suite(catalog, "dismax-paper")
    plans = plan_suite(catalog, suite, catalog.checked_detectors(), seeds=3)
    yield from (suite_display._members(plans), suite_display._data(plans))
    for plan in list(plans.values())[:2]:
        yield from (plan_view._trainings(plan), plan_view._passes(plan), plan_view._skips(plan))


def of_detectors(board: Leaderboard) -> Sequence[Table]:
    """The tables of `evaluate`, which have groups of columns."""
    board = replace(board, rows=board.rows[:4])
    models = {row.model: 10 for row in board.rows}
    whole: Any = {"models": models, "best": "bold", "notes": (), "whole": False}
    return evaluation_layout.document(board, **whole).tables


NARROW = [40, 50, 56, 60, 80, 100, 120]


@pytest.mark.parametrize("width", by_default([40, 56, 100], NARROW))
@pytest.mark.parametrize("kind", ["report", "plans", "lists", "evaluate"])
def test_names_and_numbers_can_be_put_together_again(
    kind: str, width: int, board: Leaderboard
) -> None:
    tables = {
        "report": lambda: tables_of(board, best="*").tables,
        "plans": planned,
        "lists": lambda: listed("detectors", "benchmarks", "datasets", "models"),
        "evaluate": lambda: of_detectors(board),
    }[kind]()
    for table in tables:
        rows = [row for section in table.sections for row in section.rows]
        bare = replace(table, sections=(Section("", tuple(rows)),), notes=())
        layout = terminal._layout(bare, terminal._grids(bare)[0], width)
        shown, _, left_out = terminal.plain(
            list(terminal.table_renderables(bare, width)), width
        ).partition("Not shown at this width:")
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width, table.title
        rule = max(
            i for i, line in enumerate(lines) if set(line) == {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}
        )
        start = 0
        for index, size in zip(layout.columns, layout.widths, strict=True):
            pieces = [line[start : start + size].strip() for line in lines[rule + 1 :]]
            start += size + layout.gap
            cells = [text_of(row[index]) for row in rows]
            if table.headings[index].text:
                found, wanted = "".join(pieces), "".join(cells)
                assert found.replace(" ", "") == wanted.replace(" ", ""), table.title
            else:  # numbers are whole, each in one line
                found_numbers = [" ".join(each.split()) for each in pieces if each]
                assert found_numbers == [each for each in cells if each], table.title
        missing = set(range(len(table.headings))) - set(layout.columns)
        for index in missing:
            said = "".join(left_out.split())
            heading = table.headings[index]
            names = [heading.title, *([heading.group] if heading.group else [])]
            assert any(name.replace(" ", "") in said for name in names), said
        assert table.headings[0].title == "#" or 0 in layout.columns


def text_of(cell: Cell) -> str:
    sign = {"best": "*", "tied": "=", None: ""}[cell.mark]
    return f"{cell.text}{sign} {cell.spread}".strip()


@pytest.mark.parametrize("width", NARROW)
def test_long_names_are_whole_over_lines(width: int) -> None:
    names = [
        "Temperature" * 5 + "+x",
        "a name with spaces and-signs_of/all@kinds",
        "1e-4 and 1,000,000",
    ]
    table = Table(
        "T",
        (Heading("Name", "Name", text=True), *(Heading(f"N{i}", f"N{i}") for i in range(9))),
        (Section("", tuple((Cell(name), *[Cell("123,456.78")] * 9) for name in names)),),
    )
    text = terminal.plain(terminal.table_renderables(table, width), width)
    assert max(map(len, text.splitlines())) <= width
    body = text.split("\N{BOX DRAWINGS LIGHT HORIZONTAL}\n")[1].split("Not shown")[0]
    first = "".join(re.sub(r"123,456\.78|\s", "", line) for line in body.splitlines())
    assert first == "".join(names).replace(" ", "")
    assert "1e-4" in body
    assert "1,000,000" in body
    assert body.count("123,456.78") % 3 == 0


def test_the_name_of_a_group_of_columns_is_whole() -> None:
    names = ("a-group-with-a-very-long-name", "short")
    headings = [Heading("A", "A", text=True)]
    headings += [Heading(title, title, group=name) for name in names for title in ("x", "y")]
    row = tuple(map(Cell, ("m", "1.0", "2.0", "3.0", "4.0")))
    table = Table("T", tuple(headings), (Section("", (row,)),))
    lines = terminal.plain(terminal.table_renderables(table, 80), 80).splitlines()
    above = lines[1 : next(i for i, line in enumerate(lines) if line.startswith("A"))]
    joined = "".join(
        line[: above[-1].index("short")].strip(" \N{BOX DRAWINGS LIGHT HORIZONTAL}")
        for line in above
    )
    assert joined == names[0]
    assert "short" in above[-1]


@pytest.mark.parametrize("width", [19, 1, 0, -5, 40.5, "wide", None, True])
def test_a_width_that_nothing_fits_is_refused(width: Any, board: Leaderboard) -> None:
    with pytest.raises(UserError, match="width: expected a whole number from 20, not"):
        board.to_text(width)


@pytest.mark.parametrize("width", [20, 21, 33])
def test_the_narrowest_text(width: int, board: Leaderboard) -> None:
    assert max(map(len, board.to_text(width).splitlines())) <= width


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_terminal_of_few_columns_ends_a_report(width: int, board: Leaderboard) -> None:
    assert "SoftMax" in terminal.plain(terminal.renderables(board, width), width).replace("\n", "")
