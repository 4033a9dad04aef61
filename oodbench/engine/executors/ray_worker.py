"""What a Ray worker does: a task of a run, after the checks of its machine."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from oodbench.engine.executors.messages import portable
from oodbench.engine.executors.node_cache import CacheOfRun, content_of, keep_missing
from oodbench.engine.executors.sent_progress import SentProgress
from oodbench.engine.executors.worker import no_debugger
from oodbench.errors import UserError
from oodbench.files import cache_folder
from oodbench.process import prepare_process
from oodbench.version import __version__

_INTERVAL = 0.3
"""Shortest time in seconds between two details of a task."""
_MOST_MESSAGES = 10_000
Message = tuple[int, str, Any]
"""Number of the try, kind and content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a task.

    Attributes:
        result: its result.
        error: what it raised, or None.
        files: paths in the cache and contents, of files that the cache of the run may lack.
    """

    result: Any = None
    error: Exception | None = None
    files: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of a run have in common.

    Attributes:
        threads: torch's number of threads.
        cache: cache of the process of the run.
        versions: versions of what decides the results, there.
        argv: its arguments.
        level: its level of logging, None if the program logs nothing.
        path: folders that it imports modules from; those that a node has not are left out there.
    """

    threads: int
    cache: CacheOfRun
    versions: Mapping[str, str]
    argv: tuple[str, ...]
    level: int | None
    path: tuple[str, ...] = ()


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


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    return {"oodbench": __version__} | {name: metadata.version(name) for name in ("torch", "numpy")}


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
        _prepare(settings)
        send("begun", socket.gethostname())
        shared = settings.cache.enter()
        task = pickle.loads(content)
        if "torch" in sys.modules:  # it may take fewer threads than OpenMP does
            sys.modules["torch"].set_num_threads(settings.threads)
        cache = cache_folder()
        if not shared:
            missing = [name for name in task.files if content_of(cache, name) is None]
            found = ray.get([board.file.remote(name) for name in missing])
            keep_missing(cache, [(n, c) for n, c in zip(missing, found, strict=True) if c])
        result = task.run(SentProgress(send))
        files = [] if shared else [(name, content_of(cache, name)) for name in task.files]
        return Answer(result, files=tuple((name, held) for name, held in files if held))
    except Exception as error:
        return Answer(error=portable(error))


def _prepare(settings: Settings) -> None:
    """Make the process like a worker process of the machine of the run.

    Raises:
        UserError: if this machine has other versions.
    """
    if "torch" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    prepare_process()
    sys.argv[:] = settings.argv
    sys.path += [each for each in settings.path if each not in sys.path and Path(each).is_dir()]
    sys.breakpointhook = no_debugger
    if settings.level is not None:
        logging.basicConfig(level=settings.level)
    here = versions()
    for name, version in settings.versions.items():
        if here[name] != version:
            raise UserError(
                f"{name} is {here[name]} on the node {socket.gethostname()} and {version} in the "
                "process of the run.",
                "Install the same version on all nodes: others can give other results.",
            )
