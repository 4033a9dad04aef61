"""Text, progress and results on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from oodbench.progress import Reporter
    from oodbench.report import Leaderboard, PublishedComparison
    from oodbench.results import Run, SuiteRun


def say(text: str) -> None:
    """Print a message to standard error."""
    print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """Standard output; 120 columns where it is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def reporter() -> Reporter:
    """A progress reporter on standard error."""
    from oodbench.progress import reporter_for

    return reporter_for(Console(stderr=True))


def print_results(done: Run | SuiteRun, output: Console) -> None:
    """The report of a run or of a suite, as wide as the output."""
    print_report(done.report(), output)


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
