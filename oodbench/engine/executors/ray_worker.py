"""What a Ray worker does: a task of a run, after the checks of its machine."""

from __future__ import annotations

import pickle
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from oodbench.engine.executors.messages import portable
from oodbench.engine.executors.node_cache import content_of, keep_missing, lacking
from oodbench.engine.executors.remote_process import Answer, Settings
from oodbench.engine.executors.sent_progress import SentProgress
from oodbench.files import cache_folder

_INTERVAL = 0.3
"""Shortest time in seconds between two details of a task."""
_MOST_MESSAGES = 10_000
Message = tuple[int, str, Any]
"""Number of the try, kind and content."""


class Board:
    """Between the process of a run and its tasks: takes messages, gives files; a Ray actor.

    Args:
        cache: cache of the process of the run, on whose machine this is.
    """

    def __init__(self, cache: str) -> None:
        self._cache = Path(cache)
        self._messages: deque[Message] = deque(maxlen=_MOST_MESSAGES)

    def put(self, message: Message) -> None:
        """Take a message of a task."""
        self._messages.append(message)

    def take(self) -> list[Message]:
        """The messages since the last call."""
        found = list(self._messages)
        self._messages.clear()
        return found

    def file(self, name: str) -> bytes | None:
        """Content of a file in the cache; None if there is none."""
        return content_of(self._cache, name)

    def lacking(self, names: tuple[str, ...]) -> list[str]:
        """Those of some files that the cache lacks."""
        return lacking(self._cache, names)


def work(content: bytes, number: int, settings: Settings, board: Any) -> Answer:
    """Do a task: the function that Ray runs.

    A cancelled task gets a KeyboardInterrupt, after which a training keeps its state.

    Args:
        content: the task, pickled: unpickling it loads torch, after the process is prepared.
        number: number of the try, for messages.
        settings: what all tasks have in common.
        board: handle of the `Board`.
    """
    import ray

    said = 0.0

    def send(kind: str, text: Any) -> None:
        nonlocal said
        if kind == "detail":
            if time.monotonic() - said < _INTERVAL:
                return
            said = time.monotonic()
            board.put.remote((number, kind, text))
        else:  # it must be there before the task has ended
            ray.wait([board.put.remote((number, kind, text))], timeout=5)

    try:
        settings.prepare()
        send("begun", socket.gethostname())
        shared = settings.cache.enter()
        task = pickle.loads(content)
        if "torch" in sys.modules:  # it may take fewer threads than OpenMP does
            sys.modules["torch"].set_num_threads(settings.threads)
        cache = cache_folder()
        if not shared:
            missing = lacking(cache, task.files)
            found = ray.get([board.file.remote(name) for name in missing])
            keep_missing(cache, [(n, c) for n, c in zip(missing, found, strict=True) if c])
        result = task.run(SentProgress(send))
        wanted = [] if shared else ray.get(board.lacking.remote(task.files))
        files = [(name, content_of(cache, name)) for name in wanted]
        return Answer(result, files=tuple((name, held) for name, held in files if held))
    except Exception as error:
        return Answer(error=portable(error))
