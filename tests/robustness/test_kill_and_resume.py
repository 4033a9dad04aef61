"""A short form of `scripts/robustness/kill_and_resume.py`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from helpers.kills import needs_fork
from robustness.forked_processes import Moment, forked
from robustness.kill_and_resume import Trial, campaign, table
from robustness.same_folders import folder_difference


@needs_fork
def test_killed_downloads_end_as_undisturbed_ones(tmp_path: Path, one_thread: None) -> None:
    said: list[str] = []
    trials = campaign(tmp_path, ("data fetch",), 4, 0, said.append, at="writes", download=0.05)
    assert [each.hit for each in trials] == [True] * 4
    assert not [each for each in trials if each.wrong], "\n".join([*said, table(trials)])


@needs_fork
def test_a_process_that_is_left_is_found(tmp_path: Path) -> None:
    def leave() -> None:
        if os.fork() == 0:
            time.sleep(60)

    assert forked(leave, tmp_path, patience=0.1).left
    ended = forked(lambda: time.sleep(60), tmp_path, until=Moment(seconds=0.05))
    assert ended.code is None
    assert not ended.left


@needs_fork
def test_a_process_is_killed_before_a_write(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]

    def write() -> None:
        for each in files:
            each.touch()
        files[0].unlink()

    assert forked(write, tmp_path).writes == 4
    assert [each.exists() for each in files] == [False, True, True]
    files[1].unlink()
    ended = forked(write, tmp_path, until=Moment(write=2))
    assert ended.code is None
    assert [each.exists() for each in files] == [True, False, True]


def test_the_table_counts() -> None:
    trials = [Trial("run", True, "", ()), Trial("run", False, "LEFTOVERS", ("warning: a",))]
    lines = table(trials).splitlines()
    assert lines[1].split() == ["run", "2", "1", "1"]
    assert lines[2] == "run, 1 times: warning: a"


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.html", "other", "DIFFERENT a.html"),
        ("training.jsonl", '{"loss": 1.0, "seconds": 7}', ""),
        ("training.jsonl", '{"loss": 1.5, "seconds": 5}', "DIFFERENT training.jsonl"),
        ("costs.jsonl", "other", ""),
        ("sub/.writing-x", "", "LEFTOVERS sub/.writing-x"),
        ("sub/new", "", "MORE FILES ['sub/new']"),
    ],
)
def test_how_folders_differ(tmp_path: Path, name: str, content: str, wrong: str) -> None:
    got, expected = tmp_path / "got", tmp_path / "expected"
    for folder in (got, expected):
        (folder / "sub").mkdir(parents=True)
        (folder / "a.html").write_text("same")
        (folder / "costs.jsonl").write_text("same")
        (folder / "training.jsonl").write_text(json.dumps({"loss": 1.0, "seconds": 5}))
    assert folder_difference(got, expected) == ""
    (got / name).write_text(content)
    assert folder_difference(got, expected) == wrong
    (got / name).unlink()
    if not name.startswith("sub/"):
        assert folder_difference(got, expected) == f"FEWER FILES ['{name}']"
