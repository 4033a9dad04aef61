"""Functions that change activations: features [B, D] or maps [B, D, H, W], each image alone."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Outputs

Place = Literal["pooled", "map"]
"""Place where a detector changes activations: the features after pooling, or the map before it."""


def activations(outputs: Outputs, place: Place) -> Tensor:
    """The features, shape [B, D], or the map whose spatial mean they are, shape [B, D, H, W].

    Raises:
        ValueError: if there is no such place.
    """
    if place == "pooled":
        return outputs.features
    if place != "map":
        raise ValueError(f"activations are changed in {' or '.join(get_args(Place))}, not {place}")
    assert outputs.feature_map is not None, "declare the need 'feature_map'"
    return outputs.feature_map


def spatial_mean(shaped: Tensor) -> Tensor:
    """Global average pooling of a map, shape [B, D]; features are returned unchanged."""
    return shaped.flatten(2).mean(dim=2) if shaped.ndim > 2 else shaped


def rectify(x: Tensor, upper: Tensor, lower: Tensor | None = None) -> Tensor:
    """Set values above a bound to the bound, and values below another bound to zero.

    Args:
        x: any shape.
        upper: the upper bound; a scalar, or of a shape that is broadcast to that of `x`.
        lower: the lower bound; None for no lower bound.
    """
    clipped = x.clamp(max=upper.to(x))
    return clipped if lower is None else clipped.masked_fill(x < lower.to(x), 0)


def kept_count(count: int, percentile: float) -> int:
    """Number of an image's values above the percentile: n - round(n p), at least 1.

    Args:
        count: n.
        percentile: p, a fraction.
    """
    return max(1, count - round(count * percentile))


def largest(x: Tensor, percentile: float) -> Tensor:
    """The values of each image that are above its own percentile, in any order, shape [B, k].

    Args:
        x: shape [B, ...]; the percentile is over all values of an image.
        percentile: a fraction in [0, 1).
    """
    flat = x.flatten(1)
    return flat.topk(kept_count(flat.shape[1], percentile), dim=1, sorted=False).values


def mass_ratio(x: Tensor, top: Tensor) -> Tensor:
    """s1 / s2, with s1 the sum of all values of an image, s2 of the largest k, shape [B].

    0 if s2 is not positive, as for an image without activation.

    Args:
        x: shape [B, ...].
        top: the largest values, shape [B, k] (`largest`).

    Returns:
        At most n / k, since the mean of all n values is at most the mean of the largest k; float64.
    """
    s1 = x.flatten(1).sum(dim=1, dtype=torch.float64)
    s2 = top.sum(dim=1, dtype=torch.float64)
    positive = s2 > 0
    return torch.where(positive, s1 / s2.where(positive, 1.0), 0.0)


def sharpening(x: Tensor, top: Tensor) -> Tensor:
    """exp(s1 / s2) with the sums of `mass_ratio`, shape [B]; 1 if s2 is not positive.

    Args:
        x: shape [B, ...].
        top: the largest values, shape [B, k] (`largest`).

    Returns:
        Float64: if k is much smaller than n, the factor may exceed the range of float32.
    """
    return mass_ratio(x, top).exp()


def kept(x: Tensor, top: Tensor) -> Tensor:
    """1 for an image's k largest values, 0 for the others, the shape and type of `x`.

    Values that are tied at the threshold get equal weights: of three values tied for two places,
    each gets 2/3. So the weights of an image sum to k, and do not depend on its batch or on the
    order of its values. (The published code of ASH makes an arbitrary choice.)

    Args:
        x: shape [B, ...].
        top: the k largest values of each image, shape [B, k] (`largest`).
    """
    flat = x.flatten(1)
    threshold = top.amin(dim=1, keepdim=True)
    weights = (flat >= threshold).to(x.dtype)
    above = (top > threshold).sum(dim=1, keepdim=True)
    tied = weights.sum(dim=1, keepdim=True, dtype=torch.float64) - above
    share = (top.shape[1] - above) / tied
    if torch.compiler.is_exporting() or (share < 1).any():  # rarely, except at zero
        weights = weights.where(flat > threshold, weights * share.to(x.dtype))
    return weights.view(x.shape)


def prune(x: Tensor, percentile: float) -> Tensor:
    """ASH-P: values of an image below its own percentile are set to zero.

    Args:
        x: shape [B, ...].
        percentile: a fraction in [0, 1).
    """
    flat = x.flatten(1)
    return (flat * kept(flat, largest(flat, percentile))).view(x.shape)


def prune_and_sharpen(x: Tensor, percentile: float) -> Tensor:
    """ASH-S: pruned values times exp(s1 / s2), with the sums before and after pruning; float64.

    Args:
        x: shape [B, ...].
        percentile: a fraction in [0, 1).
    """
    flat = x.flatten(1)
    top = largest(flat, percentile)
    return (flat * kept(flat, top) * sharpening(flat, top)[:, None]).view(x.shape)


def prune_and_level(x: Tensor, percentile: float) -> Tensor:
    """ASH-B: the k kept values are set to s1 / k, so that their sum is still s1.

    Args:
        x: shape [B, ...].
        percentile: a fraction in [0, 1).
    """
    flat = x.flatten(1)
    top = largest(flat, percentile)
    level = flat.sum(dim=1, keepdim=True, dtype=torch.float64) / top.shape[1]
    return (kept(flat, top) * level.to(x.dtype)).view(x.shape)


def remove_rank_one(maps: Tensor) -> Tensor:
    """X - s1 u1 v1^T for each image's map X, a matrix [D, HW], with its first singular triple.

    u1 or v1, the shorter of the two, is the dominant eigenvector of the smaller Gram matrix
    (`dominant_eigenvectors`), which is faster than a decomposition; s1 u1 v1^T = u1 u1^T X.

    Args:
        maps: shape [B, D, H, W].

    Raises:
        ValueError: if a map has one place: it is a matrix of rank one, and the result would be 0.
    """
    matrices = maps.flatten(2).to(torch.promote_types(maps.dtype, torch.float32))
    if matrices.shape[2] < 2:
        raise ValueError(
            "RankFeat needs a map of more than one place: the map of a single place has rank one, "
            "and nothing remains. No module of the network gives a larger map with the input of "
            "the last layer as its mean over space; if a function does (F.relu), make it a module"
        )
    scale = matrices.abs().amax(dim=(1, 2), keepdim=True)
    unit = matrices / scale.where(scale > 0, 1.0)  # squares that neither overflow nor vanish
    if matrices.shape[1] < matrices.shape[2]:
        u = dominant_eigenvectors(unit @ unit.transpose(1, 2))[:, :, None]
        rest = matrices - u @ (u.transpose(1, 2) @ matrices)
    else:
        v = dominant_eigenvectors(unit.transpose(1, 2) @ unit)[:, :, None]
        rest = matrices - (matrices @ v) @ v.transpose(1, 2)
    return rest.view(maps.shape)


SQUARINGS = 40
"""Enough squarings to bring a ratio of eigenvalues of 1 - 1e-11 below the precision of float64."""


def dominant_eigenvectors(matrices: Tensor) -> Tensor:
    """Unit eigenvectors of the largest eigenvalue, shape [B, N]; their sign is arbitrary.

    A matrix is squared until its trace-normalized power is a projection on one direction: k
    squarings are 2^k steps of the power method, so few are enough. The result is as exact as that
    of `eigh`, several times faster. A multiple eigenvalue gives one of its eigenvectors, a zero
    matrix the zero vector.

    Args:
        matrices: symmetric, positive semidefinite, shape [B, N, N].
    """
    tolerance = torch.finfo(matrices.dtype).eps ** 0.5 / 8
    trace = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
    power = matrices / trace.where(trace > 0, 1.0)[:, None, None]
    for _ in range(SQUARINGS):
        # With trace 1: below 1 by about twice the ratio of the second eigenvalue to the first.
        squared_norms = power.square().sum(dim=(1, 2))
        squared_norms = squared_norms.where(squared_norms > 0, 1.0)
        # An exported graph always squares as often: it cannot look at values.
        if not torch.compiler.is_exporting() and squared_norms.amin() > 1 - tolerance:
            break
        power = power @ power
        power /= squared_norms[:, None, None]  # which is its trace
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column = power.gather(2, longest[:, None, None].expand(-1, len(power[0]), 1))
    return F.normalize((power @ column).squeeze(2), dim=1)
