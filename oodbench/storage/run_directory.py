"""The run directory: what is in it, and how it can be continued after a stop at any moment.

A (method, seed) is *finished* once `records.jsonl` has all its records; its scores and its cost
were written before that. Every file is written whole: what a killed run leaves is a shorter run.

`run.json` has the SHA-256 of every file with results (`files`), so that a byte that was changed
afterwards is found. Before files are replaced it also has the digests that they are about to get
(`writing`): whenever a run is killed, each file is what one of the two says.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError
from oodbench.files import TEMPORARY_PREFIX, make_folder, write_atomic
from oodbench.storage.holding import check_vacant
from oodbench.storage.records import (
    CostRecord,
    DifferenceRecord,
    QualityRecord,
    TrainingRecord,
    read_lines,
)
from oodbench.storage.run_description import NAME, RunDescription

Key = tuple[str, int]
"""A method's name and a seed."""

RECORDS, COSTS, TRAINING = "records.jsonl", "costs.jsonl", "training.jsonl"
DIFFERENCES = "differences.jsonl"


class RunDirectory:
    """Reads and writes one run directory.

    Args:
        folder: where it is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def description_path(self) -> Path:
        """The file that makes a folder a run directory."""
        return self.folder / NAME

    def exists(self) -> bool:
        """Whether there is a run in the folder."""
        try:
            return self.description_path.exists()
        except OSError:
            return False  # what cannot be looked into cannot be written either: `create` says so

    def create(self) -> None:
        """Make the folder of a new run.

        Raises:
            UserError: if it cannot be written, or holds something.
        """
        make_folder(self.folder)
        check_vacant(self.folder)
        self.clean()

    def clean(self) -> None:
        """Remove what a killed run was in the middle of writing."""
        for leftover in self.folder.rglob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)

    def read_description(self) -> RunDescription:
        """The contents of `run.json`.

        Raises:
            UserError: if there is none, or it is not readable.
        """
        try:
            return RunDescription.read(self.description_path)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder} holds no run: there is no {NAME} in it.",
                "Give the folder that `oodbench run` printed.",
            ) from error

    def write(self, description: RunDescription, contents: Mapping[str, bytes | str]) -> None:
        """Write files, in the order given, and then `run.json` with their digests.

        Args:
            description: of the run; `files` and `writing` are set here.
            contents: by names relative to the folder. Quality records come last: they are what
                makes work finished.
        """
        before = self.read_description() if self.exists() else description
        # A run may have been killed when it had written some of what it was about to write.
        files = before.files | {
            name: expected
            for name, expected in before.writing.items()
            if self._digest(name) == expected
        }
        new = {name: _sha256(content) for name, content in contents.items()}
        writing = {name: each for name, each in new.items() if files.get(name) != each}
        if writing:
            before = before.model_copy(update={"files": files, "writing": writing})
            before.write(self.description_path)
        for name, content in contents.items():
            if self._digest(name) != new[name]:
                write_atomic(self.folder / name, content)
        done = description.model_copy(update={"files": files | new, "writing": {}})
        done.write(self.description_path)

    def changed(self) -> tuple[str, ...]:
        """Files with results that are not what the run wrote, or are not there any more.

        Also right while another process writes into the directory. Empty for runs of versions that
        recorded no digests.

        Raises:
            UserError: if there is no run, or a file cannot be read.
        """
        while True:
            description = self.read_description()
            files, writing = description.files, description.writing
            found = [
                name
                for name in {**files, **writing}
                # What a killed run was about to write is there, or what was there before.
                if self._digest(name) not in {files.get(name), writing.get(name, files.get(name))}
            ]
            # Digests are written before the files: with the same description, nobody has written.
            if not found or self.read_description() == description:
                return tuple(found)

    def _digest(self, name: str) -> str | None:
        """SHA-256 of a file; None if it is not there."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error

    def read_records(self) -> tuple[list[QualityRecord], list[CostRecord]]:
        """All records; empty lists if there are none yet."""
        return (
            read_lines(QualityRecord, self.folder / RECORDS),
            read_lines(CostRecord, self.folder / COSTS),
        )

    def read_training(self) -> list[TrainingRecord]:
        """What each epoch ended with, by model and seed; an empty list if there is nothing yet."""
        return read_lines(TrainingRecord, self.folder / TRAINING)

    def read_differences(self) -> list[DifferenceRecord]:
        """How far the best method of each column is ahead; an empty list if nothing is there."""
        return read_lines(DifferenceRecord, self.folder / DIFFERENCES)

    def scores_path(self, key: Key) -> Path:
        """The file with the scores of a method and seed."""
        return self.folder / scores_name(key)

    def read_scores(self, key: Key) -> dict[str, NDArray[np.float64]]:
        """Scores by data set; "id" are those of the ID test images.

        Raises:
            UserError: if they are not there or not readable.
        """
        path = self.scores_path(key)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"Cannot read the scores in {path}: {error}.") from error

    def has_scores(self, key: Key, names: Iterable[str]) -> bool:
        """Whether readable scores of these data sets are stored."""
        try:
            return set(names) <= self.read_scores(key).keys()
        except UserError:
            return False

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the run."""
        write_atomic(self.folder / name, content)


def scores_name(key: Key) -> str:
    """`scores/<method>/seed<k>.npz`."""
    method, seed = key
    return f"scores/{method}/seed{seed}.npz"


def scores_content(scores: Mapping[str, NDArray[np.float64]]) -> bytes:
    """The file with the scores of a method and seed: one array for each data set."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # numpy.savez would not take every name
        for name, array in scores.items():
            # A fixed date: equal scores are equal bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return content.getvalue()


def _sha256(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()
