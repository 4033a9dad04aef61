"""Every format shows the same leaderboard, whole, and escapes what it must."""

from __future__ import annotations

import csv
import html
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from helpers.boards import (
    GROUPS,
    METHODS,
    SPECIAL,
    cost_records,
    quality_records,
)
from helpers.paired import compared
from rich.console import Console

from oodbench.cli import listing
from oodbench.cli import plans as plan_view
from oodbench.errors import UserError, counted
from oodbench.planning.suite import load_suite, plan_suite
from oodbench.plugins.catalog import Catalog
from oodbench.report import Leaderboard
from oodbench.report.formats import FORMATS
from oodbench.report.leaderboard import COSTS, ORACLE_LABEL, SHOWN, Choice
from oodbench.report.tables import evaluation_layout
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.tables.leaderboard_layout import overview as tables_of
from oodbench.report.tables.notes import ties_note
from oodbench.report.tables.values import parameters_text
from oodbench.report.writers import latex, terminal
from oodbench.report.writers.run_files import RUN_FILES
from oodbench.report.writers.wrapping import longest_number, longest_piece, wrap
from oodbench.storage.records import (
    DifferenceRecord,
    QualityRecord,
)


def differences(records: list[QualityRecord]) -> list[DifferenceRecord]:
    """Of which one is a tie in every column."""
    widths = dict.fromkeys(METHODS, 0.0) | {"SoftMax+Mahalanobis": 0.1}
    return compared(records, widths)


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    records = quality_records(3)
    return Leaderboard.from_records(records, cost_records(3), differences=differences(records))


@pytest.fixture(scope="module")
def without_costs() -> Leaderboard:
    return Leaderboard.from_records(quality_records(1), [])


def mean_of(board: Leaderboard, method: str) -> float:
    row = next(row for row in board.rows if row.method == method)
    return row.entries["auroc", board.column("mean")].estimate.mean


def unescaped(name: str, text: str) -> str:
    """The text with the escapes of a format undone, by rules written down here once more."""
    if name == "md":
        return re.sub(r"\\([\\`*_\[\]<>|~&$])", r"\1", text)
    if name == "html":
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&amp;", "&")):
            text = text.replace(entity, sign)
        return text
    if name == "latex":
        words = {"textbar": "|", "textless": "<", "textgreater": ">"}
        text = re.sub(r"\\(textbar|textless|textgreater)\{\}", lambda m: words[m[1]], text)
        return re.sub(r"\\([&%$#_{}])", r"\1", text)
    return text


# --- all formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_no_method_and_no_reason_is_left_out(name: str, board: Leaderboard) -> None:
    text = unescaped(name, FORMATS[name](board))
    for wanted in (*METHODS, "DisMax+ReAct", "needs a linear_head", "SoftMax+Vim", "<inf>"):
        assert wanted in text, f"{name}: {wanted!r} is missing"
    assert "skipped" in text
    assert "failed" in text


@pytest.mark.parametrize("name", FORMATS)
def test_oracles_are_labeled_and_below(name: str, board: Leaderboard) -> None:
    text = unescaped(name, FORMATS[name](board))
    assert ORACLE_LABEL in text
    ranked = [text.index(method) for method in METHODS if "oracle" not in method]
    assert max(ranked) < text.index("SoftMax+ODIN (oracle)")


@pytest.mark.parametrize("name", FORMATS)
def test_the_order_of_records_does_not_change_a_byte(name: str, board: Leaderboard) -> None:
    records, costs = quality_records(3), cost_records(3)
    random.Random(2).shuffle(records)
    random.Random(3).shuffle(costs)
    shuffled = Leaderboard.from_records(records, costs, differences=differences(records))
    assert FORMATS[name](shuffled) == FORMATS[name](board)


@pytest.mark.parametrize("name", FORMATS)
def test_one_seed_and_no_costs(name: str, without_costs: Leaderboard) -> None:
    text = FORMATS[name](without_costs)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())
    if name in ("table", "md", "html", "latex"):
        assert "which one seed cannot show" in text.replace("\n  ", " ")
        assert "FLOPs" not in text
        assert "requires" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_skipped_methods(name: str) -> None:
    records = [record for record in quality_records(1) if record.status == "skipped"]
    text = unescaped(name, FORMATS[name](Leaderboard.from_records(records, [])))
    assert "DisMax+ReAct" in text
    assert "needs a linear_head" in text


@pytest.mark.parametrize("name", ["table", "md", "html", "latex"])
def test_documents_explain_marks_and_intervals(name: str, board: Leaderboard) -> None:
    text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
    for wanted in (
        "= after a value: tied with the best.",
        "paired difference",
        "corrected for comparing 8 methods",
        "chosen by the same data",
        "share of OOD images accepted at the highest threshold",
        "100 % minus TNR@95TPR",
        "FPR95 (OOD positive) is another metric",
        "The 95% interval is the confidence interval of the mean",
        "Student's t interval",
        "share all test images",
        "standard deviation over seeds",
        "1,360 test images",
    ):
        assert wanted in text, f"{name}: {wanted!r} is missing"


def test_methods_with_missing_seeds_say_so() -> None:
    records = [r for r in quality_records(3) if (r.method, r.seed) != ("SoftMax+Energy", 2)]
    text = Leaderboard.from_records(records, []).to_markdown()
    assert re.search(r"\| SoftMax +\| Energy \(2/3 seeds\)", text)
    assert "fewer seeds than the others" in text


# --- terminal ----------------------------------------------------------------------------------


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


def vars_of(record: QualityRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in QualityRecord.__dataclass_fields__}


def listed(*kinds: str) -> Iterator[Table]:
    catalog = Catalog()
    for kind in kinds:
        yield listing.table(kind, listing.LISTERS[kind](catalog))


def planned() -> Iterator[Table]:
    catalog = Catalog()
    suite = load_suite(catalog, "dismax-paper")
    plans = plan_suite(catalog, suite, catalog.checked_detectors(), seeds=3)
    yield plan_view._members(plans)
    for plan in list(plans.values())[:2]:
        yield from (plan_view._trainings(plan), plan_view._passes(plan), plan_view._skips(plan))


def of_detectors(board: Leaderboard) -> Sequence[Table]:
    """The tables of `evaluate`, which have groups of columns."""
    board = replace(board, rows=board.rows[:4])
    models = {row.model: 10 for row in board.rows}
    whole: Any = {"models": models, "best": "bold", "notes": (), "whole": False}
    return evaluation_layout.document(board, **whole).tables


NARROW = [40, 50, 56, 60, 80, 100, 120]


@pytest.mark.parametrize("width", NARROW)
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


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("1,000 of 1e-4", 6, ["1,000", "of", "1e-4"]),
        ("SoftMax+Mahalanobis", 12, ["SoftMax+", "Mahalanobis"]),
        ("one two three", 7, ["one two", "three"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("", 5, [""]),
        ("fits", 4, ["fits"]),
    ],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


@pytest.mark.parametrize("width", [1, 0, -5])
@pytest.mark.parametrize("text", ["ab c", "vim: 1,000 images", "", " "])
def test_wrap_ends_at_any_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert max(map(len, lines)) <= 1
    assert "".join(lines) == text.replace(" ", "")


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


def test_longest_number() -> None:
    assert longest_number("one 1,000.5, x") == len("1,000.5,")
    assert longest_number("none-of-them") == 0


def test_longest_piece() -> None:
    assert longest_piece("SoftMax+Mahalanobis (x)") == len("Mahalanobis")
    assert longest_piece("") == 0


@pytest.mark.parametrize(
    ("count", "thing", "text"),
    [
        (1, "method", "1 method"),
        (0, "method", "0 methods"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (1234, "image", "1,234 images"),
        (3, "batch", "3 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_one_of_a_thing_is_not_many(count: int, thing: str, text: str) -> None:
    assert counted(count, thing) == text


# --- documents ---------------------------------------------------------------------------------


def test_markdown_escapes_and_is_rectangular(board: Leaderboard) -> None:
    text = board.to_markdown()
    assert r"| A+b\_c%d\&e\|f\<g\> " in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 15  # seven tables in two sections, and one of absences
    for table in tables:
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_markdown_marks(board: Leaderboard) -> None:
    lines = board.to_markdown().splitlines()
    ranked = [line for line in lines if re.match(r"\| +\d+ \|", line)]
    mean = f"{100 * mean_of(board, 'DisMax+Entropy'):.1f}"
    assert f"**{mean}** \N{PLUS-MINUS SIGN}" in ranked[0]
    assert "= \N{PLUS-MINUS SIGN}" in ranked[1]
    assert not any("**" in line for line in ranked[-2:])


class Tags(HTMLParser):
    """Checks that tags nest; collects links and the cells of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []
        self.assets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "script", "img") or any(key in ("src", "href") for key, _ in attrs):
            self.assets.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan") or 1)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_well_formed_page(board: Leaderboard) -> None:
    tags = Tags()
    text = board.to_html()
    tags.feed(text)
    assert tags.open == []
    assert tags.assets == []
    assert "A+b_c%d&amp;e|f&lt;g&gt;" in text
    assert SPECIAL not in text
    assert "prefers-color-scheme: dark" in text
    assert f"<strong>{100 * mean_of(board, 'DisMax+Entropy'):.1f}</strong>" in text
    columns = text.split("<h2>")[1].count('<th scope="col"')
    assert tags.rows[: len(METHODS) + 2] == [columns] * (len(METHODS) + 2)


def test_latex_escapes_and_is_balanced(board: Leaderboard) -> None:
    text = board.to_latex()
    assert r"A+b\_c\%d\&e\textbar{}f\textless{}g\textgreater{}" in text
    assert rf"\textbf{{{100 * mean_of(board, 'DisMax+Entropy'):.1f}}}" in text
    # The sign has room of its own, in every row of its column: nothing is printed over it.
    assert "rlap" not in text
    assert re.search(r"\d\$\^\{=\}\$ \$\\pm\$", text)
    assert re.search(r"\d\}?\\phantom\{\$\^\{=\}\$\} \$\\pm\$", text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    for name in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    assert text.isascii()
    body = text.split(r"\begin{tabular}")[1].split(r"\end{tabular}")[0]
    rows = [line for line in body.splitlines() if re.match(r"\d+ & ", line)]
    assert len(rows) == len(METHODS)
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


# --- programs ----------------------------------------------------------------------------------


def test_json_holds_every_value_and_no_nan(board: Leaderboard) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the JSON")

    content = json.loads(board.to_json(), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert (content["benchmark"], content["benchmark_version"]) == ("toy_set", 3)
    assert [each["method"] for each in content["methods"]] == [row.method for row in board.rows]
    for row, each in zip(board.rows, content["methods"], strict=True):
        found = {(q["metric"], q["column_kind"], q["column"]): q for q in each["quality"]}
        assert len(found) == len(each["quality"]) == len(SHOWN) * (2 + 2 + 4) + 1
        for (metric, column), entry in row.entries.items():
            quality = found[metric, column.kind, column.name]
            assert quality["mean"] == entry.estimate.mean
            assert quality["ci_low"] == entry.estimate.ci_low
            assert quality["mark"] == entry.mark
    costs = {each["method"]: each["cost"] for each in content["methods"]}
    assert costs["SoftMax+Energy"] is None
    assert costs["SoftMax+ODIN"]["peak_memory_bytes"] == 3 * 2**20
    assert [each["method"] for each in content["absences"]] == ["SoftMax+Vim", "DisMax+ReAct"]


def test_csv_has_a_line_for_each_method_metric_and_column(board: Leaderboard) -> None:
    lines = list(csv.DictReader(io.StringIO(board.to_csv())))
    by_key = {(x["method"], x["metric"], x["column_kind"], x["column"]): x for x in lines}
    assert len(by_key) == len(lines) == len(METHODS) * (len(SHOWN) * 8 + 1) + 2
    line = by_key["DisMax+Entropy", "auroc", "mean", "mean"]
    assert float(line["mean"]) == pytest.approx(mean_of(board, "DisMax+Entropy"), abs=5e-7)
    assert (line["rank"], line["mark"], line["seeds"]) == ("1", "best", "3")
    assert (line["n_id"], line["n_ood"]) == ("1360", "")
    worst = by_key["DisMax+Entropy", "auroc", "worst", "worst"]
    assert worst["worst_set"] in GROUPS
    assert worst["n_ood"] == "500"
    assert by_key["SoftMax+Mahalanobis", "auroc", "group", "far"]["feature_ensemble"] == "true"
    assert all(by_key["SoftMax+Energy", "auroc", "mean", "mean"][name] == "" for name in COSTS)
    assert by_key["DisMax+ReAct", "", "", ""]["status"] == "skipped"


def test_pandas_has_a_row_for_each_method(board: Leaderboard) -> None:
    frame = board.to_pandas(wide=True)
    assert list(frame["method"]) == [row.method for row in board.rows] + [
        "SoftMax+Vim",
        "DisMax+ReAct",
    ]
    assert frame.columns.is_unique
    first = frame.set_index("method").loc["DisMax+Entropy"]
    assert first["auroc.mean"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc.mean.ci_low"] < first["auroc.mean"] < first["auroc.mean.ci_high"]
    assert first["auroc.worst"] == first[f"auroc.set.{first['auroc.worst.set']}"]
    assert first["auroc.group.near"] == first["auroc.set.letters"]
    assert frame.set_index("method").loc["SoftMax+Vim", "status"] == "failed"


def test_the_usual_frame_is_tidy(board: Leaderboard, without_costs: Leaderboard) -> None:
    frame = board.to_pandas()
    assert len(frame.columns) <= 30 < len(board.to_pandas(wide=True).columns)
    assert not [name for name in frame.columns if "." in name], "no packed names"
    assert list(frame["method"]) == list(board.to_pandas(wide=True)["method"])
    first = frame.set_index("method").loc["DisMax+Entropy"]
    assert first["auroc"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc_ci_low"] < first["auroc"] < first["auroc_ci_high"]
    assert {"auroc_near", "auroc_far", "fpr95", "worst_set", "relative_to_baseline"} <= set(frame)
    assert frame["rank"].dtype == "Int64"
    assert frame.set_index("method").loc["SoftMax+Vim", "status"] == "failed"
    assert "relative_to_baseline" not in without_costs.to_pandas()


def test_a_notebook_shows_a_table(board: Leaderboard) -> None:
    shown = board._repr_html_()
    assert "<table" in shown
    assert "DisMax+Entropy" in shown or "<td" in shown
    assert "<html" not in shown
    assert repr(board) == (
        "<Leaderboard of 'toy_set' version 3: 10 methods, 3 seeds, best: DisMax+Entropy>"
    )


@pytest.mark.parametrize("count", [3, 12])
def test_a_compact_table_has_ten_methods_and_five_columns(count: int) -> None:
    records = [
        QualityRecord(**{**vars_of(record), "method": f"SoftMax+Detector_{number}"})
        for number in range(count)
        for record in quality_records(2)
        if record.method == SPECIAL
    ]
    text = latex.render_compact(Leaderboard.from_records(records, []))
    rows = [line for line in text.splitlines() if line.startswith("SoftMax+Detector")]
    assert len(rows) == min(10, count)
    assert {row.count("&") for row in rows} == {4}
    assert text.count(r"\begin{table}") == 1
    shown = "all 3 methods" if count == 3 else "the 10 methods of 12 with the highest AUROC"
    assert f"{shown}. Time" in text


def test_pages_say_when_and_with_what_they_were_made(board: Leaderboard) -> None:
    made = replace(board, about=("Run of 2026-01-02 03:04 UTC.", "oodbench 1.2, revision abc."))
    page = made.to_html()
    assert "Run of 2026-01-02 03:04 UTC. oodbench 1.2, revision abc." in page
    assert "Test accuracy of the models: SoftMax 97.5 %." in page
    for name in ("table", "md", "csv", "json", "latex"):
        assert FORMATS[name](made) == FORMATS[name](board), "the same whenever the scores are"


def test_a_phone_shows_names_and_auroc_first(board: Leaderboard) -> None:
    table = board.to_html().split("<h2>")[1]
    heads = re.findall(r'<th scope="col"([^>]*)>(.*?)</th>', table)
    plain = [re.sub("<[^>]*>", "", text) for attributes, text in heads if "minor" not in attributes]
    assert plain[-1].startswith("AUROC")
    assert plain[-1].endswith("mean")
    assert set(plain[:-1]) <= {"Method", "Training", "Detector"}


def test_parameters_text() -> None:
    same = Choice(0, None, {"temperature": 1000.0, "epsilon": 0.0014})
    other = Choice(1, None, {"temperature": 1000.0, "epsilon": 0.002})
    by_set = (Choice(2, "x", {"k": 1}), Choice(2, "y", {"k": 2}))
    assert parameters_text([same]) == "epsilon 0.0014; temperature 1000"
    assert parameters_text([same, other]) == "epsilon 0.0014, 0.002; temperature 1000"
    assert parameters_text(by_set) == "k 1 (x), 2 (y)"
    assert parameters_text([Choice(0, None, {"k": 1}), *by_set]) == "k 1 (x), 1, 2 (y)"
    assert parameters_text([Choice(0, None, {"taps": ["a", 2.0]})]) == "taps [a, 2]"
    assert parameters_text([same, other], ["temperature"]) == "temperature 1000"
    assert parameters_text([]) == "-"


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ((0.0, 0.0014, 0.0), "Required; chosen: epsilon 0, 0.0014, 0"),
        ((0.0, 0.0, 0.0), "Required; chosen: none (epsilon 0)"),
        ((0.01, 0.01), "Required; chosen: epsilon 0.01"),
    ],
)
def test_chosen_values_are_printed_by_seed(steps: tuple[float, ...], shown: str) -> None:
    records = [
        replace(r, detector_params={"epsilon": steps[r.seed], "k": 3})
        for r in quality_records(len(steps))
        if r.status == "ok"
    ]
    costs = [
        replace(cost, input_preprocessing=cost.method in ("SoftMax+ODIN", "SoftMax+MaxProb"))
        for cost in cost_records(len(steps))
    ]
    board = Leaderboard.from_records(records, costs)
    for name in ("table", "md", "html", "latex"):
        text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
        assert shown in text, name
        assert shown.split("(")[-1].removeprefix("Required; chosen: ").rstrip(")") + "; k 3" in text
        assert "per seed" not in text
    # What was not tuned did not choose.
    assert re.search(r"\| MaxProb +\| Required +\|", board.to_markdown())


def test_latex_explains_its_marks_beside_the_tables(board: Leaderboard) -> None:
    _, *tables = board.to_latex().split(r"\begin{table}")
    seen = set()
    for text in (each.split(r"\end{table}")[0] for each in tables):
        body, _, notes = text.partition(r"\end{tabular}")
        bold, tied = r"\textbf{" in body, re.search(r"\d\$\^\{=\}\$", body) is not None
        assert ("Bold: the best of its column" in notes) == bold
        assert ("= after a value: tied with the best" in notes) == tied
        seen |= {(bold, tied)}
    assert {(True, True), (False, False)} <= seen


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_only_boards_of_two_seeds_ask_for_more_seeds(seeds: int) -> None:
    note = ties_note(7, seeds)
    assert ("run more seeds" in note) == (seeds == 2)
    assert ("even a large difference may be marked =" in note) == (seeds == 2)


def test_two_seeds_show_their_values() -> None:
    records = quality_records(2)
    board = Leaderboard.from_records(records, [], differences=differences(records))
    first = board.rows[0].entries["auroc", board.column("mean")].estimate.by_seed
    values = ", ".join(f"{100 * value:.1f}" for value in first.values())
    for name in ("table", "md", "html", "latex"):
        text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
        assert values in text, name
        assert "2 seeds: no interval over seeds" in text
        assert "Both seeds" in text or "Both \\\\ seeds" in text
        assert "Student" not in text
        assert "95% interval (%)" not in text
        assert "\N{PLUS-MINUS SIGN}" not in text


def test_training_and_detector_have_columns_of_their_own_where_there_is_room(
    board: Leaderboard,
) -> None:
    assert re.search(r"\| SoftMax +\| ODIN +\| FGSM", board.to_markdown())
    assert '<td class="text">SoftMax</td>\n<td class="text">ODIN</td>' in board.to_html()
    assert re.search(r" SoftMax +ODIN +FGSM", board.to_text(160))
    assert re.search(r" SoftMax\+ODIN +FGSM", board.to_text(100))


def test_arrows_say_which_way_is_better(board: Leaderboard) -> None:
    up, down = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
    for text in (board.to_markdown(), html.unescape(board.to_html())):
        for wanted in (f"AUROC{up} mean (%)", f"FPR95{down} mean (%)", f"TNR@95TPR{up}"):
            assert wanted in text
        assert f"FPR95 (OOD positive){down}" in text
    assert r"FPR95$\downarrow$" in board.to_latex()
    assert f"AUROC{up}" in board.to_text(120)


# --- the files of a run ------------------------------------------------------------------------


def test_files_about_quality_are_the_same_whatever_the_costs(board: Leaderboard) -> None:
    records = quality_records(3)
    slower = [
        replace(cost, ms_per_image_batched=7.0, device="another", fit_seconds=3.0 * cost.seed)
        for cost in cost_records(2)
    ]
    others = [replace(record, run_id="another") for record in records]
    other = Leaderboard.from_records(others, slower, differences=differences(others))
    nothing = Leaderboard.from_records(records, [], differences=differences(records))
    for name, written in RUN_FILES.items():
        same = name.startswith(("quality", "summary"))
        assert (written(board) == written(other)) is same, name
        assert (written(board) == written(nothing)) is same, name


def test_files_about_cost_are_about_nothing_else(board: Leaderboard) -> None:
    text = RUN_FILES["cost.md"](board)
    assert text.count("\n## ") == 3  # cost, requirements, notes
    assert "Costs were measured on cpu" in text
    assert "Student" not in text
    content = json.loads(RUN_FILES["cost.json"](board))
    costs = {each["method"]: each["cost"] for each in content["methods"]}
    assert list(costs) == [row.method for row in board.rows]
    assert costs["SoftMax+Energy"] is None
    assert costs["SoftMax+ODIN"]["forwards_per_image"] == pytest.approx(1.35)
    quality = json.loads(RUN_FILES["quality.json"](board))
    assert {each["cost"] for each in quality["methods"]} == {None}


def test_the_summary_has_one_row_for_each_method(board: Leaderboard) -> None:
    content = json.loads(RUN_FILES["summary.json"](board))
    rows = content["methods"]
    assert [each["method"] for each in rows] == [row.method for row in board.rows] + [
        "SoftMax+Vim",
        "DisMax+ReAct",
    ]
    assert len({tuple(each) for each in rows}) == 1  # a table: every row has every field
    first, second = rows[0], rows[1]
    assert (first["rank"], first["auroc_mark"], second["auroc_mark"]) == (1, "best", "tied")
    assert first["auroc"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc_ci_low"] < first["auroc"] < first["auroc_ci_high"]
    tnr = board.rows[0].entries["tnr_at_95_tpr", board.column("mean")].estimate
    assert first["fpr95"] == pytest.approx(1 - tnr.mean)
    assert first["fpr95_ci_low"] == pytest.approx(1 - tnr.ci_high)
    assert first["id_accuracy"] == 0.975
    assert (rows[-1]["status"], rows[-1]["reason"], rows[-1]["auroc"]) == (
        "skipped",
        "needs a linear_head",
        None,
    )


def test_reports_need_no_torch() -> None:
    code = (
        "import sys;"
        "from oodbench.report.writers import terminal, markdown, html, latex, run_files;"
        "print([m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
