"""The command `oodbench report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from oodbench.cli.display import console, print_results, say
from oodbench.cli.parameters import given_path
from oodbench.errors import ExitCode, UserError


class Format(StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"
    latex = "latex"


def report(
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, of a benchmark or of a suite.")
    ],
    format_: Annotated[
        Format | None, typer.Option("--format", help="Form of the report. Default: table.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=given_path, metavar="FILE", help="Write it to a file."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            parser=given_path,
            metavar="DIR",
            help="Draw the figures into a folder, too.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="With --format latex: ten methods, for a paper's column."),
    ] = False,
) -> None:
    """Make the reports of a run again, from its records alone.

    Exit code 1, and a warning, if files with results were changed after the run.
    """
    import warnings

    from oodbench import api
    from oodbench.files import write_atomic
    from oodbench.report.formats import FORMATS, compact_table
    from oodbench.storage.locks import held_around

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = api.open_run(run_directory)
    done.report()  # what cannot be read is an error, and nothing is to be warned of
    for each in said:
        say(f"WARNING: {each.message}")
    code = ExitCode.FINDING if said else ExitCode.OK
    if compact and format_ is not Format.latex:
        raise UserError("--compact needs --format latex.")
    if figures is not None:
        paths = done.write_figures(figures)
        listed = "\n".join(map(str, paths)) or "There is nothing to draw in this run."
        if format_ is None and out is None:
            print(listed)
            raise typer.Exit(code)
        say(listed)  # standard output may be the report
    if format_ in (None, Format.table) and out is None:
        print_results(done, console())
        raise typer.Exit(code)
    found = done.report()
    text = compact_table(found) if compact else FORMATS[(format_ or Format.table).value](found)
    if out is None:
        print(text)
    else:
        with held_around(out):
            write_atomic(out, text if text.endswith("\n") else text + "\n")
    raise typer.Exit(code)
