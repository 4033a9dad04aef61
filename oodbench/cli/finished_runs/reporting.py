"""The commands `oodbench report` and `oodbench leaderboard`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import console, print_report, say, say_written
from oodbench.cli.parameters import given_path
from oodbench.errors import ExitCode, UserError, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oodbench.report.formats import Report


class Format(StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"
    latex = "latex"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Form of the report. Default: table.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", parser=given_path, metavar="FILE", help="Write it to a file."),
]
CompactOption = Annotated[
    bool,
    typer.Option("--compact", help="With --format latex: ten methods, for a paper's column."),
]


def report(
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, of a benchmark or of a suite.")
    ],
    format_: FormatOption = None,
    out: OutOption = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            parser=given_path,
            metavar="DIR",
            help="Draw the figures into a folder, too; an HTML report then shows them.",
        ),
    ] = None,
    compact: CompactOption = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B|all",
            help="Metrics on request that the run did not record, computed from its scores.",
        ),
    ] = None,
) -> None:
    """Make the reports of a run again, from its records alone.

    Exit code 1, and a warning, if files with results were changed after the run.
    """
    import warnings

    from oodbench import api
    from oodbench.results import Run, write_figures

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = api.open_run(run_directory)
    done.report()  # what cannot be read is an error, and nothing is to be warned of
    for each in said:
        say(f"WARNING: {each.message}")
    code = ExitCode.FINDING if said else ExitCode.OK
    _check_compact(compact, format_)
    if metrics is not None:
        if not isinstance(done, Run):
            raise UserError("--metrics: a suite has no leaderboard.", "Give one of its members.")
        done = done.with_metrics(metrics)
    drawn = {} if figures is None else done.figures()
    if figures is not None:
        paths = write_figures(drawn, figures)
        listed = "\n".join(map(str, paths)) or "There is nothing to draw in this run."
        if format_ is None and out is None:
            print(listed)
            raise typer.Exit(code)
        say(listed)  # standard output may be the report
    _show(done.report(), format_, out, compact, drawn)
    raise typer.Exit(code)


def leaderboard(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            parser=given_path,
            help="Run directories of one benchmark, or folders with committed records.",
        ),
    ],
    format_: FormatOption = None,
    out: OutOption = None,
    compact: CompactOption = False,
) -> None:
    """Show several runs of one benchmark on one leaderboard, each row with its run.

    Runs of other benchmarks, versions, protocols or data are refused. Ties are shown if all runs
    have their scores. Exit code 1, and a warning, if files with results were changed after a run.
    """
    from oodbench.results import leaderboard as joined
    from oodbench.storage.changed_files import changed_files
    from oodbench.storage.run_directory import RunDirectory

    _check_compact(compact, format_)
    board = joined(*runs)
    described = [directory for directory in map(RunDirectory, runs) if directory.exists()]
    changed = [(each.folder, names) for each in described if (names := each.changed())]
    for folder, names in changed:
        say(f"WARNING: {visible(changed_files(folder, names))}")
    _show(board, format_, out, compact)
    raise typer.Exit(ExitCode.FINDING if changed else ExitCode.OK)


def _check_compact(compact: bool, format_: Format | None) -> None:
    if compact and format_ is not Format.latex:
        raise UserError("--compact needs --format latex.")


def _show(
    found: Report,
    format_: Format | None,
    out: Path | None,
    compact: bool,
    figures: Mapping[str, Figure] = MappingProxyType({}),
) -> None:
    """Print a report, or write it to a file; figures are shown on a page."""
    from oodbench.files import write_atomic
    from oodbench.report.formats import FORMATS, compact_table
    from oodbench.storage.locks import held_around

    if format_ in (None, Format.table) and out is None:
        print_report(found, console())
        return
    if format_ is Format.html:
        text = found.to_html(figures)
    else:
        text = compact_table(found) if compact else FORMATS[(format_ or Format.table).value](found)
    if out is None:
        print(text)
    else:
        with held_around(out):
            write_atomic(out, text if text.endswith("\n") else text + "\n")
        say_written(out)
