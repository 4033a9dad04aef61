"""The command `oodbench site`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import say
from oodbench.cli.parameters import given_path
from oodbench.detector.citations import bibtex
from oodbench.errors import UserError, counted

if TYPE_CHECKING:
    from oodbench.report.site.pages import Citation, ShownRun


def site(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories, folders with a records.jsonl, or directories of suites.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=given_path, metavar="DIR", help="Folder of the site; replaces a site."
        ),
    ],
) -> None:
    """Make a web site of leaderboards that needs no server: open index.html in its folder.

    It has an overview, a leaderboard for each run, quality against cost, a page for each method,
    and the history of benchmarks with several runs.
    """
    from oodbench.report.site.folder import write_site
    from oodbench.report.site.page_assembly import assemble
    from oodbench.report.site.rendering import render
    from oodbench.storage.locks import held_around

    folders = dict.fromkeys(folder.resolve() for run in runs for folder in _folders(run))
    pages = render(assemble([_shown(folder) for folder in folders], _citations()))
    with held_around(out):
        write_site(out, pages)
    size = sum(map(len, pages.values())) / 2**20
    say(f"{counted(len(folders), 'run')}, {counted(len(pages), 'file')}, {size:.1f} MiB.")
    print(out / "index.html")


def _folders(path: Path) -> list[Path]:
    """The folder of a run, or those of the benchmarks of a suite.

    Raises:
        UserError: if no benchmark of a suite was started.
    """
    from oodbench.results import SuiteRun
    from oodbench.storage.run_directory import RECORDS
    from oodbench.storage.suite_directory import SuiteDirectory

    if not SuiteDirectory(path).exists():
        return [path.parent if path.name == RECORDS else path]
    found = [run.folder for run in SuiteRun(path).members.values() if run.records]
    if not found:
        raise UserError(f"{path} holds a suite of which no benchmark has results.")
    return found


def _shown(folder: Path) -> ShownRun:
    """A run with its leaderboard.

    Raises:
        UserError: if there is no run, or it cannot be read.
    """
    from dataclasses import replace

    from oodbench.report import Leaderboard
    from oodbench.report.site.pages import ShownRun
    from oodbench.results import Run
    from oodbench.storage.run_directory import RunDirectory
    from oodbench.storage.stored_run import read_stored_run

    stored = read_stored_run(folder)
    if stored.description is None:
        differences = RunDirectory(stored.folder).read_differences()
        board = Leaderboard.from_records(stored.records, stored.costs, (), differences)
        return ShownRun(stored, board)
    board = Run(stored.folder).leaderboard()
    # A page may be published: it does not tell where the run is on this machine.
    said = tuple(each.removeprefix(f"{stored.folder}: ") for each in board.warnings)
    return ShownRun(stored, replace(board, warnings=said))


def _citations() -> dict[str, Citation]:
    """Where the detectors that are known here were published."""
    from oodbench.plugins.catalog import Catalog
    from oodbench.report.site.pages import Citation

    return {
        name: Citation(
            info.reference, info.url, info.paper, info.authors, info.code, bibtex([info])
        )
        for name, status in Catalog().detectors.items()
        if (info := status.info) is not None
    }
