"""The command `oodbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import broken, console, reporter
from oodbench.cli.parameters import given_path
from oodbench.errors import ExitCode

if TYPE_CHECKING:
    from oodbench.verification.outcome import Verification


def verify(
    run_directory: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", parser=given_path, help="A run directory, of a benchmark or of a suite."
        ),
    ],
    every: Annotated[
        bool, typer.Option("--all", help="Print every discrepancy, not the first alone.")
    ] = False,
) -> None:
    """Compute every metric of a run again from its scores.

    Checks that values and intervals follow from the scores, names and parameters from run.json, and
    the reports from the records; and that files have the digests in run.json. Prints the first
    value that does not follow. Costs, detector parameters and the training log can only be
    compared with digests. Whether the scores are those of the detector is not checked: run the
    benchmark for that.

    Exit code 1 if something does not follow, 3 if something could not be checked.
    """
    from oodbench.results import SuiteRun
    from oodbench.results import verify as verified
    from oodbench.storage.suite_directory import SuiteDirectory
    from oodbench.verification.suite_verification import verify_suite

    suite = SuiteDirectory(run_directory).exists()
    members = SuiteRun(run_directory).members.values() if suite else ()
    folders = [run.folder for run in members] if suite else [run_directory]
    codes = [_shown(verified(folder, progress=reporter()), every) for folder in folders]
    if suite and members:
        codes.append(_shown(verify_suite(run_directory), every))
    order = (ExitCode.FINDING, ExitCode.INCOMPLETE, ExitCode.OK)
    raise typer.Exit(min(codes, key=order.index, default=ExitCode.INCOMPLETE))


def _shown(found: Verification, every: bool) -> ExitCode:
    """Print the result of a verification; its exit code."""
    output = console()
    lines = [*str(found).splitlines(), *(f"  {each}" for each in found.discrepancies if every)]
    for line in lines:
        text = broken(line, output, 4 if line.startswith("  ") else 0)
        output.print(text, markup=False, highlight=False, soft_wrap=True)
    return found.exit_code
