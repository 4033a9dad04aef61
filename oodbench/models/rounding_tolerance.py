"""Whether two tensors are equal up to the rounding of their types."""

from __future__ import annotations

import torch
from torch import Tensor


def precision(*values: Tensor) -> float:
    """Spacing of the numbers next to 1 in the coarsest of the types of some tensors."""
    return max(torch.finfo(value.dtype).eps for value in values)


def within_rounding(
    computed: Tensor, *others: Tensor, given: Tensor, scale: Tensor, terms: int
) -> bool:
    """Whether sums agree with the values that a network computed, up to rounding.

    A result has two or three correct digits in bfloat16, three or four in float16, seven in
    float32. Sums are assumed to be taken in float32 at least, whatever the type of the result is;
    the squared errors of their terms add up.

    Args:
        computed: the sums, in float64.
        others: the values they were computed from, which the network may have rounded.
        given: the values of the network, in their type.
        scale: size of the terms of each sum; errors are relative to it; at least 0.
        terms: number of terms of a sum.
    """
    kinds = [torch.finfo(value.dtype) for value in (given, *others)]
    coarse = precision(given, *others)
    summed = min(coarse, torch.finfo(torch.float32).eps)
    tolerance = (2 * coarse + 4 * terms**0.5 * summed) * scale
    smallest = terms * max(kind.smallest_normal * kind.eps for kind in kinds)
    return bool(((computed - given.double()).abs() <= tolerance + smallest).all())


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, up to a conversion of type; NaN is equal to NaN."""
    if first.shape != second.shape:
        return False
    relative = 0.0 if first.dtype == second.dtype else precision(first, second)
    return torch.allclose(first.double(), second.double(), rtol=relative, atol=0, equal_nan=True)


def agree(first: Tensor, second: Tensor) -> bool:
    """Whether logits that a network computed in two ways agree: every layer may round."""
    difference = (first.double() - second.double()).abs().max()
    return bool(difference <= precision(first, second) ** 0.5 * second.abs().max())
