"""Memory of a pass: layout of batches, lack of memory, freed memory that is not reused."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

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


_MAY_GROW = 2**29
_SIZES = Path("/proc/self/statm")


class FreedMemory:
    """Returns freed memory to the system when the process has grown by half a GiB.

    Blocks of many sizes are freed with every batch, and glibc reuses too few of them: a pass with
    many detectors would grow by several megabytes with every batch. Elsewhere than with glibc on
    Linux, nothing is done.
    """

    def __init__(self) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._trim = trim if _SIZES.exists() else None
        self._most = 0 if self._trim is None else _resident() + _MAY_GROW

    def return_if_grown(self) -> None:
        """Call it after every batch; it takes some microseconds where nothing is to be done."""
        if self._trim is not None and _resident() > self._most:
            self._trim(0)
            self._most = _resident() + _MAY_GROW


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(_SIZES.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
