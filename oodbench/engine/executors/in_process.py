"""The executor without workers: one task after the other, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Generic, Self

import torch

from oodbench.engine.executors.executor import Ended, Result, Task, put, taken_out
from oodbench.progress import Reporter


class InProcess(Generic[Result]):
    """Runs tasks in the order in which they are submitted; an `Executor`.

    Args:
        say: progress reporter; the tasks use it themselves.
    """

    def __init__(self, say: Reporter) -> None:
        self.workers, self.sharing, self.threads = 1, 1, torch.get_num_threads()
        self._say = say
        self._waiting: deque[Task[Result]] = deque()

    def submit(self, task: Task[Result], *, first: bool = False) -> None:
        """Queue a task."""
        put(self._waiting, task, first=first)

    def withdraw(self, tasks: Collection[Task[Result]]) -> list[Task[Result]]:
        """Drop those of some tasks that have not started; returns them."""
        return taken_out(self._waiting, tasks)

    def ended(self) -> Iterator[Ended[Result]]:
        """Each task, run when it is asked for."""
        while self._waiting:
            task = self._waiting.popleft()
            self._say.stage(task.label)
            try:
                ended = Ended(task, task.run(self._say))
            except Exception as error:
                ended = Ended(task, None, error=error)
            yield ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.clear()
