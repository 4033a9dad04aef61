"""The executors of one machine: this process, or several workers."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib.machinery import PathFinder
from typing import Any

import torch

from oodbench.engine.executors.executor import MakeExecutor
from oodbench.engine.executors.in_process import InProcess
from oodbench.engine.executors.worker_processes import WorkerProcesses
from oodbench.errors import UserError


def local_executor(
    workers: int, device: torch.device, classes: Iterable[type] = ()
) -> MakeExecutor[Any]:
    """What makes the executor for a number of workers; with one, this process computes.

    Args:
        workers: how many cells are computed at once.
        device: where they compute.
        classes: detector classes, which workers must be able to import.

    Raises:
        UserError: if a class is of a script or a notebook and there are several workers.
    """
    if workers == 1:
        return InProcess
    check_importable(classes)
    return functools.partial(WorkerProcesses, workers=workers, device=device)


def check_importable(classes: Iterable[type]) -> None:
    """Check that other processes can import classes.

    Raises:
        UserError: if one is of a script, a notebook or a function.
    """
    for cls in classes:
        file = PathFinder.find_spec(cls.__module__.partition(".")[0])
        if file is None or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            raise UserError(
                f"Worker processes cannot import the class {cls.__qualname__}: it is defined in a "
                "notebook, a script or a function.",
                "Write it into a file of its own and pass its folder (plugins=[...]), or use the "
                "local executor with one worker.",
            )
