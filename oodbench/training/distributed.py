"""Training with several processes (`torchrun`).

The processes divide each batch of the recipe, average gradients (DistributedDataParallel), and
compute the statistics of batch normalization over the whole batch. The number of processes changes
the speed; it changes the result by rounding only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from oodbench.errors import UserError


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and reports progress."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's rows of a batch of `count` images: nearly equal parts, in order."""
        least, more = divmod(count, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))


def launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """Join the processes that `torchrun` started; without it, a group of one."""
    if not launched():
        yield Group()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend)
    try:
        yield current()
        wait()  # a process that ends early closes the others' connections
    finally:
        torch.distributed.destroy_process_group()


def current() -> Group:
    """The group of this process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Group()
    return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())


def wait() -> None:
    """Wait for all processes of the group."""
    if current().size > 1:
        torch.distributed.barrier()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process: `cuda` becomes that of its local rank."""
    if device.type == "cuda" and launched():
        rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if rank >= devices:
            raise UserError(
                f"torchrun started process {rank + 1} on a machine with {devices} GPUs.",
                f"Start one process per GPU: --nproc-per-node {devices}.",
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Name of a GPU; "cpu" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over the group, without a gradient."""
    if current().size > 1:
        torch.distributed.all_reduce(value)
    return value


def any_of(value: bool, device: torch.device) -> bool:
    """Whether a value is true in any process of the group."""
    return bool(summed(torch.tensor(float(value), device=device)) > 0)


class _Sum(torch.autograd.Function):
    """The sum over the group. The gradient is summed too: every loss depends on the sum."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return summed(value.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return summed(gradient.clone())


def _added(value: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(value)
    return result


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over the images of all processes.

    torch's SyncBatchNorm does this on GPUs only. This module computes the same on every device, so
    tests on a CPU cover it. Statistics are in float32 at least.

    Shape:
        [B, C, H, W] on each process -> the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normalized batch; in evaluation mode, the same as BatchNorm2d."""
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = torch.tensor([float(x.numel() // x.shape[1])], dtype=wide.dtype, device=x.device)
        first = _added(torch.cat([wide.sum(dim=(0, 2, 3)), count]))
        total, mean = first[-1].detach(), first[:-1] / first[-1].detach()
        centered = wide - mean[:, None, None]
        variance = _added(centered.square().sum(dim=(0, 2, 3))) / total
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
            unbiased = variance.detach() * total / (total - 1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


def share_statistics(module: nn.Module) -> None:
    """Replace every BatchNorm2d below a module by one that shares its statistics.

    Weights and buffers stay the same objects.

    Raises:
        UserError: if one has no weights or keeps no moving averages.
    """
    for name, child in list(module.named_children()):
        if type(child) is nn.BatchNorm2d:
            if not child.affine or not child.track_running_stats or child.momentum is None:
                raise UserError(
                    f"The batch normalization '{name}' cannot be shared among processes: it has no "
                    "weights, no running statistics, or no momentum.",
                    "Train with one process.",
                )
            shared = SharedBatchNorm2d(
                child.num_features,
                child.eps,
                child.momentum,
                child.affine,
                child.track_running_stats,
            )
            shared._parameters = child._parameters
            shared._buffers = child._buffers
            shared.train(child.training)
            setattr(module, name, shared)
        else:
            share_statistics(child)
