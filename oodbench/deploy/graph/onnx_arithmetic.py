"""Operations that ONNX has not, or onnxruntime not in float64, from those that it has.

Exported graphs would otherwise compute log(1 + x) for log1p and log(exp(a) + exp(b)) for logaddexp:
0 for x = 1e-20, infinite for a = 1000. Scores are made of such terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def log1p(x: Tensor) -> Tensor:
    """log(1 + x), with full relative precision (Goldberg 1991, theorem 4)."""
    one_more = 1 + x
    near = (one_more - 1).where(one_more != 1, 1.0)
    known = (one_more == 1) | one_more.isinf()  # x itself: no more than rounding, or infinite
    return torch.where(known, x, one_more.log() * (x / near))


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, with full relative precision (Higham 2002, section 1.14.1)."""
    power = x.exp()
    less = power - 1
    known = (power == 1) | power.isinf() | (less == -1)
    ratio = x / power.log().where(~known, 1.0)
    value = less * ratio
    return torch.where(power == 1, x, torch.where(power.isinf() | (less == -1), less, value))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, and x where beta x is above the threshold."""
    scaled = beta * x
    return torch.where(scaled > threshold, x, log1p(scaled.clamp_max(threshold).exp()) / beta)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), with neither overflow nor underflow."""
    larger = torch.maximum(a, b)
    gap = (torch.minimum(a, b) - larger).where(~larger.isinf(), 0.0)
    return larger + log1p(gap.exp()).where(~larger.isinf(), 0.0)


def avg_pool1d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Moving average along the last axis, step 1; others are left to torch."""
    (size,) = kernel_size
    if list(stride) != [1] or any(padding):
        return NotImplemented
    count = x.shape[-1] - size + 1
    total = x[..., :count]
    for start in range(1, size):
        total = total + x[..., start : start + count]
    return total / size


def searchsorted(
    ordered: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """Number of the ordered values, shape [N], that are smaller (with `right`: or equal)."""
    if ordered.ndim != 1 or out_int32 or sorter is not None:
        return NotImplemented
    each = values[..., None]
    below = ordered <= each if right or side == "right" else ordered < each
    return below.sum(dim=-1)


def cdist(points: Tensor, centers: Tensor, p: float = 2.0, compute_mode: Any = None) -> Any:
    """Euclidean distances, shape [B, C], from differences."""
    if p != 2 or points.ndim != 2:
        return NotImplemented
    return (points[:, None] - centers).square().sum(dim=2).sqrt()


def stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Sorted values and their indices, with equal values in their order.

    Any sort of ONNX is stable: it is a TopK, which puts the lower index of equal values first.
    """
    return _ATEN.sort.default(x, dim, descending)


def stable_argsort(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    """The indices of `stable_sort`."""
    return stable_sort(x, dim=dim, descending=descending)[1]


_ATEN = torch.ops.aten

OPERATIONS: Mapping[Any, Callable[..., Any]] = {
    _ATEN.log1p.default: log1p,
    _ATEN.expm1.default: expm1,
    _ATEN.softplus.default: softplus,
    _ATEN.logaddexp.default: logaddexp,
    _ATEN.avg_pool1d.default: avg_pool1d,
    _ATEN.searchsorted.Tensor: searchsorted,
    _ATEN.sort.stable: stable_sort,
    _ATEN.argsort.stable: stable_argsort,
    _ATEN.cdist.default: cdist,
    _ATEN._cdist_forward.default: cdist,
}
"""torch's operation -> how it is computed in an ONNX graph."""
