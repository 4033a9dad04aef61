"""Text, progress and results on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from oodbench.errors import ExitCode

if TYPE_CHECKING:
    from oodbench.progress import Reporter
    from oodbench.report import Leaderboard, PublishedComparison
    from oodbench.results import Run, SuiteRun


def say(text: str) -> None:
    """Print a message to standard error."""
    print(text, file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error; 120 columns where it is not a terminal."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=120)


def reporter() -> Reporter:
    """A progress reporter on standard error."""
    from oodbench.progress import reporter_for

    return reporter_for(Console(stderr=True))


def finish(done: Run | SuiteRun, output: Console) -> None:
    """Print the report of a run or of a suite, as wide as the output, and what is missing.

    Raises:
        typer.Exit: something that was asked for is missing.
    """
    print_report(done.report(), output)
    output.print(f"Run directory: {done.folder}", markup=False, highlight=False, soft_wrap=True)
    if not done.complete:
        for failure in done.failures:
            say(f"failed: {failure}")
        if done.failures:
            say("Repeat the command with --debug and --resume to see the tracebacks.")
        say("Incomplete: something that was asked for is missing; the reasons are above.")
        raise typer.Exit(ExitCode.INCOMPLETE)


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
