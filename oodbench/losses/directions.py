"""Vectors of unit length, with gradients that are safe for heads and losses."""

from __future__ import annotations

import torch
from torch import Tensor


def directions(vectors: Tensor) -> Tensor:
    """Rows of unit length; a row of zeros stays zero.

    The gradient there is that of the identity. `torch.nn.functional.normalize` divides by 1e-12
    there, and so multiplies the gradient of dead units by 1e12.
    """
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(norms > 1e-12, norms, 1.0)
