"""Shares of the machines of a cluster: what each of N tasks gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oodbench.errors import UserError, counted

Resources = Mapping[str, float]
"""What a machine offers, by Ray's names: `CPU` (cores), `GPU`, `memory` (bytes)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What each task gets, and how many run at once.

    Attributes:
        workers: number of tasks that run at once.
        cores: cores of each task.
        gpus: GPUs of each task, or a part of one.
        memory: bytes of memory that each task reserves.
        sharing: most tasks that use one device: a GPU, or the cores of a machine.
    """

    workers: int
    cores: int
    gpus: float
    memory: int
    sharing: int


def equal_shares(
    machines: Sequence[Resources],
    workers: int | None,
    *,
    on_gpus: bool,
    most_cores: int | None = None,
) -> Share:
    """Equal shares, with the largest number of cores for which all tasks have room.

    Equal cores make equal records: trainings on a CPU depend on the number of threads.

    Args:
        machines: what each machine offers.
        workers: how many tasks run at once; None: one for each GPU, or for each machine.
        on_gpus: whether tasks compute on GPUs.
        most_cores: largest number of cores of a task; None for no limit.

    Raises:
        UserError: if there are no cores or no GPUs, or fewer cores than tasks.
    """
    cores = [int(each.get("CPU", 0)) for each in machines]
    gpus = [int(each.get("GPU", 0)) for each in machines]
    used = [
        index for index in range(len(machines)) if cores[index] and (gpus[index] or not on_gpus)
    ]
    if not used:
        kind = "GPUs" if on_gpus else "cores"
        raise UserError(
            f"The Ray cluster has no {kind} for tasks.",
            f"Start nodes that have some (ray start --num-{'gpus' if on_gpus else 'cpus'} N).",
        )
    total = sum(gpus[index] for index in used)
    if workers is None:
        workers = total if on_gpus else len(used)
    on_one = math.ceil(workers / total) if on_gpus else 1
    """Tasks that share a GPU."""

    def room(index: int, share: int) -> int:
        fit = cores[index] // share
        return min(fit, gpus[index] * on_one) if on_gpus else fit

    largest = max(cores[index] for index in used)
    chosen = next(
        (
            share
            for share in range(largest, 0, -1)
            if sum(room(index, share) for index in used) >= workers
        ),
        None,
    )
    if chosen is None:
        raise UserError(
            f"The Ray cluster has {counted(sum(cores), 'core')}, fewer than {workers} workers.",
            "Use fewer workers, or more nodes.",
        )
    share = min(chosen, most_cores or chosen)
    hosts = [index for index in used if room(index, chosen)]
    return Share(
        workers,
        share,
        math.floor(10_000 / on_one) / 10_000 if on_gpus else 0.0,  # Ray counts GPUs to four digits
        min(int(machines[i].get("memory", 0)) // room(i, chosen) for i in hosts),
        on_one if on_gpus else max(min(room(index, chosen), workers) for index in hosts),
    )
