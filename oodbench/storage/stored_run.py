"""A run as it is stored: a whole run directory, or a committed leaderboard of records alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError
from oodbench.storage.records import CostRecord, QualityRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import RECORDS, RunDirectory, require_folder


@dataclass(frozen=True)
class StoredRun:
    """Records, costs and, where they are kept, description and scores of a run.

    Attributes:
        folder: where the files are.
        records: quality records.
        costs: cost records; may be empty.
        description: contents of `run.json`; None for a folder of records alone.
        changed: files that no longer have the digests in `run.json`; files that are not there are
            left out: a committed leaderboard may have no scores.
    """

    folder: Path
    records: tuple[QualityRecord, ...]
    costs: tuple[CostRecord, ...]
    description: RunDescription | None
    changed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def has_scores(self, method: str, seed: int) -> bool:
        """Whether there is a file with the scores of a method and seed."""
        return RunDirectory(self.folder).scores_path((method, seed)).exists()

    def scores(self, method: str, seed: int) -> dict[str, NDArray[np.float64]] | None:
        """Scores of a method and seed: data set -> array [N], "id" for the ID set.

        None if they are not stored.

        Raises:
            UserError: if the file is there and cannot be read.
        """
        if not self.has_scores(method, seed):
            return None
        return RunDirectory(self.folder).read_scores((method, seed))

    def validation(self, method: str, seed: int) -> dict[str, NDArray[np.float64]]:
        """Scores of ID validation images (`RunDirectory.read_validation`), of stored scores."""
        return RunDirectory(self.folder).read_validation((method, seed))


def read_stored_run(path: Path) -> StoredRun:
    """Read a run directory, a folder that holds `records.jsonl`, or such a file.

    Raises:
        UserError: if there is nothing of a run, or a file cannot be read.
    """
    folder = path.parent if path.name == RECORDS else path
    directory = RunDirectory(folder)
    require_folder(folder)
    if not directory.exists() and not (folder / RECORDS).is_file():
        raise UserError(
            f"{path} holds no run: there is neither a run.json nor a {RECORDS} in it.",
            "Give the folder that `oodbench run` printed, or a folder with its records.",
        )
    records, costs = directory.read_records()
    if not records:
        raise UserError(f"{folder / RECORDS} has no records: nothing of this run is finished.")
    described = directory.exists()
    changed = directory.changed() if described else ()
    return StoredRun(
        folder=folder,
        records=tuple(records),
        costs=tuple(costs),
        description=directory.read_description() if described else None,
        changed=tuple(name for name in changed if (folder / name).exists()),
    )
