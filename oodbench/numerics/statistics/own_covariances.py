"""Gaussians with a covariance of their own each, which stay usable where images are few."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from oodbench.numerics.input_checks import require_images
from oodbench.numerics.statistics.moments import ClassMoments, TiedGaussian, require_variation

MOST_ENTRIES = 2**25
"""Largest number of entries of all covariances, 268 MB in float64.

At 1,000 classes x 2,048 dimensions they would take 34 GB.
"""

BLOCK = 2**22
"""Numbers in the largest intermediate result, 34 MB in float64."""


@dataclass(frozen=True)
class OwnGaussians:
    """Gaussians of C groups of vectors, in whitened coordinates.

    A group of n vectors with covariance S (divided by n) has the covariance

        Sigma = (n S + nu T) / (n + nu),

    with T the covariance within all groups: the largest posterior density under an inverse Wishart
    prior centered on T that counts as nu vectors (Fraley & Raftery 2007). It has no direction
    without variance, unless T has.

    Coordinates are u = W^T (f - o), with W W^T = T^+. Directions in which no vector varies within
    its group are left out, as by a pseudo-inverse.

    Attributes:
        axes: principal directions that vectors are projected on first, shape [D, d]; None for none.
        space: gives o and W.
        factors: inverses of the Cholesky factors of Sigma, shape [C, R, R], float64.
        log_shares: logarithm of each group's share of the vectors, shape [C], float64.
    """

    axes: Tensor | None
    space: TiedGaussian
    factors: Tensor
    log_shares: Tensor

    @staticmethod
    def of(
        blocks: Iterable[Tensor],
        groups: Tensor,
        prior: float | None = None,
        dim: int | None = None,
    ) -> OwnGaussians:
        """The Gaussians of groups of vectors; groups without vectors are left out.

        Args:
            blocks: N vectors in parts, each of shape [n, D], any floating type; iterated twice.
            groups: of each vector, 0, 1, ..., shape [N], int64.
            prior: nu; None for R + 2, R being the number of directions.
            dim: number of principal directions that vectors are projected on; None for all, or for
                as many as `MOST_ENTRIES` allows.

        Raises:
            ValueError: if there are no vectors, or they do not vary within the groups.
        """
        require_images(len(groups))
        present, groups = groups.unique(return_inverse=True)
        count, moments = len(present), ClassMoments(len(present))
        for block, of in _grouped(blocks, groups):
            moments.update(block, of)
        axes, space = None, moments.tied_gaussian()
        require_variation(space)
        most = math.isqrt(MOST_ENTRIES // count)
        kept = most if dim is None else min(dim, most)
        if kept < space.means.shape[1]:
            axes, space = space.on_principal_directions(kept, moments.counts)
            require_variation(space)
        rank = space.whitening.shape[1]
        nu = float(rank + 2) if prior is None else prior
        factors = space.whitening.new_zeros(count, rank, rank)
        for block, of in _grouped(blocks, groups):
            white = space.white(_projected(block, axes)) - space.white_means[of]
            for group in of.unique().tolist():
                rows = white[of == group]
                factors[group].addmm_(rows.T, rows)
        identity = torch.eye(rank).to(factors)
        for scatter, images in zip(factors, moments.counts, strict=True):
            lower = torch.linalg.cholesky((scatter + nu * identity) / (images + nu))
            scatter.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return OwnGaussians(axes, space, factors, (moments.counts / moments.counts.sum()).log())

    @cached_property
    def _log_scales(self) -> Tensor:
        """The logarithm of sqrt det Sigma^-1 of each group, in whitened coordinates, shape [C]."""
        scales: Tensor = self.factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return scales

    @cached_property
    def _log_density_scale(self) -> Tensor:
        """The part of a log-density that all groups share: log sqrt det W W^T - R/2 log 2 pi."""
        norms = self.space.whitening.norm(dim=0)  # its columns are orthogonal
        scale: Tensor = norms.log().sum() - len(norms) / 2 * math.log(2 * math.pi)
        return scale

    def squared_distances(self, vectors: Tensor) -> Tensor:
        """(f - mu_c)^T Sigma_c^+ (f - mu_c), shape [B, C], float64.

        Args:
            vectors: shape [B, D], any floating type.
        """
        white = self.space.white(_projected(vectors, self.axes))
        return torch.cat([*self._blocks(white)], dim=1)

    def _blocks(self, white: Tensor) -> Iterator[Tensor]:
        step = len(self.factors)  # in an exported graph, which is for batches of any size
        if not torch.compiler.is_exporting():
            step = max(1, BLOCK // max(1, white.numel()))
        groups = zip(self.space.white_means.split(step), self.factors.split(step), strict=True)
        for means, factors in groups:
            moved = white - means[:, None]  # [block, B, R]
            yield (moved @ factors.mT).square().sum(dim=2).T

    def log_densities(self, vectors: Tensor) -> Tensor:
        """Log (pi_c N(f | mu_c, Sigma_c)), shape [B, C], float64.

        Args:
            vectors: shape [B, D], any floating type.
        """
        scales = self.log_shares + self._log_scales + self._log_density_scale
        return scales - self.squared_distances(vectors) / 2


def _grouped(blocks: Iterable[Tensor], groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each block with the groups of its vectors."""
    start = 0
    for block in blocks:
        yield block, groups[start : start + len(block)]
        start += len(block)


def _projected(vectors: Tensor, axes: Tensor | None) -> Tensor:
    """Vectors on the principal directions, float64."""
    return vectors.double() if axes is None else vectors.double() @ axes
