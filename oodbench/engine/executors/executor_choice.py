"""Choice of an executor by name."""

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
from oodbench.planning.executor_options import ExecutorOptions


def executor_of(
    options: ExecutorOptions,
    *,
    workers: int | None,
    device: torch.device,
    classes: Iterable[type] = (),
) -> MakeExecutor[Any]:
    """What makes the executor of a run.

    Args:
        options: the choice.
        workers: how many cells are computed at once, or None.
        device: where they compute.
        classes: detector classes, which other processes must be able to import.

    Raises:
        UserError: if the executor cannot be used here, or a class is of a script or a notebook and
            other processes compute.
    """
    count = workers or 1
    if options.name == "local" and count == 1:
        return InProcess
    _check_importable(classes)
    if options.name == "local":
        return functools.partial(WorkerProcesses, workers=count, device=device)
    if options.name == "submitit":
        from oodbench.engine.executors.submitit_executor import submitit_executor

        return submitit_executor(options.jobs, count, device)
    from oodbench.engine.executors.ray_executor import ray_executor

    return ray_executor(options.address, workers, device)


def _check_importable(classes: Iterable[type]) -> None:
    for cls in classes:
        file = PathFinder.find_spec(cls.__module__.partition(".")[0])
        if file is None or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            raise UserError(
                f"Worker processes cannot import the class {cls.__qualname__}: it is defined in a "
                "notebook, a script or a function.",
                "Write it into a file of its own and pass its folder (plugins=[...]), or use the "
                "local executor with one worker.",
            )
