"""Devices by name, and full float32 precision on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from oodbench.argument_checks import device_name
from oodbench.errors import UserError, counted


def find_device(name: str) -> torch.device:
    """The device of a name: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:i".

    Raises:
        UserError: if the name is not valid, or this machine has no such device.
    """
    if device_name(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        raise UserError(
            f"device: there is no '{name}': torch finds {counted(available, 'CUDA device')}.",
            "Use the device cpu, or install a version of torch with CUDA.",
        )
    return device


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in full float32 on CUDA, where torch uses TF32 for convolutions by default.

    TF32 keeps ten bits of a normalized pixel, which is as coarse as ODIN's step, and its scores
    differ from those of a CPU. torch's settings are restored afterwards. torch has an older and a
    newer way to set them, and refuses to read a setting that was made the other way, so both are
    handled.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # set in the newer way
        places = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = "ieee"
            yield
        finally:
            for place, precision in zip(places, before, strict=True):
                place.fp32_precision = precision
        return
    try:
        cudnn.allow_tf32 = False
        _set_products("highest")
        yield
    finally:
        cudnn.allow_tf32 = convolutions
        _set_products(products)


def _set_products(precision: str) -> None:
    if torch.get_float32_matmul_precision() != precision:
        torch.set_float32_matmul_precision(precision)
