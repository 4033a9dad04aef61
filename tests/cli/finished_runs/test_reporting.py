"""`oodbench report`: formats, places, figures."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from helpers.commands import Command, Done
from helpers.tiny_content import check_refusal

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")

PARTS = {
    "table": "SoftMax+MSP",
    "md": "| SoftMax+MSP",
    "csv": "SoftMax+MSP",
    "json": '"SoftMax+MSP"',
    "html": "<html",
    "latex": "\\begin{tabular}",
}


@pytest.mark.parametrize("name", PARTS)
def test_reports(command: Command, finished: Path, tmp_path: Path, name: str) -> None:
    printed = command("report", finished, "--format", name)
    assert printed.code == 0, printed.err
    assert PARTS[name] in printed.out
    assert "SoftMax+Entropy" in printed.out
    written = command("report", finished, "--format", name, "--out", tmp_path / "new" / "file")
    assert written.code == 0, written.err
    assert written.out == ""
    assert written.err == f"Wrote {tmp_path / 'new' / 'file'}\n"
    text = (tmp_path / "new" / "file").read_text(encoding="utf-8")
    assert text.rstrip("\n") == printed.out.rstrip("\n")
    if name == "csv":
        assert len(list(csv.DictReader(io.StringIO(text)))) > 0
    if name == "json":
        json.loads(text)


@pytest.mark.parametrize(
    ("place", "said"),
    [(".", "Is a directory"), ("file/below", "File exists"), ("/proc/x", "No such file")],
)
def test_a_report_to_a_bad_place(
    command: Command, finished: Path, tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").write_text("a file")
    check_refusal(command("report", finished, "--out", place), "Cannot write", said, "--out")


def test_a_page_and_figures(command: Command, finished: Path, tmp_path: Path) -> None:
    done = command("report", finished, "--format", "html", "--figures", "figures")
    assert done.code == 0
    assert done.out.startswith("<!DOCTYPE html>")
    assert "Run of 20" in done.out
    assert "oodbench 0" in done.out
    assert list((tmp_path / "figures").glob("*.png"))
    assert "scores.png" in done.err
    command("report", finished, "--figures", "other", "--format", "md", "--out", "page.md")
    assert (tmp_path / "page.md").read_text().startswith("# Benchmark tiny")
    assert list((tmp_path / "other").glob("*.png"))


def test_a_compact_table(command: Command, finished: Path, suite_run: tuple[Done, Path]) -> None:
    done = command("report", finished, "--format", "latex", "--compact")
    assert done.code == 0
    assert done.out.count("\\begin{table}") == 1
    check_refusal(command("report", finished, "--compact"), "--compact", "--format latex")
    refused = command("report", suite_run[1], "--format", "latex", "--compact")
    check_refusal(refused, "--compact", "no leaderboard")


@pytest.mark.parametrize("width", [40, 120])
def test_a_report_is_as_wide_as_the_terminal(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = command("report", finished).out
    assert "\x1b[1m" in shown, "bold"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert width - 20 < max(map(len, lines)) <= width
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b" not in command("report", finished).out


def test_figures_of_a_run(command: Command, finished: Path, suite_run: tuple[Done, Path]) -> None:
    done = command("report", finished, "--figures", "drawn")
    assert done.code == 0, done.err
    names = ["roc", "scores", "quality-cost", "confusable-images"]  # and no test accuracy
    assert done.out.split() == [f"drawn/{name}.png" for name in names]
    for name in names:
        assert Path(f"drawn/{name}.png").read_bytes().startswith(b"\x89PNG")
    done = command("report", suite_run[1], "--figures", "drawn")
    assert (done.code, done.out) == (0, "There is nothing to draw in this run.\n")
