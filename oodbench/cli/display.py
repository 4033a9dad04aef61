"""Text, progress and results on the terminal."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from oodbench.errors import ExitCode, visible

if TYPE_CHECKING:
    from pathlib import Path

    from oodbench.progress import Reporter
    from oodbench.report import Leaderboard, PublishedComparison
    from oodbench.results import Run, SuiteRun


def say(text: str) -> None:
    """Print a message to standard error; on a terminal, lines are broken between words.

    Lines that begin with spaces stay whole: they are commands to copy, or code.
    """
    if sys.stderr.isatty():
        filled = textwrap.TextWrapper(
            Console(stderr=True).width, break_long_words=False, break_on_hyphens=False
        ).fill
        lines = text.splitlines()
        text = "\n".join(line if line.startswith(" ") else filled(line) for line in lines)
    print(text, file=sys.stderr, flush=True)


def say_written(path: Path) -> None:
    """Say on standard error that a file was written: standard output may be a report."""
    say(f"Wrote {visible(str(path))}")


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error; 120 columns where it is not a terminal."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=120)


def broken(line: str, output: Console, column: int) -> str:
    """A line for an output: on a terminal, broken between words, with its text in one column.

    Args:
        line: text in one line.
        output: where it is printed.
        column: where the text begins; what is before it stays as it is.
    """
    if not output.is_terminal:
        return line
    from oodbench.report.writers.wrapping import wrap

    texts = wrap(line[column:], max(20, output.width - column))
    return line[:column] + f"\n{'':{column}}".join(texts)


def reporter() -> Reporter:
    """A progress reporter on standard error."""
    from oodbench.progress import reporter_for

    return reporter_for(Console(stderr=True))


def finish(done: Run | SuiteRun, output: Console) -> None:
    """Print the report of a run or of a suite, as wide as the output, and what is missing.

    Raises:
        typer.Exit: something that was asked for is missing.
    """
    print_report(report := done.report(), output)
    if output.is_terminal and (best := _best(report)):
        output.print(broken(best, output, 0), markup=False, highlight=False, soft_wrap=True)
    output.print(f"Run directory: {done.folder}", markup=False, highlight=False, soft_wrap=True)
    if not done.complete:
        for failure in done.failures:
            say(f"failed: {failure}")
        if done.failures:
            say("Repeat the command with --debug and --resume to see the tracebacks.")
        say("Incomplete: something that was asked for is missing; the reasons are above.")
        raise typer.Exit(ExitCode.INCOMPLETE)


def _best(report: Leaderboard | PublishedComparison) -> str:
    """The first methods of a leaderboard in one sentence: its tables may have left the screen."""
    from oodbench.report import PublishedComparison
    from oodbench.report.leaderboard import RANKED_BY

    if isinstance(report, PublishedComparison):
        return ""
    mean = report.column("mean")
    found = [(row.method, row.entries.get((RANKED_BY, mean))) for row in report.rows[:3]]
    values = [f"{name} {100 * each.estimate.mean:.1f} %" for name, each in found if each]
    return f"Best by mean AUROC: {', '.join(values)}." if values else ""


def print_report(report: Leaderboard | PublishedComparison, output: Console) -> None:
    """A leaderboard, or the comparison of a suite, as wide as the output."""
    from oodbench.report import PublishedComparison
    from oodbench.report.tables import published_layout
    from oodbench.report.writers import terminal

    if isinstance(report, PublishedComparison):
        shown = terminal.document_renderables(published_layout.overview(report), output.width)
    else:
        shown = terminal.renderables(report, output.width)
    for part in shown if output.is_terminal else [terminal.plain(shown, output.width).rstrip()]:
        output.print(part, markup=False, highlight=False, soft_wrap=True)
