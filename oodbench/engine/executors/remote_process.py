"""What a process on another machine is told, checks and answers."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from oodbench.engine.executors.node_cache import CacheOfRun
from oodbench.engine.executors.worker import no_debugger
from oodbench.errors import UserError
from oodbench.process import prepare_process
from oodbench.version import __version__

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a task.

    Attributes:
        result: its result.
        error: what it raised, or None.
        files: paths in the cache and contents, of files that the cache of the run may lack.
        said: kinds and texts of messages that were not sent before.
    """

    result: Any = None
    error: Exception | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    said: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of a run have in common.

    Attributes:
        threads: torch's number of threads.
        cache: cache of the process of the run.
        versions: versions of what decides the results, there.
        argv: its arguments.
        level: its level of logging, None if the program logs nothing.
        folder: its working folder, which relative paths are of; chosen where a node has it.
        path: folders that it imports modules from; those that a node has not are left out there.
    """

    threads: int
    cache: CacheOfRun
    versions: Mapping[str, str]
    argv: tuple[str, ...]
    level: int | None
    folder: str
    path: tuple[str, ...]

    @classmethod
    def of_run(cls, threads: int, cache: CacheOfRun) -> Self:
        """Those of this process.

        Args:
            threads: torch's number of threads in a task.
            cache: the cache of this process.
        """
        root = logging.getLogger()
        level = root.level if root.handlers else None
        folder, path = str(Path.cwd()), tuple(sys.path)
        return cls(threads, cache, versions(), tuple(sys.argv), level, folder, path)

    def prepare(self) -> None:
        """Make the process like a worker process of the machine of the run.

        Raises:
            UserError: if this machine has other versions.
        """
        if "torch" not in sys.modules:
            os.environ |= dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        prepare_process()
        sys.argv[:] = self.argv
        with suppress(OSError):
            os.chdir(self.folder)
        sys.path += [each for each in self.path if each not in sys.path and Path(each).is_dir()]
        sys.breakpointhook = no_debugger
        if self.level is not None:
            logging.basicConfig(level=self.level)
        here = versions()
        for name, version in self.versions.items():
            if here[name] != version:
                raise UserError(
                    f"{name} is {here[name]} on the node {socket.gethostname()} and {version} in "
                    "the process of the run.",
                    "Install the same version on all nodes: others can give other results.",
                )


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    return {"oodbench": __version__} | {name: metadata.version(name) for name in ("torch", "numpy")}
