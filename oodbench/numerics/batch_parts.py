"""Parts of a batch, which are worked on one after the other to save memory."""

from __future__ import annotations

import torch
from torch import Tensor


def row_slices(batch: Tensor, size: int) -> list[slice]:
    """Slices of `size` rows that make up a batch; at least one.

    In a graph that `torch.export` makes, it is one slice: the graph is for batches of any size.

    Args:
        batch: shape [B, ...].
        size: rows of a slice, at least 1.
    """
    if torch.compiler.is_exporting():
        return [slice(None)]
    return [slice(start, start + size) for start in range(0, max(1, len(batch)), size)]
