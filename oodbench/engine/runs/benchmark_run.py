"""The run of a benchmark: results of every model and seed of a plan, into a run directory."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from oodbench.engine.cells.cell_task import CellTask, shared
from oodbench.engine.cells.evaluator import CellEvaluator
from oodbench.engine.cells.grid import Cell, CellResult, Grid
from oodbench.engine.cells.shard_evaluator import FittedCell, ScoredShard
from oodbench.engine.cells.sharded_cells import ShardedCells, StepResult, StepTask, remove_kept
from oodbench.engine.executors.executor import Ended, Executor
from oodbench.engine.recording import planned_work, provenance
from oodbench.engine.recording.duplicate_images import duplicates
from oodbench.engine.recording.first_results import first_results
from oodbench.engine.recording.recorder import Recorder
from oodbench.engine.runs import resuming
from oodbench.engine.runs.run_results import RunResults
from oodbench.engine.runs.stored_scores import add_optional, resample_finished
from oodbench.errors import UserError, counted
from oodbench.planning.plan import Plan
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter, Titled
from oodbench.report import differences
from oodbench.storage.record_lines import to_lines
from oodbench.storage.run_description import RunDescription, RunStatus
from oodbench.storage.run_directory import DIFFERENCES, RunDirectory
from oodbench.storage.same_work import Work
from oodbench.training import distributed
from oodbench.training.trained_models import ModelStore


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run directory.
        complete: whether everything that was asked for is there.
        failures: "method (seed k): reason" of what failed.
    """

    folder: Path
    complete: bool
    failures: tuple[str, ...]


class BenchmarkRun:
    """A run whose cells are computed elsewhere: begin it, take their results, finish it.

    Args:
        plan: models, methods and seeds.
        catalog: gives the detectors.
        folder: the run directory.
        executor: what will compute the cells; gives its numbers of workers and threads here.
        device: where to compute.
        say: progress reporter.
        resume: continue the run in the folder; finished methods are not computed again.
        data_root: folder of data sets that do not come built in.
        title: name of the run among others that are computed with it, for messages; or "".

    Raises:
        UserError: in one of several processes of torchrun, or if the run cannot be resumed.
    """

    def __init__(
        self,
        plan: Plan,
        catalog: Catalog,
        folder: Path,
        executor: Executor[StepResult],
        *,
        device: torch.device,
        say: Reporter,
        resume: bool = False,
        data_root: Path | None = None,
        title: str = "",
    ) -> None:
        if distributed.launched():
            raise UserError(
                "A run is one process; torchrun starts several, which can only train.",
                "Train with `torchrun ... -m oodbench train BENCHMARK`, then run as usual.",
            )
        self.directory = RunDirectory(folder)
        self.plan = plan = resuming.with_held_metrics(plan, self.directory, resume=resume)
        self.catalog, self.device, self.executor = catalog, device, executor
        self.data_root, self.resume, self.title = data_root, resume, title
        self.say = Titled(say, title) if title else say
        self.data = planned_work.data_of(plan, data_root, self.say)
        self.models = ModelStore(plan.benchmark, self.data, device, self.say)
        self.results = RunResults(plan, resuming.Finished())
        self.lost: set[str] = set()

    # --- the run -------------------------------------------------------------------------------

    def begin(self) -> list[CellTask | StepTask]:
        """Open the directory; returns what is to be computed.

        Raises:
            UserError: if the folder holds a run that is not resumed, or the run of other work
                (`storage.same_work`), or data are missing, or a file cannot be written.
        """
        self.say.stage("data")
        self._open()
        self._look_for_duplicates()
        self._write("running")
        self.say.done(f"data: {', '.join(self.plan.datasets)}")
        self.results.warnings |= self.models.check(self.plan.models, self.plan.seeds)
        tasks: list[CellTask | StepTask] = []
        begin = partial(CellTask, self.grid) if self.sharded is None else self.sharded.begin
        for model, seed in ((m, seed) for seed in self.plan.seeds for m in self.plan.models):
            cell = self._cell(model, seed)
            if cell is None:
                self.say.done(f"{model}, seed {seed}: finished before")
            else:
                tasks.append(begin(cell))
        return tasks

    def here(self) -> AbstractContextManager[None]:
        """While it lasts, cells that are computed in this process use the images of this run."""
        return shared(self.grid, self.evaluator)

    def take(self, ended: Ended[StepResult]) -> Sequence[StepTask]:
        """Store the results of a cell, or of a step of it; returns the steps that can begin then.

        Raises:
            UserError: if a file cannot be written.
        """
        task, result = ended.task, ended.result
        assert isinstance(task, CellTask | StepTask)
        if self.sharded is not None and isinstance(result, FittedCell | ScoredShard):
            return self.sharded.after(task, result)
        cell = task.cell
        if isinstance(result, CellResult):
            said = self._store(cell, result)
        elif cell.label in self.lost:  # another shard of it
            return []
        else:
            self.lost.add(cell.label)
            said = self._lose(cell, ended.lost)
        self._write("running")
        self.say.done(said)  # what is said to be done is stored, whatever happens next
        if self.sharded is not None and result is not None:
            self.sharded.forget(cell)
        return []

    def finish(self) -> Outcome:
        """Compare the methods, once all cells are stored.

        Raises:
            UserError: if a file cannot be read or written.
        """
        self._look_for_duplicates()
        for skip in self.plan.skips:
            for seed in self.plan.seeds:
                self.results.records[skip.method, seed] = self.recorder.missing(
                    skip.method, skip.model, skip.detector, seed, "skipped", skip.reason
                )
        self._write("running")  # predictions that finished methods lacked
        add_optional(self.results.records, self.recorder, self.directory, self.say)
        self._compare()
        failures = [
            f"{method} (seed {seed}): {group[0].reason}"
            for (method, seed), group in self.results.in_order()
            if group[0].status == "failed"
        ]
        complete = not failures and not any(skip.asked_for for skip in self.plan.skips)
        self._write("complete" if complete else "incomplete")
        remove_kept(self.directory.folder, everything=complete)
        return Outcome(self.directory.folder, complete, tuple(failures))

    def _cell(self, model: str, seed: int) -> Cell | None:
        """A cell with what is finished of it; None if all is."""
        results, todo = self.results, self.results.lacking(model, seed)
        predicted = (model, seed) in results.predicted
        if not todo and (model, seed) in results.trainings and predicted:
            return None
        return Cell(
            model,
            seed,
            todo,
            weights=results.checkpoints.get(f"{model}/seed{seed}"),
            predictions=self.directory.read_predictions(model, seed) if predicted else None,
            checkpoint=self.models.cached_path(model, seed),
        )

    # --- results of cells ------------------------------------------------------------------------

    def _store(self, cell: Cell, result: CellResult) -> str:
        """Take the results of a cell, and sum them up; `_write` writes them."""
        label, seed = cell.label, cell.seed
        if cell.weights not in (None, result.weights) and self.results.drop_finished(cell):
            self.say.warn(
                f"{cell.model}/seed{seed} has other weights than before: its methods run again."
            )
            # Before the new weights are noted, lest a run that is killed takes the old results
            # for theirs.
            self._write("running")
        self.data.add_read(result.read)
        for where, sign in self.results.take(cell, result, sharing=self.executor.sharing):
            self.say.warn(f"{where}: {sign}")
        if result.accuracy is None:
            return f"{label}: finished before, with the same weights"
        for name, values in result.resampled.items():
            self.recorder.resampled[name, seed] = values
        own = {m.name for m in self.plan.methods if self.catalog.is_plugin(m.detector.name)}
        for line in first_results(result.records, own):
            self.say.result(f"{label}: {line}")
        accuracy = f"test accuracy {100 * result.accuracy:.1f} %"
        count = counted(len(result.records), "method")
        return f"{label}: {result.source}, {accuracy}, {count}"

    def _lose(self, cell: Cell, reason: str) -> str:
        """Note that the methods of a cell failed with its worker, and sum it up."""
        for method in self.plan.methods_of(cell.model):
            if method.name in cell.todo:
                records = self.recorder.missing_of(method, cell.seed, "failed", reason)
                self.results.records[method.name, cell.seed] = records
        return f"{cell.label}: FAILED: {reason}"

    def _compare(self) -> None:
        """Compare every method with the best ones, including the methods finished before."""
        records = [record for _, group in self.results.in_order() for record in group]
        if differences.belong(self.results.differences, records):
            return
        try:
            resample_finished(records, self.recorder, self.directory)
        except UserError as error:
            self.say.warn(f"{error.message} Without them, ties are not shown.")
            return
        found = differences.differences_to_best(records, self.recorder.resampled.__getitem__)
        self.results.unwritten[DIFFERENCES] = to_lines(found).encode()

    def _look_for_duplicates(self) -> None:
        """Count the images that are duplicates, of what has been read so far."""
        self.results.duplicates |= duplicates(self.plan, self.data, self.results.warnings, self.say)

    # --- the run directory ---------------------------------------------------------------------

    @cached_property
    def work(self) -> Work:
        """What the results of this run depend on."""
        return planned_work.work_of(self.plan, self.catalog, self.data)

    @cached_property
    def grid(self) -> Grid:
        """What the cells have in common."""
        return Grid(
            uuid.uuid4().hex,
            self.plan,
            (*self.catalog.plugins, *self.catalog.classes),
            self.device,
            self.data_root,
            self.work.run_id,
            self.work.checksum,
            self.title,
        )

    @cached_property
    def sharded(self) -> ShardedCells | None:
        """The cells, if they are scored in shards."""
        return ShardedCells.of(self.grid, self.work, self.directory, self.data)

    @cached_property
    def evaluator(self) -> CellEvaluator:
        """Evaluates the cells that this process computes."""
        return CellEvaluator(self.grid, self.catalog, self.data, self.models, self.say)

    @property
    def recorder(self) -> Recorder:
        """Makes this run's records."""
        return self.evaluator.recorder

    def _open(self) -> None:
        """Create the directory, or keep what is finished in it."""
        found = resuming.open_directory(
            self.directory, self.plan, lambda: self.work, self.say, resume=self.resume
        )
        self.results, held = RunResults(self.plan, found), found.description
        threads, now = held.environment.threads, self.executor.threads
        if held.run_id and threads != now:
            self.say.warn(
                f"{self.directory.folder} was begun with {counted(threads or 0, 'thread')} and "
                f"continues with {now}: new results may differ in the last digits."
            )

    def _write(self, status: RunStatus) -> None:
        """Write the description and all results."""
        self.directory.write(self._description(status), self.results.files())
        self.results.unwritten.clear()

    def _description(self, status: RunStatus) -> RunDescription:
        before = self.results.before
        pixels = provenance.merged(before.checksums.pixels, self.data.pixels())
        checksums = {
            "checkpoints": dict(sorted(self.results.checkpoints.items())),
            "pixels": pixels,
        }
        return self.described.model_copy(
            update={
                **provenance.published(self.plan, self.models, self.data_root, before, status),
                **self.results.described(),
                "status": status,
                "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "checksums": self.described.checksums.model_copy(update=checksums),
            }
        )

    @cached_property
    def described(self) -> RunDescription:
        """The description without what changes during the run."""
        return provenance.description(
            self.plan,
            self.work,
            self.catalog,
            provenance.environment(self.device, self.executor.threads, self.executor.workers),
            self.data_root,
            self.results.before,
        )
