"""Choice of an executor by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from oodbench.engine.executors.executor import MakeExecutor
from oodbench.engine.executors.local import check_importable, local_executor


def executor_of(
    name: str,
    *,
    address: str | None,
    workers: int | None,
    device: torch.device,
    classes: Iterable[type] = (),
) -> MakeExecutor[Any]:
    """What makes the executor of a run.

    Args:
        name: "local" or "ray".
        address: of a Ray cluster, or None.
        workers: how many cells are computed at once, or None.
        device: where they compute.
        classes: detector classes, which workers must be able to import.

    Raises:
        UserError: if the executor cannot be used here.
    """
    if name == "local":
        return local_executor(workers or 1, device, classes)
    from oodbench.engine.executors.ray_executor import ray_executor

    check_importable(classes)
    return ray_executor(address, workers, device)
