"""What GitHub shows: summaries of steps, annotations, badges."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.run_comparisons import HOSTILE, changes_of, comparison, gate_result, side

from oodbench.errors import UserError
from oodbench.run_comparison.changes import Finding, GateResult, RunComparison, Verdict
from oodbench.run_comparison.writers import badge, job_summary
from oodbench.run_comparison.writers.workflow_commands import annotation_lines, muted


def test_a_summary_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("of another command\n", encoding="utf-8")
    text = job_summary.render(comparison(), gate_result())
    job_summary.append(path, text)
    assert path.read_text(encoding="utf-8") == "of another command\n" + text


def test_a_summary_stays_below_the_limit_of_its_step(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_bytes(b"x" * 900_000)
    huge = job_summary.render(comparison(same=700), gate_result())
    assert len(huge.encode()) > job_summary.LIMIT - 900_000
    job_summary.append(path, huge)
    size = path.stat().st_size
    assert job_summary.LIMIT - 1000 < size <= job_summary.LIMIT
    shown = path.read_text(encoding="utf-8")[900_000:]
    assert shown.count("<details>") == shown.count("</details>")
    assert "has at most 1 MiB" in shown.splitlines()[-1]
    assert set(shown.splitlines()[:-4]) <= set(huge.splitlines())  # no line is cut
    job_summary.append(path, huge)
    assert path.stat().st_size <= job_summary.LIMIT


@pytest.mark.parametrize("limit", [0, 50, 150, 151, 152, 153, 400])
def test_shortened(limit: int) -> None:
    text = "é" * 60 + "\n" + "é" * 70 + "\n<details>\n\nfolded\n"
    found = job_summary.shortened(text, limit)
    assert len(found.encode()) <= limit
    assert found == text if limit == 400 else found != text


def test_a_summary_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"):
        job_summary.append(tmp_path, "text")


def test_annotations() -> None:
    lines = list(annotation_lines(gate_result()))
    assert lines == [
        "::error title=oodbench SoftMax+Energy::SoftMax+Energy: AUROC on letters fell by 2.03 "
        "points, from 91.00 to 88.97 %25. [max-drop auroc=0.5]",
        "::error title=oodbench SoftMax+Energy::SoftMax+Energy: the time over the baseline's grew "
        "by a factor of 3.08. [max-slower 1.2]",
        "::error title=oodbench SoftMax+ReAct::SoftMax+ReAct: AUROC on noise cannot be compared: "
        "other images. [max-drop auroc=0.5]",
        "::warning title=oodbench SoftMax+ODIN (fixed)::SoftMax+ODIN (fixed): AUROC on patches "
        "fell by 3.12 points, which chance explains. [max-drop auroc=0.5]",
    ]


def read(line: str) -> tuple[str, str, str]:
    """Level, title and message, as the runner of GitHub Actions reads them."""
    command, properties, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
    (title,) = properties.split(",")
    for text, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
        title, message = title.replace(text, character), message.replace(text, character)
    return command, title.replace("%25", "%"), message.replace("%25", "%")


@pytest.mark.parametrize("hostile", [*HOSTILE, "a:b,c%0A::error::x"])
def test_annotations_of_hostile_names(hostile: str) -> None:
    lines = list(annotation_lines(gate_result(hostile, hostile)))
    assert len(lines) == 4
    shown = hostile.encode("unicode_escape").decode() if not hostile.isprintable() else hostile
    level, title, message = read(lines[0])
    assert (level, title) == ("error", f"title=oodbench {shown}")
    assert message.startswith(f"{shown}: AUROC on letters fell")


def test_ten_annotations_of_a_level() -> None:
    findings = [
        Finding(severity="failure", rule="fail-on worse", method=f"M{number}", message="It fell.")
        for number in range(25)
    ]
    lines = list(annotation_lines(GateResult(tuple(findings))))
    assert len(lines) == 10
    assert lines[-1] == "::error title=oodbench::16 more findings."


def test_muted_text() -> None:
    first, *text, last = muted("::error::no\n##[add-mask]x").splitlines()
    token = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", first)
    assert token is not None
    assert last == f"::{token[1]}::"
    assert text == ["::error::no", "##[add-mask]x"]


def of(*changes: Verdict) -> RunComparison:
    found = [
        each
        for number, verdict in enumerate(changes)
        for each in changes_of(f"M{number}", verdict, 0.0)
    ]
    return RunComparison(base=side(), head=side(), changes=tuple(found), costs=(), level=0.05)


def test_what_badges_say() -> None:
    failed, passed = gate_result(), GateResult()
    incomplete = GateResult(gate_result().findings[2:])
    worse, better, same = Verdict.WORSE, Verdict.BETTER, Verdict.SAME
    assert badge.badge(of(worse, worse, better), failed) == ("oodbench digits", "2 worse", "red")
    assert badge.badge(of(same), failed)[1:] == ("gate failed", "red")
    assert badge.badge(of(same), incomplete)[1:] == ("not comparable", "orange")
    assert badge.badge(of(worse, same), passed)[1:] == ("1 worse", "orange")
    assert badge.badge(of(better, same), passed)[1:] == ("1 better", "brightgreen")
    assert badge.badge(of(same, same), passed)[1:] == ("no regression", "green")


def test_badge_for_an_endpoint() -> None:
    content = json.loads(badge.endpoint_json(badge.badge(of(Verdict.SAME), GateResult())))
    assert content == {
        "schemaVersion": 1,
        "label": "oodbench digits",
        "message": "no regression",
        "color": "green",
    }


def test_badge_as_a_picture() -> None:
    shown = badge.badge(comparison(), gate_result())
    picture = ElementTree.fromstring(badge.svg(shown))
    assert picture.get("role") == "img"
    names = {"s": "http://www.w3.org/2000/svg"}
    assert picture.findtext("s:title", namespaces=names) == "oodbench digits: 2 worse"
    texts = picture.findall(".//s:text", names)
    boxes = picture.findall(".//s:g/s:rect", names)[:2]
    widths = [int(box.get("width", "0")) for box in boxes]
    assert int(picture.get("width", "0")) == sum(widths)
    assert [text.text for text in texts] == ["oodbench digits", "2 worse"]
    for text, width in zip(texts, widths, strict=True):
        assert int(text.get("textLength", "0")) == width - 12  # six pixels on each side
    long = badge.svg(shown._replace(message="W" * 30))
    assert int(ElementTree.fromstring(long).get("width", "0")) > sum(widths) + 200
