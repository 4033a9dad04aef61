"""Runs computed by an executor: one alone, or several whose cells are one grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from oodbench.engine.cells.sharded_cells import StepResult
from oodbench.engine.executors.executor import Ended, Executor, MakeExecutor, Task
from oodbench.engine.runs.benchmark_run import BenchmarkRun, Outcome
from oodbench.planning.plan import Plan
from oodbench.progress import Reporter

Prepare = Callable[[Plan, Path, Executor[StepResult], str], BenchmarkRun]
"""Makes the run of a plan into a folder, for an executor, with a title."""


def stages(plan: Plan) -> int:
    """How many stages of a run are reported as done: its data, and each model and seed."""
    return len(plan.models) * len(plan.seeds) + 1


def run_one(
    plan: Plan, folder: Path, prepare: Prepare, executor: MakeExecutor[StepResult], say: Reporter
) -> Outcome:
    """Run a plan. An error of a cell ends it, and cancels the others.

    Args:
        plan: models, methods and seeds.
        folder: the run directory.
        prepare: makes the run.
        executor: makes what computes the cells; this process alone writes the results.
        say: progress reporter.

    Raises:
        UserError: as the methods of `BenchmarkRun`, or as a cell.
    """
    with executor(say) as computing:
        one = prepare(plan, folder, computing, "")
        with say.work(stages(plan)):
            tasks = one.begin()
            with one.here():
                for task in tasks:
                    computing.submit(task)
                for ended in computing.ended():
                    if ended.error is not None:
                        raise ended.error
                    for task in reversed(one.take(ended)):
                        computing.submit(task, first=True)
        return one.finish()


class Member(Protocol):
    """One of several runs."""

    def begin(self, executor: Executor[StepResult]) -> Sequence[Task[StepResult]]:
        """Prepare it; returns what is to be computed.

        Raises:
            Exception: if it cannot be run.
        """
        ...

    def take(self, ended: Ended[StepResult]) -> Sequence[Task[StepResult]]:
        """Store a result; returns what can be computed now, before what waits.

        Raises:
            Exception: if it cannot be stored.
        """
        ...

    def end(self, error: Exception | None) -> None:
        """All its tasks have ended; finish it, unless there was an error."""
        ...


@dataclass(eq=False, slots=True)
class _Begun:
    """A member, its tasks that have not ended, and its first error."""

    member: Member
    left: dict[int, Task[Any]] = field(default_factory=dict)
    error: Exception | None = None


def run_together(members: Iterable[Member], executor: Executor[StepResult], say: Reporter) -> None:
    """Run several runs as one grid.

    They begin in their order, each as soon as fewer tasks than workers are left: until then its
    data are not read. An error ends the run that it belongs to: its waiting tasks are dropped,
    those that are being computed are stored, none follows them, and the other runs go on.

    Args:
        members: the runs.
        executor: what computes the cells.
        say: progress reporter.
    """
    waiting = iter(members)
    owners: dict[int, _Begun] = {}

    def start(begun: _Begun, task: Task[Any], *, first: bool = False) -> None:
        begun.left[id(task)] = task
        owners[id(task)] = begun
        executor.submit(task, first=first)

    def fail(begun: _Begun, error: Exception) -> None:
        begun.error = begun.error or error
        for task in executor.withdraw([*begun.left.values()]):
            del begun.left[id(task)], owners[id(task)]

    def begin_more() -> None:
        while len(owners) < executor.workers and (member := next(waiting, None)) is not None:
            begun = _Begun(member)
            try:
                for task in member.begin(executor):
                    start(begun, task)
            except Exception as error:
                fail(begun, error)
            say.stage("")
            if not begun.left:
                member.end(begun.error)

    begin_more()
    for ended in executor.ended():
        begun = owners.pop(id(ended.task))
        del begun.left[id(ended.task)]
        try:
            if ended.error is not None:
                raise ended.error
            tasks = begun.member.take(ended)
            for task in reversed(tasks) if begun.error is None else ():
                start(begun, task, first=True)
        except Exception as error:
            fail(begun, error)
        if not begun.left:
            begun.member.end(begun.error)
        begin_more()
