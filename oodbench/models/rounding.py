"""Whether two tensors are the same number computed twice: as strict as their types allow."""

from __future__ import annotations

import torch
from torch import Tensor


def precision(*values: Tensor) -> float:
    """Spacing of the numbers next to 1 in the coarsest of the types of some tensors."""
    return max(torch.finfo(value.dtype).eps for value in values)


def within_rounding(
    computed: Tensor, *others: Tensor, given: Tensor, scale: Tensor, terms: int
) -> bool:
    """Whether sums agree with what a network gave for them, up to rounding.

    A result in bfloat16 is good to two or three digits, in float16 to three or four, in float32 to
    seven. Sums are taken in float32 at least, whatever the type of the result is; errors of their
    terms add up as squares do.

    Args:
        computed: the sums, in float64.
        others: what they were computed from; a network may have rounded it to the same type.
        given: what the network gave, in its type.
        scale: size of the terms of each sum, which errors are relative to; at least 0.
        terms: number of terms of a sum.
    """
    kinds = [torch.finfo(value.dtype) for value in (given, *others)]
    coarse = precision(given, *others)
    summed = min(coarse, torch.finfo(torch.float32).eps)
    tolerance = (2 * coarse + 4 * terms**0.5 * summed) * scale
    smallest = terms * max(kind.smallest_normal * kind.eps for kind in kinds)
    return bool(((computed - given.double()).abs() <= tolerance + smallest).all())


def same(first: Tensor, second: Tensor) -> bool:
    """Whether one tensor is the other, or is it in another type; NaN agrees with NaN."""
    if first.shape != second.shape:
        return False
    relative = 0.0 if first.dtype == second.dtype else precision(first, second)
    return torch.allclose(first.double(), second.double(), rtol=relative, atol=0, equal_nan=True)


def agree(first: Tensor, second: Tensor) -> bool:
    """Whether logits agree that a network computed in two ways: every layer may have rounded."""
    difference = (first.double() - second.double()).abs().max()
    return bool(difference <= precision(first, second) ** 0.5 * second.abs().max())
