"""Choice of an executor by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from oodbench.engine.executors.executor import MakeExecutor
from oodbench.engine.executors.local import check_importable, local_executor
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
        classes: detector classes, which workers must be able to import.

    Raises:
        UserError: if the executor cannot be used here.
    """
    if options.name == "local":
        return local_executor(workers or 1, device, classes)
    check_importable(classes)
    if options.name == "submitit":
        from oodbench.engine.executors.submitit_executor import submitit_executor

        return submitit_executor(options.jobs, workers or 1, device)
    from oodbench.engine.executors.ray_executor import ray_executor

    return ray_executor(options.address, workers, device)
