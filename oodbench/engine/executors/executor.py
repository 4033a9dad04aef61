"""What a run asks of an executor, and what it gives to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        result: its result; None if it is lost.
        lost: why it is lost: no worker lived to its end, on all tries; "" if it is not.
    """

    task: Task[Result]
    result: Result | None
    lost: str = ""


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

    def submit(self, task: Task[Result]) -> None:
        """Take on a task; it may start at once."""
        ...

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end, until all that were submitted have.

        Raises:
            Exception: what a task raised.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


MakeExecutor = Callable[[Reporter], Executor[Result]]
"""Makes the executor of a run, with the reporter that shows the progress of all its tasks."""
