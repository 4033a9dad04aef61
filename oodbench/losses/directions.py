"""Guards that heads and losses share: vectors of unit length, checks of options."""

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


def positive(name: str, value: float) -> float:
    """The value of an option.

    Raises:
        ValueError: if it is not positive.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    return value


def not_negative(name: str, value: float) -> float:
    """The value of an option.

    Raises:
        ValueError: if it is negative.
    """
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value}")
    return value


def whole(name: str, value: float) -> int:
    """The value of an option, a positive whole number.

    Raises:
        ValueError: if it is none.
    """
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"{name} must be a positive whole number, not {value}")
    return int(value)
