"""The run of a suite: the cells of its benchmarks, the comparison written after each benchmark."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.data.store.download import OfflineError
from oodbench.errors import UserError
from oodbench.planning.plan import Plan
from oodbench.planning.suite_plan import Suite
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.report.writers.suite_files import write_reports
from oodbench.specs import DatasetSpec
from oodbench.storage.locks import held
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.suite_description import MemberStatus, SuiteDescription
from oodbench.storage.suite_directory import SuiteDirectory

if TYPE_CHECKING:
    from oodbench.engine.cells.sharded_cells import StepResult
    from oodbench.engine.executors.executor import Ended, Executor, MakeExecutor, Task
    from oodbench.engine.runs.benchmark_run import BenchmarkRun, Outcome
    from oodbench.engine.runs.grid_run import Prepare

log = logging.getLogger(__name__)


def run_members(
    suite: Suite,
    plans: Mapping[str, Plan],
    catalog: Catalog,
    directory: SuiteDirectory,
    prepare: Prepare,
    report: Callable[[Outcome], object],
    executor: MakeExecutor[StepResult],
    *,
    resume: bool,
    request: Mapping[str, Any],
    say: Callable[[str], None],
    progress: Reporter,
    data_root: Path | None = None,
) -> SuiteDescription:
    """Run every benchmark of a suite that is not finished.

    All data sets are fetched first. A benchmark does not run if one of its data sets is missing. If
    a benchmark fails, the error is recorded as its reason and the others still run. The cells of
    all benchmarks are one grid (`grid_run.run_together`). After each benchmark, `suite.json`, the
    comparison and the figures are written, so that an interrupted suite can be resumed.

    Args:
        suite: the suite.
        plans: the plan of each benchmark, by its name in the suite.
        catalog: gives the files of the detectors.
        directory: directory of the suite.
        prepare: makes the run of a plan, or resumes it.
        report: writes the reports of a run that has ended.
        executor: makes what computes the cells of all benchmarks.
        resume: continue the run in the directory.
        request: the arguments of the run, for the description.
        say: called with a line before and after each benchmark.
        progress: progress reporter of fetching the data sets, and of all cells.
        data_root: folder of data sets that do not come built in.

    Returns:
        The status of each benchmark.

    Raises:
        UserError: if the directory cannot be used, or no benchmark has its data sets.
    """
    from oodbench.engine.runs.grid_run import run_together, stages

    state = directory.open(
        SuiteDescription.of(suite.spec, suite.published, dict(request)), resume=resume
    )
    absent = _absent(plans.values(), data_root, progress)
    for name, error in absent.items():
        reason = _one_line(error.message).replace(f"data set '{name}' needs", "it needs", 1)
        reason = reason.removeprefix(f"data set '{name}'").lstrip(":, ")
        say(f"data set '{name}' is missing: {reason}")
    if not state.written and all(_lacking(plan, absent) for plan in plans.values()):
        unreached = any(isinstance(error, OfflineError) for error in absent.values())
        raise (OfflineError if unreached else UserError)(
            f"No benchmark of suite '{suite.spec.name}' can be run: data sets are missing: "
            f"{', '.join(absent)}.",
            _hint(absent, plans.values()),
        )
    directory.write(state, "running")
    suite_state = _State(directory, state)
    count, members = len(suite.members), []
    for number, (member, benchmark) in enumerate(suite.members.items(), start=1):
        label = f"[{number}/{count}] {benchmark.name}"
        plan, folder = plans[benchmark.name], directory.folder / suite.spec.member_name(member)
        if state.status_of(member) == "complete" and _is_done(plan, catalog, folder, data_root):
            say(f"{label}: finished before")
        elif lacking := _lacking(plan, absent):
            reason = f"data sets are missing: {', '.join(lacking)}"
            say(f"{label}: not run, {reason}")
            suite_state.enter(member, "failed", reason)
        else:
            members.append(_Member(member, label, plan, folder, prepare, report, suite_state, say))
    if members:
        with ExitStack() as ends:
            for each in members:
                ends.enter_context(each.open)
            computing = ends.enter_context(executor(progress))
            ends.enter_context(progress.work(sum(stages(each.plan) for each in members)))
            run_together(members, computing, progress)
    state = suite_state.held
    directory.write(state, "complete" if state.complete else "incomplete")
    write_reports(directory)
    return state


class _State:
    """The description of a suite that runs.

    Args:
        directory: of the suite.
        held: its description.
    """

    def __init__(self, directory: SuiteDirectory, held: SuiteDescription) -> None:
        self._directory, self.held = directory, held

    def enter(self, member: str, status: MemberStatus, reason: str | None) -> None:
        """Enter how a benchmark ended, and write the reports."""
        self.held = self.held.with_member(member, status, reason)
        self._directory.write(self.held, "running")
        write_reports(self._directory)


@dataclass(eq=False, slots=True)
class _Member:
    """A benchmark of a suite; a `grid_run.Member`."""

    name: str
    label: str
    plan: Plan
    folder: Path
    prepare: Prepare
    report: Callable[[Outcome], object]
    state: _State
    say: Callable[[str], None]
    run: BenchmarkRun | None = None
    open: ExitStack = field(default_factory=ExitStack)

    def begin(self, executor: Executor[StepResult]) -> Sequence[Task[StepResult]]:
        """Lock the run directory, and prepare the run.

        Raises:
            UserError: if the run cannot be begun.
        """
        self.say(self.label)
        self.open.enter_context(held(self.folder))
        self.run = self.prepare(self.plan, self.folder, executor, self.folder.name)
        tasks = self.run.begin()
        self.open.enter_context(self.run.here())
        return tasks

    def take(self, ended: Ended[StepResult]) -> Sequence[Task[StepResult]]:
        """Store a result; returns what can be computed now.

        Raises:
            UserError: if a file cannot be written.
        """
        assert self.run is not None
        return self.run.take(ended)

    def end(self, error: Exception | None) -> None:
        """Finish the run and enter how it ended; the other benchmarks still run.

        Raises:
            UserError: if the files of the suite cannot be written.
        """
        with self.open:
            try:
                if error is not None:
                    raise error
                assert self.run is not None
                outcome = self.run.finish()
                self.report(outcome)
            except Exception as found:
                reason = _one_line(str(found) or type(found).__name__)
                if not isinstance(found, UserError):
                    reason = f"{type(found).__name__}: {reason}"
                log.debug("%s failed", self.plan.benchmark.name, exc_info=found)
                self.say(f"{self.label}: failed: {reason}")
                self.state.enter(self.name, "failed", reason)
                return
            finally:
                self.run = None  # its images are not needed any more
        if outcome.complete:
            self.state.enter(self.name, "complete", None)
            return
        skipped = [f"{skip.method}: {skip.reason}" for skip in self.plan.skips if skip.asked_for]
        missing = [*outcome.failures, *skipped]
        for each in missing:
            self.say(f"{self.label}: missing: {each}")
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        self.state.enter(self.name, "incomplete", _one_line(missing[0]) + more)


def _lacking(plan: Plan, absent: Collection[str]) -> list[str]:
    """The data sets of a plan that are missing, by the names of their manifests."""
    return [spec.name for spec in plan.datasets.values() if spec.name in absent]


def _specs(plans: Iterable[Plan]) -> dict[str, DatasetSpec]:
    """All manifests by their names; two benchmarks may give one name to two manifests."""
    return {spec.name: spec for plan in plans for spec in plan.datasets.values()}


def _hint(absent: Mapping[str, UserError], plans: Iterable[Plan]) -> str:
    """How to get data sets that are missing."""
    specs = _specs(plans)
    published = [name for name in absent if specs[name].published]
    first = next(iter(absent.values())).hint
    if len(published) < 2:
        return first
    return f"{first} All that are published: `oodbench data fetch {' '.join(published)}`."


def _absent(
    plans: Iterable[Plan], data_root: Path | None, progress: Reporter
) -> dict[str, UserError]:
    """Fetch and decode every data set of some plans; the errors of those that are missing."""
    from oodbench.data.store.locations import root_folder
    from oodbench.data.store.stored_dataset import StoredDataset

    stored = [spec for spec in _specs(plans).values() if spec.kind != "builtin"]
    absent = {}
    with progress.work(len(stored)):
        for spec in stored:
            progress.stage(f"data set {spec.name}")
            try:
                StoredDataset(spec, root_folder(data_root), progress).prepare()
                progress.done(f"data set {spec.name}: ready")
            except UserError as error:
                absent[spec.name] = error
                progress.done(f"data set {spec.name}: missing")
    return absent


def _is_done(plan: Plan, catalog: Catalog, folder: Path, data_root: Path | None) -> bool:
    """Whether a run directory holds all that a plan asks for, of the same work."""
    from oodbench.data.loaded_splits import LoadedSplits
    from oodbench.engine.recording.planned_work import work_of
    from oodbench.storage.same_work import is_done

    try:
        store = LoadedSplits(plan.datasets, data_root, most=plan.benchmark.most_images)
        work = work_of(plan, catalog, store)
    except UserError:
        return False  # running the benchmark reports it
    names = [method.name for method in plan.methods]
    return is_done(RunDirectory(folder), work, names, plan.seeds)


def _one_line(text: str) -> str:
    return " ".join(text.split())
