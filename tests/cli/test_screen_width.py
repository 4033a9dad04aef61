"""What the commands print on a terminal: nothing is wider than it, nothing is cut."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from helpers.commands import Command
from rich.console import Console

import oodbench
from oodbench.cli.display import finish, say
from oodbench.cli.plan_display import renderables
from oodbench.cli.suite_display import suite_renderables
from oodbench.planning.planner import make_plan
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Bar
from oodbench.report.writers.terminal import plain

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


@pytest.mark.parametrize(("name", "most"), [("dismax-paper", 160), ("openood", 240)])
def test_the_plan_of_a_suite(name: str, most: int) -> None:
    catalog = Catalog()
    suite = load_suite(catalog, name)
    plans = plan_suite(catalog, suite, catalog.detectors, seeds=None)
    shown = printed(plain(suite_renderables(suite, plans, 80), 80))
    for benchmark in plans:
        assert benchmark in shown
    assert len(shown.splitlines()) < most, "a suite says once what its benchmarks share"


def test_the_plan_of_a_benchmark() -> None:
    catalog = Catalog()
    plan = make_plan(catalog.benchmark("digits"), catalog, catalog.detectors)
    shown = printed(plain(renderables(plan, 80), 80))
    for method in plan.methods:
        assert method.name.removeprefix(f"{method.model}+") in " ".join(shown.split())


def test_reports(command: Command, finished: Path) -> None:
    shown = printed(command("report", finished).out)
    for said in ("SoftMax+MSP", "SoftMax+Entropy", "AUROC"):
        assert said in shown
    compared = printed(command("compare", finished, finished).out, str(finished))
    assert "SoftMax+MSP" in compared or "No difference" in compared
    printed(command("verify", finished).out, str(finished))


def test_a_run_ends_with_the_best_methods(finished: Path) -> None:
    """The notes may have moved the tables off the screen."""
    run = oodbench.open_run(finished)
    output = Console(file=io.StringIO(), force_terminal=True, width=80, record=True)
    finish(run, output)
    best, where = printed(output.export_text(), str(finished)).splitlines()[-2:]
    row = run.leaderboard().rows[0]
    value = row.entries["auroc", run.leaderboard().column("mean")].estimate.mean
    assert best.startswith(f"Best by mean AUROC: {row.method} {100 * value:.1f} %, ")
    assert where == f"Run directory: {finished}"


def test_messages_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    monkeypatch.setattr(screen, "isatty", lambda: True)
    command = f"  oodbench run digits {'--plugins folder ' * 6}"
    say(f"{'sixteen-letters, ' * 12}end:\n{command}")
    *prose, last = screen.getvalue().splitlines()
    assert last == command, "a command to copy stays in one line"
    assert len(prose) == 3
    assert all(line.endswith((",", "end:")) for line in prose)


def test_a_long_stage_does_not_squeeze_the_bar() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    bar = Bar(screen)
    with bar.work(7):
        bar.stage("a stage " * 20)
        bar._progress.refresh()
    shown = ESCAPES.sub("", screen.file.getvalue())  # type: ignore[attr-defined]
    assert re.search(r"━{10} 0/7 0:00:0\d a stage", shown)


def test_help(command: Command) -> None:
    shown = printed(command("--help").out)
    names = re.findall(r"^  (\w+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert len(names) > 12
    for name in names:
        text = printed(command(name, "--help").out)
        assert "[[" not in text
        assert "{" not in text
        assert "<" not in text.replace("<benchmark>", "").replace("<time>", "")
