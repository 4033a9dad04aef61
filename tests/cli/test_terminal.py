"""What the commands print on a terminal: nothing is wider than it, nothing is cut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.commands import Command

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as on a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def printed(text: str, *whole: str) -> str:
    """A text without escape sequences, checked for its width; lines with `whole` may be wider."""
    text = ESCAPES.sub("", text)
    wide = [
        line for line in text.splitlines() if len(line) > 80 and not any(w in line for w in whole)
    ]
    assert not wide, "wider than 80 columns:\n" + "\n".join(wide)
    return text


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_lists(command: Command, kind: str) -> None:
    shown = printed(command("list", kind).out)
    rows = json.loads(command("list", kind, "--json").out)
    first = [line.split(" ")[0] for line in shown.splitlines()]
    missing = [row["name"] for row in rows if row["name"] not in first]
    assert not missing, f"names that are cut or not shown: {missing}"


@pytest.mark.parametrize(
    ("name", "most"), [("digits", 80), ("dismax-paper", 160), ("openood", 240)]
)
def test_plans(command: Command, name: str, most: int) -> None:
    done = command("run", name, "--dry-run")
    assert done.code == 0, done.err
    shown = printed(done.out, "https://")
    assert len(shown.splitlines()) < most, "a suite says once what its benchmarks share"


def test_reports(command: Command, finished: Path) -> None:
    shown = printed(command("report", finished).out)
    for said in ("SoftMax+MSP", "SoftMax+Entropy", "AUROC"):
        assert said in shown
    compared = printed(command("compare", finished, finished).out, str(finished))
    assert "SoftMax+MSP" in compared or "No difference" in compared
    printed(command("verify", finished).out, str(finished))


def test_help(command: Command) -> None:
    shown = printed(command("--help").out)
    names = re.findall(r"^  (\w+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert len(names) > 12
    for name in names:
        text = printed(command(name, "--help").out)
        assert "[[" not in text
        assert "{" not in text
        assert "<" not in text.replace("<benchmark>", "").replace("<time>", "")
