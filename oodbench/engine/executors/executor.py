"""What a run asks of an executor, and what it gives to one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from oodbench.progress import Reporter

Result = TypeVar("Result")
Covariant = TypeVar("Covariant", covariant=True)


class Task(Protocol[Covariant]):
    """Work that any process may do, and do again: it can be pickled, and so can its result."""

    @property
    def label(self) -> str:
        """The name in messages."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """Paths in the cache, with "/", of files that it reads if they are there, and makes if not.

        Executors on other machines take them there and back.
        """
        ...

    def run(self, say: Reporter) -> Covariant:
        """Do the work.

        Args:
            say: takes the progress within it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ended(Generic[Result]):
    """A task that has ended.

    Attributes:
        task: the task.
        result: its result; None if it is lost, or raised an error.
        lost: why it is lost: no worker lived to its end, on all tries; "" if it is not.
        error: what it raised, with the traceback of its process as a note; None if nothing.
    """

    task: Task[Result]
    result: Result | None
    lost: str = ""
    error: Exception | None = None


class Executor(Protocol[Result]):
    """Runs tasks: submit them, then take their results as they come.

    Leaving its context cancels all tasks that have not ended; the work of a cancelled task stops
    within seconds. An executor runs a task again after the worker that ran it was lost.
    Results are given in the process that submits, which alone stores them.

    Attributes:
        workers: how many tasks run at once.
        sharing: how many of them use one device.
        threads: torch's number of threads in each of them.
    """

    workers: int
    sharing: int
    threads: int

    def submit(self, task: Task[Result], *, first: bool = False) -> None:
        """Take on a task; it may start at once.

        Args:
            task: the task.
            first: start it before those that wait.
        """
        ...

    def withdraw(self, tasks: Collection[Task[Result]]) -> list[Task[Result]]:
        """Drop those of some tasks that have not started; returns them."""
        ...

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end, until all that were submitted have.

        More tasks may be submitted, and others withdrawn, after each.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def put(waiting: deque[Task[Result]], task: Task[Result], *, first: bool) -> None:
    """Put a task at the end of a queue, or first."""
    (waiting.appendleft if first else waiting.append)(task)


def taken_out(waiting: deque[Task[Result]], tasks: Collection[Task[Result]]) -> list[Task[Result]]:
    """Take tasks out of a queue; returns those that were in it."""
    chosen = set(map(id, tasks))  # tasks are large, and compared by what they hold
    found = [task for task in waiting if id(task) in chosen]
    left = [task for task in waiting if id(task) not in chosen]
    waiting.clear()
    waiting.extend(left)
    return found


MakeExecutor = Callable[[Reporter], Executor[Result]]
"""Makes the executor of a run, with the reporter that shows the progress of all its tasks."""
