"""The run directory: what is in it, and how it can be continued after a stop at any moment.

A (method, seed) is *finished* once `records.jsonl` has all its records; its scores and its cost
were written before that. Every file is written whole: what a killed run leaves is a shorter run.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError
from oodbench.files import TEMPORARY_PREFIX, make_folder, write_atomic
from oodbench.records import (
    CostRecord,
    QualityRecord,
    TrainingRecord,
    read_lines,
    to_lines,
)

Key = tuple[str, int]
"""A method's name and a seed."""


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
        return self.folder / "run.json"

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
        try:
            held = [entry.name for entry in self.folder.iterdir()]
        except OSError as error:
            raise UserError(f"Cannot read {self.folder}: {error.strerror}.") from error
        # What a killed run was in the middle of writing does not count.
        if not all(name.startswith(TEMPORARY_PREFIX) for name in held):
            raise UserError(
                f"{self.folder} is not empty and holds no run.",
                "Choose an empty or a new folder with --out.",
            )
        self.clean()

    def clean(self) -> None:
        """Remove what a killed run was in the middle of writing."""
        for leftover in self.folder.rglob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)

    def read_description(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            UserError: if there is none, or it is not readable.
        """
        try:
            description = json.loads(self.description_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder} holds no run: there is no run.json in it.",
                "Give the folder that `oodbench run` printed.",
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read {self.description_path}: {error}.") from error
        if not isinstance(description, dict):
            raise UserError(f"Cannot read {self.description_path}: it is not a description.")
        return description

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        self.write_text("run.json", json.dumps(description, indent=2, allow_nan=False) + "\n")

    def read_records(self) -> tuple[list[QualityRecord], list[CostRecord]]:
        """All records; empty lists if there are none yet."""
        return (
            read_lines(QualityRecord, self.folder / "records.jsonl"),
            read_lines(CostRecord, self.folder / "costs.jsonl"),
        )

    def write_records(self, records: Iterable[QualityRecord], costs: Iterable[CostRecord]) -> None:
        """Write both files, the quality records last: they are what makes work finished."""
        write_atomic(self.folder / "costs.jsonl", to_lines(costs))
        write_atomic(self.folder / "records.jsonl", to_lines(records))

    def read_training(self) -> list[TrainingRecord]:
        """What each epoch ended with, by model and seed; an empty list if there is nothing yet."""
        return read_lines(TrainingRecord, self.folder / "training.jsonl")

    def write_training(self, records: Iterable[TrainingRecord]) -> None:
        """Write the history of the trainings."""
        write_atomic(self.folder / "training.jsonl", to_lines(records))

    def write_scores(self, key: Key, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Write the scores of a method and seed, one array for each data set."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:  # numpy.savez would not take every name
            for name, array in scores.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        write_atomic(self.scores_path(key), content.getvalue())

    def scores_path(self, key: Key) -> Path:
        """`scores/<method>/seed<k>.npz`."""
        method, seed = key
        return self.folder / "scores" / method / f"seed{seed}.npz"

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
