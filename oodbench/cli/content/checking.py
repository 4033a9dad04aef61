"""The command `oodbench check`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import broken, console, say
from oodbench.cli.parameters import Plugins
from oodbench.errors import ExitCode

if TYPE_CHECKING:
    from oodbench.testing import CheckResult
    from oodbench.testing.check_results import Status

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim", "not run": "magenta"}

_TEXT = 26
"""Column in which the text of a line begins, after the mark and the name of the check."""


def check(
    detector: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A detector's name, or the file of one."),
    ],
    plugins: Plugins = None,
    time_limit: Annotated[
        int,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="How long running the file, and each check, may take.",
        ),
    ] = 60,
) -> None:
    """Check that a detector keeps the contract: scores, fitting, copies, what it declares.

    Exit code 1 if a check fails. The detector runs in another process, and in this one with
    --debug, which shows tracebacks, has no time limit, and stops at breakpoint().
    """
    from oodbench.testing.check_results import lines_of, repeated, summary
    from oodbench.testing.targets import detector_file

    path = detector_file(detector, plugins or ())
    output, found, started = console(), [], time.perf_counter()
    output.print(f"{path.stem}  {path}", markup=False, highlight=False, soft_wrap=True)

    def show(status: Status, lines: Sequence[str]) -> None:
        for number, line in enumerate(lines):
            line = broken(line, output, _TEXT)
            if number == 0:
                output.print(line[:4], style=_STYLES[status], highlight=False, end="")
                line = line[4:]
            output.print(line, markup=False, highlight=False, soft_wrap=True)

    for result in _results(path, time_limit):
        found.append(result)
        show(result.status, lines_of(result))
        if result.traceback and _debugging():
            say(result.traceback)
    for line in repeated(found):
        show("failed", [line])
    seconds = time.perf_counter() - started
    failed = any(result.status == "failed" for result in found)
    output.print(
        f"{path.stem}: {summary(found)} ({seconds:.1f} s)",
        style=_STYLES["failed" if failed else "passed"],
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(ExitCode.FINDING if failed else ExitCode.OK)


def _results(path: Path, time_limit: float) -> Iterator[CheckResult]:
    """The results of all checks, one after the other."""
    if _debugging():
        from oodbench.testing.subject import subject_of
        from oodbench.testing.suite import results_of

        yield from results_of(subject_of(path))
    else:
        from oodbench.testing.isolation import isolated_results

        yield from isolated_results(path, time_limit)


def _debugging() -> bool:
    return logging.getLogger().isEnabledFor(logging.DEBUG)
