"""What a run asks of an executor, and what it gives to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from oodbench.progress import Reporter

TRIES = 4
"""How often clusters try a task."""
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


class Executor(ABC, Generic[Result]):
    """Runs tasks: submit them, then take their results as they come.

    Leaving its context cancels all tasks that have not ended; the work of a cancelled task stops
    within seconds. An executor runs a task again after the worker that ran it was lost.
    Results are given in the process that submits, which alone stores them.

    Args:
        say: progress reporter; shows the progress of all tasks.
        workers: how many tasks run at once.
        sharing: how many of them use one device.
        threads: torch's number of threads in each of them.

    Attributes:
        workers, sharing, threads: as given.
    """

    tries: float = TRIES
    """How often a task is given to a worker that is lost with it."""
    again = "it is tried again"
    """What is said of a task whose worker was lost, before its last try."""

    def __init__(self, say: Reporter, *, workers: int, sharing: int, threads: int) -> None:
        self.workers, self.sharing, self.threads = workers, sharing, threads
        self._say = say
        self._waiting: deque[Task[Result]] = deque()
        # By identity: tasks are large, and compared by what they hold.
        self._lost: dict[int, tuple[Task[Result], int]] = {}

    def submit(self, task: Task[Result], *, first: bool = False) -> None:
        """Take on a task; it may start at once.

        Args:
            task: the task.
            first: start it before those that wait.
        """
        (self._waiting.appendleft if first else self._waiting.append)(task)
        self._start()

    def withdraw(self, tasks: Collection[Task[Result]]) -> list[Task[Result]]:
        """Drop those of some tasks that have not started; returns them."""
        chosen = set(map(id, tasks))
        found = [task for task in self._waiting if id(task) in chosen]
        self._waiting = deque(task for task in self._waiting if id(task) not in chosen)
        return found

    @abstractmethod
    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end, until all that were submitted have.

        More tasks may be submitted, and others withdrawn, after each.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancel()

    # --- for executors -------------------------------------------------------------------------

    def _start(self) -> None:
        """Start tasks that wait, as many as there is room for."""

    @abstractmethod
    def _cancel(self) -> None:
        """Stop the tasks that run; those in a training keep its state."""

    def _try_again(
        self, task: Task[Result], reason: str, tries: float | None = None
    ) -> Ended[Result] | None:
        """Queue a task whose worker was lost, after those that wait; its end after the last try.

        Args:
            task: the task.
            reason: how its worker was lost.
            tries: how often it is tried; default: `tries`.
        """
        _, times = self._lost.pop(id(task), (task, 0))
        times += 1
        if times >= (tries or self.tries):
            often = {1: "", 2: ", twice"}.get(times, f", {times} times")
            return Ended(task, None, reason + often)
        self._lost[id(task)] = task, times
        self._say.warn(f"{task.label}: {reason}; {self.again}.")
        self._waiting.append(task)
        return None


MakeExecutor = Callable[[Reporter], Executor[Result]]
"""Makes the executor of a run, with the reporter that shows the progress of all its tasks."""
