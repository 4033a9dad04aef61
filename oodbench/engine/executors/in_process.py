"""The executor without workers: one task after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from oodbench.engine.executors.executor import Ended, Executor, Result
from oodbench.progress import Reporter


class InProcess(Executor[Result]):
    """Runs tasks in the order in which they are submitted.

    Args:
        say: progress reporter; the tasks use it themselves.
    """

    def __init__(self, say: Reporter) -> None:
        super().__init__(say, workers=1, sharing=1, threads=torch.get_num_threads())

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

    def _cancel(self) -> None:
        self._waiting.clear()
