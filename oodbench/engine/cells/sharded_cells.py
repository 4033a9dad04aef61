"""The cells of a run that are scored in shards: which task comes next, and what is kept of them.

A shard is written into the run directory as soon as it is scored, and the fitted detectors are in
the cache, so that a run that was stopped continues at the next shard. Both are removed once the
results of the cell are stored.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.engine.cells.fitted_file import fitted_path, remove_fitted
from oodbench.engine.cells.grid import Cell, CellResult, Grid
from oodbench.engine.cells.shard_evaluator import FittedCell, ScoredShard
from oodbench.engine.cells.shard_file import read_shard, shard_content
from oodbench.engine.cells.shard_tasks import FinishTask, FitTask, ShardTask
from oodbench.engine.executors.executor import Task
from oodbench.engine.recording import provenance
from oodbench.errors import UserError
from oodbench.files import cache_folder, canonical_json, digest, write_atomic
from oodbench.planning.plan import Method
from oodbench.planning.shards import Shard, shards_of
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.same_work import IN_NO_FILE, Work

StepTask = FitTask | ShardTask | FinishTask
StepResult = FittedCell | ScoredShard | CellResult

FOLDER = "shards"
"""Folder in a run directory with the shards of cells that are not finished."""
_TOKEN = "token"
_DIGITS = 24


class ShardedCells:
    """The cells of one run.

    Args:
        grid: what they have in common.
        work: what the results of the run depend on.
        directory: the run directory.
        data: gets the large splits that other processes have read.
    """

    def __init__(self, grid: Grid, work: Work, directory: RunDirectory, data: LoadedSplits) -> None:
        self._grid, self._folder, self._data = grid, directory.folder / FOLDER, data
        self._shards = shards_of(grid.plan)
        self._parts: dict[tuple[str, int], dict[Shard, ScoredShard]] = {}
        classes = IN_NO_FILE in work.detectors.values()  # whose source is not known
        self._identity = [
            *(work.checksum, grid.key if classes else "", grid.device.type),
            list(provenance.versions().items()),
        ]
        self._token = _token(self._folder) or _new_token(self._folder)

    @classmethod
    def of(
        cls, grid: Grid, work: Work, directory: RunDirectory, data: LoadedSplits
    ) -> ShardedCells | None:
        """The cells of a run; None if they are not scored in shards."""
        return None if grid.plan.shard_images is None else cls(grid, work, directory, data)

    def begin(self, cell: Cell) -> FitTask:
        """The first task of a cell."""
        return FitTask(self._grid, cell, self._fitted(cell))

    def after(self, task: Task[StepResult], result: FittedCell | ScoredShard) -> list[StepTask]:
        """The tasks that can begin once a task has ended; shards are stored.

        Raises:
            UserError: if a shard cannot be written.
        """
        assert isinstance(task, StepTask)
        cell, key = task.cell, (task.cell.model, task.cell.seed)
        self._data.add_read(result.read)
        if isinstance(result, FittedCell):
            self._parts[key] = self._kept(cell)
        else:
            assert isinstance(task, ShardTask)
            self._parts[key][task.shard] = result
            self._keep(task, result)
        parts, count = self._parts[key], len(self._shards)
        if len(parts) == count:
            return [FinishTask(task.grid, cell, task.fitted, self._parts.pop(key))]
        if isinstance(result, ScoredShard):
            return []
        return [
            ShardTask(task.grid, cell, task.fitted, shard, number, count)
            for number, shard in enumerate(self._shards, start=1)
            if shard not in parts
        ]

    def forget(self, cell: Cell) -> None:
        """Remove what is kept of a cell whose results are stored."""
        shutil.rmtree(self._place(cell), ignore_errors=True)
        with suppress(OSError):
            (cache_folder() / self._fitted(cell)).unlink()

    def _fitted(self, cell: Cell) -> str:
        """Path in the cache of the file of a fitted cell, which no cell of another run has."""
        return fitted_path(f"{self._token}-{self._name(cell)}")

    # --- shards on disk -------------------------------------------------------------------------

    def _name(self, cell: Cell) -> str:
        """A name that only a cell of equal work has."""
        plan = self._grid.plan
        methods = [_described(each) for each in plan.methods_of(cell.model)]
        about = [*self._identity, cell.model, cell.seed, [*cell.todo], cell.weights, methods]
        return digest(canonical_json(about))[:_DIGITS]

    def _place(self, cell: Cell) -> Path:
        return self._folder / cell.model / f"seed{cell.seed}"

    def _keep(self, task: ShardTask, part: ScoredShard) -> None:
        content = shard_content(task.shard, part)
        name = f"{task.number}-{self._name(task.cell)}-{_checksum(content)}.npz"
        write_atomic(self._place(task.cell) / name, content)

    def _kept(self, cell: Cell) -> dict[Shard, ScoredShard]:
        """The shards of a cell that are stored, unchanged and of the same work; others go."""
        found = {}
        for path in sorted(self._place(cell).glob("*.npz")):
            try:
                _, name, checksum = path.stem.split("-")
                if (name, checksum) == (self._name(cell), _checksum(path.read_bytes())):
                    shard, part = read_shard(path)
                    found[shard] = part
                    continue
            except (OSError, ValueError, TypeError, KeyError, UserError):
                pass
            with suppress(OSError):
                path.unlink()
        for part in found.values():
            self._data.add_read(part.read)
        return {shard: found[shard] for shard in self._shards if shard in found}


def _token(folder: Path) -> str:
    """A text that no other run has, in its folder of shards; "" if there is none."""
    with suppress(OSError, ValueError):
        return (folder / _TOKEN).read_text(encoding="utf-8")
    return ""


def _new_token(folder: Path) -> str:
    token = uuid.uuid4().hex
    write_atomic(folder / _TOKEN, token)
    return token


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _described(method: Method) -> list[Any]:
    """What decides how a method is fitted and tuned, beside the benchmark."""
    settings = {"arguments": method.arguments, "space": method.search_space}
    return [
        *(method.name, method.tuned_on, method.tuning_ood, method.fit_split, method.keeps_out),
        json.dumps(settings, sort_keys=True, default=str),
    ]


def remove_kept(folder: Path, *, everything: bool) -> None:
    """Remove the folder of shards in a run directory, and the fitted cells of the run.

    Args:
        folder: the run directory.
        everything: also if there are shards of cells that are not finished.
    """
    place = folder / FOLDER
    if everything or not any(place.rglob("*.npz")):
        if token := _token(place):
            remove_fitted(token)
        shutil.rmtree(place, ignore_errors=True)
