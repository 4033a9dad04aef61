"""A worker process: reads tasks from its standard input, answers with their results.

It is not started by `multiprocessing`, which would run the user's script or notebook again. Torch
is loaded by the first task that needs it.
"""

from __future__ import annotations

import _thread
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Never

from oodbench.engine.executors.messages import decoded, encoded, portable, received
from oodbench.engine.executors.sent_progress import SentProgress
from oodbench.errors import UserError
from oodbench.process import prepare_process

_SECONDS_TO_STOP = 4.0
"""A cancelled worker has this time to keep the state of its training."""


class _Answers:
    """Sends messages to the process of the run."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        view = memoryview(encoded((kind, content)))
        with self._lock:
            while view:
                view = view[self._pipe.write(view) :]


def main(settings: Mapping[str, Any]) -> None:
    """Work until the input ends. SIGINT is ignored: a terminal sends it to all its processes.

    Args:
        settings: `threads` of torch; `gpu`, the index of the current GPU, or None; `level` of
            logging, None if the program logs nothing.
    """
    signal.signal(signal.SIGTERM, _stop)
    prepare_process()
    if settings["level"] is not None:
        logging.basicConfig(level=settings["level"])
    sys.breakpointhook = no_debugger
    tasks: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    inside, outside = _own_pipes()
    threading.Thread(target=_read, args=(inside, tasks), daemon=True).start()
    answers = _Answers(outside)
    say = SentProgress(answers.send)
    code = 1
    try:
        if settings["gpu"] is not None:
            import torch

            torch.cuda.set_device(settings["gpu"])
        while (content := tasks.get()) is not None:
            try:
                task = decoded(content)  # in this thread, which a signal interrupts
                if "torch" in sys.modules:  # it may take fewer threads than OpenMP does
                    sys.modules["torch"].set_num_threads(settings["threads"])
                answers.send("ended", task.run(say))
            except Exception as error:
                answers.send("raised", portable(error))
        code = 0
    except SystemExit:
        pass  # a training has kept its state
    _leave(code)


def _leave(code: int) -> Never:
    """End this process and those that decode for it; the interpreter takes seconds for its end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the run; what detectors print goes to standard error, and no input is there."""
    inside, outside = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return open(inside, "rb", buffering=0), open(outside, "wb", buffering=0)  # noqa: PTH123


def _read(inside: BinaryIO, tasks: queue.SimpleQueue[bytearray | None]) -> None:
    """Queue tasks until the run closes its end, or is no more; then stop the worker."""
    try:
        while True:
            tasks.put(received(inside))
    except EOFError:
        # The main thread waits for a task, or keeps the state of a training as after an interrupt.
        tasks.put(None)
        if sys.platform == "win32":
            _thread.interrupt_main(signal.SIGTERM)
        else:  # also while it sleeps, or waits for a file or a network
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        threading.Event().wait(_SECONDS_TO_STOP)
        os._exit(1)


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would break off what is being kept
    raise SystemExit(1)


def no_debugger(*args: Any, **named: Any) -> None:
    """In the place of `sys.breakpointhook`.

    Raises:
        UserError: unless breakpoints are switched off.
    """
    if os.environ.get("PYTHONBREAKPOINT") != "0":
        raise UserError(
            "breakpoint(): a worker process has no terminal.",
            "Debug with one worker (--workers 1).",
        )
