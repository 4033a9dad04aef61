"""The command `oodbench score`."""

from __future__ import annotations

import csv
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import reporter, say, say_written
from oodbench.cli.parameters import Device, Plugins, given_path
from oodbench.errors import ExitCode, UserError, brief, counted, listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oodbench.deploy.fitted_detector import Decisions, FittedDetector
    from oodbench.progress import Reporter
    from oodbench.report.score_page.score_log import ScoreLog
    from oodbench.user_data.image_files import ImageFile, ImageStream


class LineFormat(StrEnum):
    """Formats of scores."""

    csv = "csv"
    jsonl = "jsonl"


def score(
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", parser=given_path, help="A folder of `oodbench fit`."),
    ],
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR...",
            parser=given_path,
            help="Images, folders with images, .txt lists of paths; - reads a list from standard "
            "input.",
        ),
    ],
    format_: Annotated[
        LineFormat, typer.Option("--format", help="Form of the lines.")
    ] = LineFormat.csv,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=given_path, metavar="FILE", help="Write them to a file."),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="The true class of an image is the sub-folder that it lies in, or its label in a "
            "list.",
        ),
    ] = False,
    ood: Annotated[
        list[Path] | None,
        typer.Option(
            "--ood",
            parser=given_path,
            metavar="DIR",
            help="Also score these images, which are known to be OOD; repeatable.",
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            parser=given_path,
            metavar="FILE.html",
            help="Write a page with the most and the least in-distribution images, those near the "
            "threshold and, with --labels or --ood, the misjudged ones.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", min=1, help="Images of a batch."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            help="Processes that decode images; 0: none besides this one. Default: a core each, "
            "one left.",
        ),
    ] = None,
    device: Device = "auto",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODULE:CALLABLE",
            help="If the artifact's network is made by code of yours: its name, which allows that "
            "the code runs.",
        ),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Score images with a saved detector, and accept or reject each with its threshold.

    A line an image: path, predicted class, score, decision. Images that cannot be read are reported
    and skipped; exit code 3 says that there were some.
    """
    from oodbench.user_data.image_files import FoundImages, ImageFile, find_images

    if not artifact.exists():
        missing = [str(place) for place in places if str(place) != "-" and not place.exists()]
        raise UserError(
            f"There is no saved detector {artifact}"
            + (f", and no file or folder {listed(missing)}." if missing else "."),
            "Correct the path; `oodbench fit RUN METHOD --out ARTIFACT` saves a detector.",
        )
    found = find_images(places)
    outside = find_images(ood) if ood else FoundImages(())
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    from oodbench.deploy.artifact.artifact_reading import load_fitted
    from oodbench.report.score_page.score_log import ScoreLog
    from oodbench.user_data.true_classes import true_classes

    fitted = load_fitted(artifact, plugins=plugins or (), device=device, network=model)
    files = [*found.files, *outside.files]
    truths = None
    if labels:
        known = fitted.model.classes, fitted.model.num_classes
        truths = [*true_classes(found.files, *known), *[""] * len(outside.files)]
    log = ScoreLog(
        fitted.name,
        fitted.threshold,
        [file.path for file in files],
        fitted.model.classes,
        truths,
        len(found.files) if labels or ood else None,
    )
    progress = _progress(out)

    def report(file: ImageFile, reason: str) -> None:
        log.unreadable.append((file.path, reason))
        progress.warn(brief(f"{file.path} is skipped: {reason}."))

    stream = _stream(fitted, files, batch_size, workers, report)
    with progress.work(1):
        for each in (found, outside):
            for folder, reason in each.unreadable:
                report(ImageFile(folder), reason)
            if each.note:
                progress.warn(each.note)
        if fitted.threshold is None:
            progress.warn("The detector has no threshold: the decisions are empty.")
        try:
            with _opened(out) as file:
                _score_all(fitted, stream, _Writer(file, format_, log), log, progress)
        except KeyboardInterrupt:
            say(f"Interrupted: {log.scored.sum():,} of {counted(len(files), 'image')} scored.")
            raise typer.Exit(ExitCode.INCOMPLETE) from None
        for what, count in stream.lost.items():
            progress.warn(f"{counted(count, 'image')} lost {what} when converted to RGB or gray.")
    for line in log.summary():
        say(line)
    if out is not None:
        say_written(out)
    if explain is not None:
        _write_page(explain, log, stream)
    raise typer.Exit(ExitCode.INCOMPLETE if log.unreadable else ExitCode.OK)


def _write_page(path: Path, log: ScoreLog, stream: ImageStream) -> None:
    from oodbench.data.image_decoder import CorruptImageError
    from oodbench.files import write_atomic
    from oodbench.report.score_page.scored_image_page import render
    from oodbench.user_data.image_files import decoded_file

    def pixels(name: str) -> NDArray[np.uint8] | None:
        try:
            return decoded_file(name, stream.shape, stream.resize)[0]
        except CorruptImageError:
            return None

    write_atomic(path, render(log, pixels))
    say_written(path)


def _progress(out: Path | None) -> Reporter:
    """A reporter on standard error; of warnings alone if the lines appear on the same terminal."""
    if out is not None or not sys.stdout.isatty():
        return reporter()
    from rich.console import Console

    from oodbench.progress import PlainLines

    return PlainLines(Console(stderr=True), every_stage=False)


def _stream(
    fitted: FittedDetector,
    files: Sequence[ImageFile],
    batch_size: int | None,
    workers: int | None,
    report: Callable[[ImageFile, str], None],
) -> ImageStream:
    """The images, prepared as the artifact says.

    Raises:
        UserError: it does not say how.
    """
    from oodbench.user_data.image_files import ImageStream, usual_batch_size

    prepared = fitted.model.preparation
    if prepared is None:
        raise UserError(
            "The artifact does not say how image files are prepared for its model.",
            "Score a Dataset in Python: oodbench.load_fitted(folder, model).predict(dataset).",
        )
    return ImageStream(
        files,
        prepared.shape,
        prepared.resize,
        batch_size=batch_size or usual_batch_size(prepared.shape),
        workers=workers,
        report=report,
    )


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str]]:
    """Standard output or the file.

    Raises:
        UserError: the file cannot be written.
    """
    if out is None:
        yield sys.stdout
        return
    from oodbench.files import make_folder

    make_folder(out.parent)
    try:
        with out.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror or error}.") from error


class _Writer:
    """Writes lines of images.

    Args:
        file: to write to.
        form: of the lines.
        log: what is scored.
    """

    def __init__(self, file: IO[str], form: LineFormat, log: ScoreLog) -> None:
        self._file, self._form, self._log = file, form, log
        self._with_truth = log.known is not None
        self._keys = ("path", "prediction", "score", "decision", *["truth"] * self._with_truth)
        if form is LineFormat.csv:
            self._write([self._keys])

    def add(self, indices: Sequence[int], decisions: Decisions) -> None:
        """Write the lines of a batch."""
        log = self._log
        rows = []
        for place, index in enumerate(indices):
            accepted = "accept" if decisions.accepted[place] else "reject"
            row = (
                log.paths[index],
                log.class_name(int(decisions.predictions[place])),
                float(decisions.scores[place]),
                "" if log.threshold is None else accepted,
            )
            rows.append((*row, log.truth_of(index)) if self._with_truth else row)
        self._write(rows)

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        if self._form is LineFormat.csv:
            csv.writer(text, lineterminator="\n").writerows(rows)
        else:
            for row in rows:
                text.write(json.dumps(dict(zip(self._keys, row, strict=True))) + "\n")
        self._file.write(text.getvalue())
        self._file.flush()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C ends the command after the block, so that all lines are whole."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _score_all(
    fitted: FittedDetector,
    stream: ImageStream,
    writer: _Writer,
    log: ScoreLog,
    progress: Reporter,
) -> None:
    """Score all images, and write the lines of each batch when it is scored."""
    from oodbench.progress import Meter

    progress.stage("scoring")
    meter = Meter(progress.detail, "scoring", stream.size)
    if not len(stream.first()[0]):  # no image can be read: say why
        for _ in stream.batches():
            pass
        return
    done = 0
    for decisions in fitted.stream(stream):
        indices = stream.read[done : done + len(decisions)]
        done += len(decisions)
        with _uninterrupted():
            writer.add(indices, decisions)
            log.add(indices, decisions.scores, decisions.predictions)
        meter.add(len(decisions))
