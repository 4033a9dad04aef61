"""Comparisons of two runs in every format: what is shown first, and names that look like markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.run_comparisons import HOSTILE, changes_of, comparison, gate_result, side
from markdown_it import MarkdownIt

from oodbench.run_comparison.changes import Finding, GateResult, RunComparison, Verdict
from oodbench.run_comparison.writers import (
    badge,
    console_text,
    job_summary,
    json_export,
    web_page,
)
from oodbench.run_comparison.writers.change_tables import points
from oodbench.run_comparison.writers.comparison_formats import WRITERS
from oodbench.run_comparison.writers.overview import overview

# Control characters that terminals act on, apart from the line feed.
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def unchanged() -> RunComparison:
    changes = changes_of("A", Verdict.SAME, 0.0) + changes_of("B", Verdict.SAME, 0.001)
    return RunComparison(base=side(), head=side(), changes=tuple(changes), costs=(), level=0.05)


def test_the_verdict_counts_each_method_once() -> None:
    found = overview(comparison(), GateResult())
    assert found.verdict.startswith("2 of 36 methods are worse: SoftMax+Energy, SoftMax+ODIN")
    assert "1 is better: DisMax+Entropy." in found.verdict
    assert "1 is new: SoftMax+New." in found.verdict
    assert "1 is gone: SoftMax+Gone." in found.verdict
    assert "1 cannot be compared in full: SoftMax+ReAct." in found.verdict
    assert "1 method needs more passes per image." in found.verdict
    assert found.unchanged == "No difference is shown for 30 methods."


def test_a_run_against_itself() -> None:
    found = overview(unchanged(), GateResult())
    assert found.verdict == "No difference is shown for any of 2 methods."
    assert (found.state, found.changed, found.findings, found.unchanged) == ("passed", (), (), "")


def test_methods_that_both_runs_skipped_are_not_counted() -> None:
    skipped = side(methods=("A", "C"))
    found = overview(replace(unchanged(), base=skipped, head=skipped), GateResult())
    assert found.verdict == "No difference is shown for any of 2 methods."
    assert found.unchanged == "1 method has no values in either run: C."
    nothing = overview(replace(unchanged(), changes=()), GateResult())
    assert nothing.verdict == "Neither run has values to compare."


def test_a_run_of_few_methods_is_about_these() -> None:
    """Methods that only the base has are counted once, not named."""
    gone = [each for name in "CDE" for each in changes_of(name, Verdict.GONE, head=None)]
    few = replace(unchanged(), changes=(*unchanged().changes, *gone))
    found = overview(few, GateResult())
    assert found.verdict == (
        "The head has only 2 of 5 methods of the base. No difference is shown for any of 2 methods."
    )
    assert found.changed == ()
    worse = changes_of("B", Verdict.WORSE, -0.02)
    lost = overview(replace(few, changes=(*few.changes[:12], *worse, *gone)), GateResult())
    assert "of the base. 1 of 2 methods is worse: B." in lost.verdict
    as_many = [each for each in few.changes if each.method != "E"]
    half = overview(replace(few, changes=tuple(as_many)), GateResult())
    assert half.verdict == "2 of 4 methods are gone: C, D."
    assert [section.label for section in half.changed[0].sections] == ["Gone"]


def test_nothing_can_be_compared() -> None:
    changes = changes_of("A", Verdict.NOT_COMPARABLE, reason="other images")
    changes += changes_of("B", Verdict.NOT_COMPARABLE, reason="other images")
    found = overview(replace(unchanged(), changes=tuple(changes)), GateResult())
    assert found.verdict == "None of 2 methods can be compared."
    (table,) = found.changed
    (row,) = table.sections[0].rows
    assert [cell.text for cell in row][::3] == ["all 2 methods", "other images"]


def test_runs_of_different_benchmarks() -> None:
    other = side(benchmark="letters", version=3)
    found = overview(replace(unchanged(), head=other, reason="other benchmark"), GateResult())
    assert found.title == "Comparison of a run of digits, version 1, and one of letters, version 3"
    assert (found.verdict, found.changed) == ("The two runs cannot be compared.", ())


def test_the_rules_of_the_gate_are_named() -> None:
    gate = GateResult(gate_result().findings, ("max-drop auroc=0.5", "strict"))
    for write in (console_text.render, job_summary.render, web_page.render):
        text = write(comparison(), gate)
        assert "Rules: max-drop auroc=0.5, strict." in text
    assert json.loads(json_export.render(comparison(), gate))["rules"] == list(gate.rules)


def test_a_method_has_one_row_for_each_metric_with_the_mean_first() -> None:
    table = overview(comparison(), GateResult()).changed[0]
    rows = [[cell.text for cell in row] for row in table.sections[0].rows]
    metrics = [(row[0], row[1], row[2]) for row in rows]
    assert metrics == [
        ("SoftMax+ODIN (fixed)", "AUPR-out↑", "letters"),  # the largest drop
        ("SoftMax+Energy", "AUROC↑", "mean"),
        ("SoftMax+Energy", "AUPR-out↑", "mean"),
    ]
    assert rows[0][-1] == "noise, patches"
    assert rows[1][3:] == ["91.00", "88.97", "-2.03", "-2.43 to -1.63", "<0.001", "all others"]


def test_what_only_one_run_has_is_grouped_by_reason() -> None:
    table = overview(comparison(), GateResult()).changed[1]
    rows = {section.label: [cell.text for cell in section.rows[0]] for section in table.sections}
    where = ["all metrics", "all OOD sets"]
    assert rows == {
        "Gone": ["SoftMax+Gone", *where, "only in the base"],
        "New": ["SoftMax+New", *where, "only in the head"],
        "Not comparable": ["SoftMax+ReAct", *where, "other images: the digests of letters differ"],
    }


def test_findings_about_several_columns_are_one_line() -> None:
    parts = {"severity": "failure", "rule": "fail-on worse", "method": "A", "metric": "auroc"}
    findings = [
        Finding(**parts, column=column, message=f"AUROC of A on {column} is worse.")
        for column in ("letters", "mean", "noise")
    ]
    found = overview(unchanged(), GateResult(tuple(findings)))
    assert found.findings == (
        ("FAILURE", "AUROC of A on mean is worse. Also on letters, noise. [fail-on worse]"),
    )
    assert found.gate == "Gate failed: 1 failure."


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0123, "+1.23"), (-0.00001, "+0.00"), (0.0, "+0.00"), (None, "")]
)
def test_points(difference: float | None, text: str) -> None:
    assert points(difference) == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_fits_and_cuts_no_number_or_name(width: int) -> None:
    text = console_text.render(comparison(), gate_result(), width)
    assert max(map(len, text.splitlines())) <= width
    for whole in ("SoftMax+ODIN (fixed)", "SoftMax+Energy", "-3.12", "+1.52", "88.97"):
        assert re.search(rf"^\S.*{re.escape(whole)}|^{re.escape(whole)}", text, re.MULTILINE)
    assert text.index("2 of 36 methods") < text.index("Gate failed") < text.index("FAILURE:")
    assert text.index("WARNING:") < text.index("Worse and better")


def test_table_shows_the_first_rows_of_many() -> None:
    changes = [
        each for number in range(40) for each in changes_of(f"M{number}", Verdict.WORSE, -0.1)
    ]
    text = console_text.render(replace(unchanged(), changes=tuple(changes)), GateResult())
    assert "Worse: 55 more rows; --format md, html and json have them." in text


def test_the_first_findings_of_many_are_shown() -> None:
    findings = [
        Finding(severity="failure", rule="fail-on worse", method=f"M{number}", message="It fell.")
        for number in range(14)
    ]
    text = console_text.render(unchanged(), GateResult(tuple(findings)))
    assert text.count("FAILURE: ") == 10
    assert "Gate failed: 14 failures." in text
    assert "\n... and 4 more.\n" in text
    summary = job_summary.render(unchanged(), GateResult(tuple(findings)))
    folded = summary.index("<details><summary>4 more</summary>\n\n- **FAILURE** M10: It fell.")
    assert summary.index("M9: It fell.") < folded


def test_json_has_everything_and_is_strict() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found, gate = comparison(*HOSTILE[:6]), gate_result(*HOSTILE[:2])
    content = json.loads(json_export.render(found, gate), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert (content["gate"], content["exit_code"]) == ("failed", 1)
    assert len(content["changes"]) == len(found.changes)
    assert content["changes"][0] == {
        "method": HOSTILE[0],
        "metric": "auroc",
        "column": "mean",
        "kind": "mean",
        "base": 0.91,
        "head": 0.91 - 0.0203,
        "difference": -0.0203,
        "ci_low": -0.0203 - 0.004,
        "ci_high": -0.0203 + 0.004,
        "p_value": 0.00002,
        "p_adjusted": 0.0004,
        "test": "DeLong",
        "verdict": "worse",
        "reason": "",
    }
    assert content["findings"][0]["method"] == HOSTILE[0]
    assert content["head"]["folder"] == "runs/head"
    assert len(content["costs"]) == 2
    fewer = json.loads(json_export.render(replace(found, missing_seeds={"A": (1, 2)}), gate))
    assert (content["missing_seeds"], fewer["missing_seeds"]) == ({}, {"A": [1, 2]})


class Page(HTMLParser):
    """Tags, and the texts of cells and list items."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(key.startswith("on") or key in ("src", "href") for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def visible_names() -> list[str]:
    return [
        "<script>alert(1)</script>",
        "a|b`c*d_e[f](http://x.y)",
        r"esc\x1b[31mred\x1b[0m\x07",
        r"two\nlines\r\n::error::no",
        "quote\"&amp;'",
        r"nul\x00 \ufffe \u202ereversed",
    ]


def test_web_page_escapes_names() -> None:
    text = web_page.render(comparison(*HOSTILE[:6], same=2), gate_result(*HOSTILE[:2]))
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert text.isascii()
    for name in visible_names():
        assert name in page.texts, name
    assert page.tags.count("details") == 4  # all columns, two metrics, costs


def test_markdown_escapes_names() -> None:
    text = job_summary.render(comparison(*HOSTILE[:6], same=2), gate_result(*HOSTILE[:2]))
    page = Page()
    page.feed(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text))
    known = {"h2", "h3", "p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= known | {"details", "summary"}
    assert page.tags.count("h2") == 1
    assert "http\\://" in text  # no link
    for name in visible_names():
        assert name in page.texts, name
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_markdown_folds_the_full_tables() -> None:
    text = job_summary.render(comparison(), gate_result())
    assert text.count("<details>") == text.count("</details>") == 3
    first = text.index("<details>")
    assert "SoftMax+Method7" not in text[:first]
    assert "| SoftMax+Method7 " in text[first:]
    assert "88.97 (-2.03) worse" in text[first:]


@pytest.mark.parametrize("name", [each for each in WRITERS if each != "json"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_format_writes_control_characters(name: str, hostile: str) -> None:
    found = comparison(*[f"{number}{hostile}" for number in range(6)], same=1)
    changes = (
        replace(each, column=each.column.replace("noise", hostile)) for each in found.changes
    )
    found = replace(found, changes=tuple(changes), notes=(hostile,))
    found = replace(found, base=replace(found.base, revision=hostile))
    text = WRITERS[name](found, gate_result(f"0{hostile}", f"5{hostile}"))
    assert not CONTROLS.search(text)
    assert not re.search(r"^\s*::", text, re.MULTILINE)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_badges_escape_the_benchmark(hostile: str) -> None:
    from xml.etree import ElementTree

    found = comparison()
    shown = badge.badge(replace(found, head=replace(found.head, benchmark=hostile)), gate_result())
    picture = ElementTree.fromstring(badge.svg(shown))
    assert {element.tag.rpartition("}")[2] for element in picture.iter()} == {
        "svg",
        "title",
        "linearGradient",
        "stop",
        "clipPath",
        "rect",
        "g",
        "text",
    }
    assert not CONTROLS.search(badge.svg(shown))
    assert json.loads(badge.endpoint_json(shown))["label"] == shown.label
