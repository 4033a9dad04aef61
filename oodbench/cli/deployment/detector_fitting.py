"""The command `oodbench fit`."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import console, reporter
from oodbench.cli.parameters import DataRoot, Device, Plugins, given_path
from oodbench.errors import ExitCode, UserError

if TYPE_CHECKING:
    from oodbench.progress import Reporter


def fit(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=given_path,
            help="A run directory of `oodbench run` or `oodbench evaluate`.",
        ),
    ],
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method of the run, or a detector that only one of its methods has.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", parser=given_path, metavar="ARTIFACT", help="Folder to save it in."),
    ],
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="K", min=0, help="Seed of the model. Default: the first of the run."
        ),
    ] = None,
    accept: Annotated[
        float,
        typer.Option(
            "--accept",
            metavar="RATE",
            help="Share of the ID images that the threshold accepts, set on the ID validation "
            "images.",
        ),
    ] = 0.95,
    ood: Annotated[
        str | None,
        typer.Option(
            "--ood",
            metavar="NAME",
            help="For a method that was tuned on each OOD set: the set whose detector is fitted.",
        ),
    ] = None,
    device: Device = "auto",
    plugins: Plugins = None,
    data_root: DataRoot = None,
) -> None:
    """Fit a method of a finished run again, set its threshold, and save it.

    It is fitted on the model and the data of the run, with the values that the run tuned.
    """
    if not 0 < accept < 1:
        raise UserError(
            f"--accept: expected a share above 0 and below 1, such as 0.95, not {accept:g}."
        )
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    from oodbench.deploy.artifact.artifact_writing import check_folder
    from oodbench.deploy.finished_method import find_method
    from oodbench.deploy.refitted_artifact import check_scores, document, with_threshold
    from oodbench.deploy.refitting import refit
    from oodbench.engine.device import find_device
    from oodbench.report.writers import terminal
    from oodbench.storage.changed_files import changed_files
    from oodbench.storage.run_directory import RunDirectory

    found = find_method(run, method, seed=seed, ood=ood)
    place = find_device(device)
    check_folder(out)
    progress = reporter()
    with progress.work(4):
        again = refit(
            found,
            device=place,
            plugins=plugins or (),
            data_root=data_root,
            accept=accept,
            say=progress,
        )
        if changed := RunDirectory(run).changed():
            progress.warn(changed_files(run, changed))
        with _warnings_to(progress):
            fitted = with_threshold(again, accept, progress)
        check_scores(again, fitted, progress)
        fitted.save(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    output = console()
    print(terminal.render_document(document(again, fitted), output.width))
    again_with = shlex.join(["oodbench", "score", str(out), "FOLDER"])
    for line in (f"Artifact: {out} ({size:.1f} MB)", f"Score new images: {again_with}"):
        output.print(line, markup=False, highlight=False, soft_wrap=True)
    if fitted.threshold is None:
        raise typer.Exit(ExitCode.INCOMPLETE)


@contextmanager
def _warnings_to(progress: Reporter) -> Iterator[None]:
    """Python warnings go to the progress reporter."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(each.message) for each in said):
        progress.warn(text)
