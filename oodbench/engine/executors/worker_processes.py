"""The executor of `--workers N`: N tasks at once, in worker processes of this machine."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Generic

import torch

from oodbench.engine.executors.executor import Ended, Executor, Result, Task
from oodbench.engine.executors.messages import decoded, encoded, received
from oodbench.engine.executors.remote_process import THREAD_VARIABLES
from oodbench.engine.executors.sent_progress import ShownProgress
from oodbench.progress import Reporter

_LOOK_AFTER = 0.5
"""Seconds without a message after which the workers are looked after."""
_SECONDS_TO_STOP = 5.0
_START = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "settings = json.loads(sys.argv[1]); "
    "sys.path[:], sys.argv[:] = settings['path'], settings['argv']; "
    "from oodbench.engine.executors.worker import main; main(settings)"
)


class WorkerProcesses(Executor[Result]):
    """Runs N tasks at once, each in a process.

    Each worker has its share of the threads, and the next GPU in turn if the device is `cuda`
    without an index. A task whose worker was killed is tried again when no other task runs: it then
    has all memory.

    Args:
        say: progress reporter; shows the progress of all tasks.
        workers: N, at least 1.
        device: where the tasks compute.
    """

    tries = 2
    again = "it is tried again when no other runs"

    def __init__(self, say: Reporter, *, workers: int, device: torch.device) -> None:
        gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
        super().__init__(
            say,
            workers=workers,
            sharing=math.ceil(workers / max(1, gpus)),
            threads=max(1, torch.get_num_threads() // workers),
        )
        self._free = deque((slot, slot % gpus if gpus else None) for slot in range(workers))
        self._workers: list[_Worker[Result]] = []
        self._messages: queue.Queue[tuple[_Worker[Result], str, Any]] = queue.Queue()
        self._shown = ShownProgress(say)

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end."""
        self._say.stage("")  # each task has a line of its own
        while self._waiting or self._computing:
            self._start()
            worker, kind, content = self._next()
            task = worker.task
            if kind == "gone":
                self._workers.remove(worker)
                self._free.append(worker.place)
            if task is None:
                continue
            if kind in ("detail", "result", "warn"):
                self._shown.take(task.label, kind, content)
                continue
            worker.task = None
            self._shown.row(task.label, None)
            if kind == "ended":
                yield Ended(task, content)
            elif kind == "raised":
                yield Ended(task, None, error=content)
            elif lost := self._try_again(task, f"its worker process was ended by {worker.end}"):
                yield lost

    @property
    def _computing(self) -> bool:
        return any(worker.task for worker in self._workers)

    def _start(self) -> None:
        """Give waiting tasks to free workers."""
        while self._waiting:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None and len(self._workers) == self.workers:
                break
            fresh = (task for task in self._waiting if id(task) not in self._lost)
            task = next(fresh, self._waiting[0])
            if id(task) in self._lost and self._computing:
                break
            self.withdraw([task])
            if idle is None:
                idle = _Worker(self._free.popleft(), self.threads, self._messages)
                self._workers.append(idle)
                begins = "a worker process starts"
            else:
                begins = ""
            idle.give(task)
            self._shown.row(task.label, begins)

    def _next(self) -> tuple[_Worker[Result], str, Any]:
        """The next message; "gone" of a worker that has ended."""
        while True:
            with suppress(queue.Empty):
                return self._messages.get(timeout=_LOOK_AFTER)
            for worker in self._workers:
                worker.look_after()

    def _cancel(self) -> None:
        """Stop all workers; those in a training keep its state."""
        for worker in self._workers:
            worker.dismiss()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


class _Worker(Generic[Result]):
    """A worker process.

    Args:
        place: number of the worker, and the index of its GPU or None.
        threads: torch's number of threads.
        messages: gets this worker with the kind and the content of each of its messages.

    Attributes:
        place: as given.
        process: the process.
        task: the task that it has; None if it has none.
    """

    def __init__(
        self,
        place: tuple[int, int | None],
        threads: int,
        messages: queue.Queue[tuple[_Worker[Result], str, Any]],
    ) -> None:
        self.place = place
        self.task: Task[Result] | None = None
        settings = {
            "path": sys.path,
            "argv": sys.argv,
            "threads": threads,
            "gpu": place[1],
            "level": logging.getLogger().level if logging.getLogger().handlers else None,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)),
        )
        self._messages = messages
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._missed = False

    @property
    def end(self) -> str:
        """How the process has ended, in words."""
        code = self.process.wait()
        if code == -getattr(signal, "SIGKILL", 9):
            return "SIGKILL, which systems send when memory runs out"
        return f"{signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def give(self, task: Task[Result]) -> None:
        """Send a task; does not wait for a process that is still starting."""
        self.task = task
        try:
            content = encoded(task)
        except Exception as error:
            self._messages.put((self, "raised", error))
            return
        threading.Thread(target=self._write, args=(content,), daemon=True).start()

    def _write(self, content: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(content)
        with suppress(OSError, ValueError):  # it has ended: that is found elsewhere
            while view:
                view = view[self.process.stdin.write(view) :]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                message = received(self.process.stdout)
                try:
                    kind, content = decoded(message)
                except Exception as error:  # a result that cannot be unpickled here
                    kind, content = "raised", error
                self._messages.put((self, kind, content))
        except (EOFError, OSError, ValueError):
            self._messages.put((self, "gone", None))

    def look_after(self) -> None:
        """Report a process that has ended although its pipe is open, in a process of its own."""
        if self.process.poll() is not None and not self._missed:
            self._missed = True
            self._listener.join(1.0)
            if self._listener.is_alive():
                self._messages.put((self, "gone", None))

    def dismiss(self) -> None:
        """Close the pipe, which stops the worker."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
