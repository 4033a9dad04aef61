"""What carries out the plans of a run or of a suite, and writes their reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.errors import UserError
from oodbench.planning.executor_options import ExecutorOptions
from oodbench.planning.plan import Plan
from oodbench.planning.shards import tasks_at_once
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter, Silent
from oodbench.results import Run
from oodbench.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from oodbench.engine.cells.sharded_cells import StepResult
    from oodbench.engine.executors.executor import Executor, MakeExecutor
    from oodbench.engine.runs.benchmark_run import BenchmarkRun, Outcome


class Execution:
    """Carries out plans.

    Args:
        catalog: gives the detectors.
        device: name of the device.
        options: choose the executor.
        resume: continue runs that were begun.
        data_root: folder of data sets that do not come built in.
        progress: progress reporter; None: silent.

    Raises:
        UserError: if there is no such device or folder, or the executor cannot be used.
    """

    def __init__(
        self,
        catalog: Catalog,
        device: str,
        options: ExecutorOptions,
        *,
        resume: bool,
        data_root: str | Path | None,
        progress: Reporter | None,
    ) -> None:
        from oodbench.engine.device import find_device

        if data_root is not None and not Path(data_root).is_dir():
            raise UserError(
                f"data_root: {data_root} is not a folder.", "Give the folder that the data lies in."
            )
        self._catalog, self._options, self._resume = catalog, options, resume
        self._root = None if data_root is None else Path(data_root)
        self._device, self._say = find_device(device), progress or Silent()
        self._executor(options.workers_for(1))  # errors come before any work

    def _executor(self, workers: int | None) -> MakeExecutor[Any]:
        from oodbench.engine.executors.executor_choice import executor_of

        return executor_of(
            self._options, workers=workers, device=self._device, classes=self._catalog.classes
        )

    def executor_for(self, *plans: Plan) -> MakeExecutor[Any]:
        """What makes the executor of some plans.

        It has no more workers than tasks: each has a larger share, and its times are its own.
        """
        return self._executor(self._options.workers_for(sum(map(tasks_at_once, plans))))

    def prepare(
        self, plan: Plan, folder: Path, executor: Executor[StepResult], title: str
    ) -> BenchmarkRun:
        """The run of a plan into a folder; as `grid_run.Prepare`.

        Raises:
            UserError: if it cannot be resumed.
        """
        from oodbench.engine.runs.benchmark_run import BenchmarkRun

        return BenchmarkRun(
            plan,
            self._catalog,
            folder,
            executor,
            device=self._device,
            say=self._say,
            resume=self._resume,
            data_root=self._root,
            title=title,
        )

    def run(self, plan: Plan, folder: Path) -> Run:
        """Run a plan into a folder and write its reports.

        Raises:
            UserError: as `grid_run.run_one`.
        """
        from oodbench.engine.runs.grid_run import run_one

        return self.report(run_one(plan, folder, self.prepare, self.executor_for(plan), self._say))

    def report(self, outcome: Outcome) -> Run:
        """Write the reports of a run that has ended."""
        from oodbench.report.figures import gallery
        from oodbench.report.writers.run_files import write_reports

        done = Run(outcome.folder, outcome.complete, outcome.failures)
        write_reports(done.leaderboard(), RunDirectory(outcome.folder))
        # Drawing takes seconds, which only matters where training takes as long.
        if any(record.test_accuracy is not None for record in done.training):
            gallery.save_all(done.figures(), outcome.folder / "figures")
        return done
