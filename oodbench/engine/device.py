"""Devices by name, and how they compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from oodbench.argument_checks import device_name
from oodbench.errors import UserError


def find_device(name: str) -> torch.device:
    """The device of a name: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:i".

    Raises:
        UserError: if the name is none of these, or the device is not there.
    """
    if device_name(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: no '{name}'; torch sees {torch.cuda.device_count()} CUDA devices.",
            "Use the device cpu, or install a torch that sees your GPU.",
        )
    return device


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 in all its bits on CUDA, where torch's default is TF32 for convolutions.

    TF32 keeps ten bits of a normalized pixel, which is as coarse as ODIN's step on it; and scores
    would not be those of a CPU. torch's settings are put back, in whichever of its two ways of
    setting them they were made: it refuses to read what is set in the other.
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
