"""The run directory: its files, and why a run that was killed at any moment can be resumed.

A method and seed is *finished* once `records.jsonl` has all its records; its scores, its cost and
the predictions of its model are written before. Every file is written whole, so a killed run leaves
a shorter run.

`run.json` has the SHA-256 of every file with results (`files`), to find later changes. Before files
are replaced, it also gets their new digests (`writing`), and what it says of the new results: if
the run is killed then, each file matches one of the two, and no note of a finished method is lost.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError
from oodbench.files import make_folder, remove_unfinished, write_atomic
from oodbench.storage.description import is_sealed
from oodbench.storage.locks import check_vacant
from oodbench.storage.predictions import Predictions, as_arrays, of_arrays, predictions_name
from oodbench.storage.record_lines import read_lines
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_description import NAME, RunDescription

Key = tuple[str, int]
"""A method's name and a seed."""

RECORDS, COSTS, TRAINING = "records.jsonl", "costs.jsonl", "training.jsonl"
DIFFERENCES = "differences.jsonl"

_VALIDATION = "validation@"
"""Before the key of scores of ID validation images: "id", or an OOD set for its own detector."""

_one_reader = threading.Lock()
"""NumPy parses headers with `ast`, which in CPython 3.11 may fail while another thread parses ("AST
constructor recursion depth mismatch")."""


def require_folder(folder: Path) -> None:
    """Check that there is something at a path.

    Raises:
        UserError: if there is nothing; the hint has the folders beside it with nearest names.
    """
    if folder.exists():
        return
    beside = [each.name for each in folder.parent.glob("*") if each.is_dir()]
    near = difflib.get_close_matches(folder.name, beside, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(str(folder.parent / name) for name in near)}?"
    raise UserError(
        f"There is no folder {folder}.",
        hint if near else "Give the folder that `oodbench run` printed.",
    )


class RunDirectory:
    """Reads and writes one run directory.

    Args:
        folder: the directory; need not exist.
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
            return False  # a folder that cannot be read cannot be written either: see `create`

    def create(self) -> None:
        """Make the folder of a new run.

        Raises:
            UserError: if it cannot be written, or is not empty.
        """
        make_folder(self.folder)
        check_vacant(self.folder)
        self.clean()

    def clean(self) -> None:
        """Remove files that a killed run has not written to their end."""
        remove_unfinished(self.folder)

    def read_description(self) -> RunDescription:
        """The contents of `run.json`.

        Raises:
            UserError: if there is none, or it is not readable.
        """
        try:
            return RunDescription.read(self.description_path)
        except FileNotFoundError as error:
            require_folder(self.folder)
            raise UserError(
                f"{self.folder} holds no run: there is no {NAME} in it.",
                "Give the folder that `oodbench run` printed.",
            ) from error

    def write(self, description: RunDescription, contents: Mapping[str, bytes | str]) -> None:
        """Write files, in the order given, and then `run.json` with their digests.

        Args:
            description: description of the run; `files` and `writing` are set here.
            contents: name relative to the folder -> content. Quality records come last, because
                they mark a method as finished.
        """
        before = self.read_description() if self.exists() else description
        # A run may have been killed after it had written some of these files.
        files = before.files | {
            name: expected
            for name, expected in before.writing.items()
            if self._digest(name) == expected
        }
        new = {name: _sha256(content) for name, content in contents.items()}
        writing = {name: each for name, each in new.items() if files.get(name) != each}
        if writing:
            # Notes, warnings and checksums come before the results that they belong to: records
            # mark these as finished, and a run that is resumed does not find them again.
            begun: dict[str, Any] = {"status": before.status, "records": before.records}
            begun |= {"files": files, "writing": writing}
            description.model_copy(update=begun).write(self.description_path)
        for name, content in contents.items():
            if self._digest(name) != new[name]:
                write_atomic(self.folder / name, content)
        done = description.model_copy(
            update={"files": dict(sorted((files | new).items())), "writing": {}}
        )
        done.write(self.description_path)

    def changed(self) -> tuple[str, ...]:
        """Files with results, and `run.json`, that were changed or removed after the run.

        Correct also while another process writes into the directory. Empty for runs of versions
        that recorded no digests.

        Raises:
            UserError: if there is no run, or a file cannot be read.
        """
        while True:
            description = self.read_description()
            files, writing = description.files, description.writing
            found = [
                name
                for name in {**files, **writing}
                # A killed run has written the new file, or has left the old one.
                if self._digest(name) not in {files.get(name), writing.get(name, files.get(name))}
            ]
            # Digests are written before the files: the same description, so no file was written.
            if not found or self.read_description() == description:
                mine = [] if is_sealed(self.description_path) is not False else [NAME]
                return (*mine, *found)

    def unwritten(self) -> frozenset[str]:
        """Files that a killed run was about to write, and that are as before."""
        writing = self.read_description().writing
        return frozenset(name for name, each in writing.items() if self._digest(name) != each)

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
        """A record of each epoch of each model and seed; an empty list if there are none yet."""
        return read_lines(TrainingRecord, self.folder / TRAINING)

    def read_differences(self) -> list[DifferenceRecord]:
        """Lead of the best method of each column; an empty list if there is no file."""
        return read_lines(DifferenceRecord, self.folder / DIFFERENCES)

    def read_predictions(self, model: str, seed: int) -> dict[str, Predictions] | None:
        """Predictions of a model and seed: "id" and csID sets; None if older versions stored none.

        Raises:
            UserError: if the file is not readable.
        """
        path = self.folder / predictions_name(model, seed)
        if not path.exists():
            return None
        return of_arrays(read_arrays(path, "predictions"), str(path))

    def scores_path(self, key: Key) -> Path:
        """The file with the scores of a method and seed."""
        return self.folder / scores_name(key)

    def read_scores(self, key: Key) -> dict[str, NDArray[np.float64]]:
        """Scores of a method and seed: data set -> array [N], "id" for the ID test set.

        Raises:
            UserError: if the file is missing or not readable.
        """
        arrays = read_arrays(self.scores_path(key), "scores")
        return {name: each for name, each in arrays.items() if not name.startswith(_VALIDATION)}

    def read_validation(self, key: Key) -> dict[str, NDArray[np.float64]]:
        """Scores of ID validation images of a method and seed: "id" -> array [N].

        For a method that is tuned on each OOD set: OOD set -> array. Empty if none are stored.

        Raises:
            UserError: if the file is missing or not readable.
        """
        arrays = read_arrays(self.scores_path(key), "scores")
        return {
            name.removeprefix(_VALIDATION): each
            for name, each in arrays.items()
            if name.startswith(_VALIDATION)
        }

    def has_scores(self, key: Key, names: Iterable[str]) -> bool:
        """Whether readable scores of these data sets are stored."""
        try:
            return set(names) <= self.read_scores(key).keys()
        except UserError:
            return False

    def has_validation(self, key: Key) -> bool:
        """Whether readable scores of ID validation images are stored."""
        try:
            return bool(self.read_validation(key))
        except UserError:
            return False

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the run."""
        write_atomic(self.folder / name, content)


def scores_name(key: Key) -> str:
    """`scores/<method>/seed<k>.npz`."""
    method, seed = key
    return f"scores/{method}/seed{seed}.npz"


def scores_content(
    scores: Mapping[str, NDArray[np.float64]], validation: Mapping[str, NDArray[np.float64]]
) -> bytes:
    """The file of a method's scores of test images and, if there are any, of validation images."""
    return arrays_content({**scores, **{validation_name(n): v for n, v in validation.items()}})


def validation_name(key: str) -> str:
    """Name of the array with scores of ID validation images: `validation@id`."""
    return _VALIDATION + key


def predictions_file(
    model: str, seed: int, predictions: Mapping[str, Predictions]
) -> dict[str, bytes]:
    """Name and content of the file of a model's predictions."""
    return {predictions_name(model, seed): arrays_content(as_arrays(predictions))}


def read_arrays(path: Path, what: str) -> dict[str, Any]:
    """The arrays of a file; UserError if it is missing or not readable."""
    try:
        with _one_reader, np.load(path, allow_pickle=False) as arrays:
            members = arrays.zip.infolist()
            # They are stored as they are; compressed ones might fill the memory.
            if sum(each.file_size for each in members) > path.stat().st_size:
                raise ValueError("its arrays are larger than the file")
            found = {name: arrays[name] for name in arrays.files}
            for name, array in found.items():
                if not isinstance(array, np.ndarray):  # bytes that do not begin as an array
                    raise ValueError(f"'{name}' is no array")
            return found
    except Exception as error:  # numpy, zipfile and zlib raise many types for damaged files
        raise UserError(f"Cannot read the {what} in {path}: {error}.") from error


def arrays_content(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A file of arrays: the scores of a method, or the predictions of a model, and seed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # numpy.savez would not take every name
        for name, array in arrays.items():
            # A fixed date: equal scores are equal bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return content.getvalue()


def _sha256(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()
