"""Images rotated by multiples of 90 degrees."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.errors import UserError

ROTATIONS = 4
"""By 0, 90, 180 and 270 degrees, counterclockwise."""


def rotated(images: Tensor) -> Tensor:
    """All images unrotated, then all rotated by 90, 180 and 270 degrees.

    Args:
        images: shape [B, channels, H, H].

    Returns:
        Shape [4 B, channels, H, H].

    Raises:
        UserError: if the images are not square.
    """
    height, width = images.shape[2:]
    if height != width:
        raise UserError(
            f"Rotations by 90 degrees need square images; these are {height} x {width} pixels.",
            "Give the data set a square shape, with resize in its manifest.",
        )
    return torch.cat([images.rot90(turns, dims=(2, 3)) for turns in range(ROTATIONS)])
