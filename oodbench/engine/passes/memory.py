"""Batches of images on their way to the network: memory layout, lack of memory."""

from __future__ import annotations

import torch
from torch import Tensor


def arranged(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in a floating type and in torch's channels_last order; whole numbers as they are.

    Args:
        images: shape [B, C, H, W]; inputs of another rank have no other order.
        dtype: the type.
    """
    if not images.is_floating_point():
        return images
    if images.ndim != 4:
        return images.to(dtype)
    return images.to(dtype, memory_format=torch.channels_last)


_OUT_OF_MEMORY = (
    "can't allocate memory",  # the CPU allocator on Linux and macOS
    "not enough memory",  # and on Windows
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
