"""Devices by name."""

from __future__ import annotations

import torch

from oodbench.errors import UserError


def find_device(name: str) -> torch.device:
    """The device of a name: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:i".

    Raises:
        UserError: if the name is none of these, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu, cuda or cuda:i, not '{name}'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device: no '{name}'; torch sees {torch.cuda.device_count()} CUDA devices.",
            "Use --device cpu, or install a torch that sees your GPU.",
        )
    return device
