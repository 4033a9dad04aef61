"""The principal space of features, and the residual of features outside of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.detector import Head
from oodbench.numerics.row_sample import RowSample

ROWS = 512
"""Number of rows of a bank that are projected on all axes at a time."""


def check_dimension(dim: int | None) -> int | None:
    """The parameter `dim` of a detector: a dimension, or None for the rule of ViM's authors.

    Raises:
        ValueError: if it is below 1.
    """
    if dim is not None and dim < 1:
        raise ValueError(f"dim must be at least 1, or None for the authors' rule, not {dim}")
    return dim


def principal_dimension(asked: int | None, dimension: int) -> int:
    """The dimension of the principal space of features with D dimensions.

    Args:
        asked: the parameter `dim`; None for the rule of ViM's authors (1000 if D is at least 2048,
            512 if it is at least 768, else half of it).
        dimension: D.

    Raises:
        ValueError: if the principal space would be the whole space.
    """
    if asked is None:
        return 1000 if dimension >= 2048 else 512 if dimension >= 768 else dimension // 2
    if asked >= dimension:
        raise ValueError(
            f"a principal space of dim = {asked} leaves no residual of features that have "
            f"{dimension} dimensions: choose dim below {dimension}"
        )
    return asked


class PrincipalMoments:
    """Second moment of features around the point where the logits are zero.

    Wang et al. 2022 (ViM): the origin o = -W^+ b, where all logits are (nearly) equal to 0.
    scikit-learn's `PCA` centers features at their mean instead.
    """

    def __init__(self) -> None:
        self._origin: Tensor | None = None

    def update(self, features: Tensor, head: Head) -> None:
        """Add a batch.

        Args:
            features: shape [B, D], any floating type.
            head: the network's last layer, linear; read at the first call.

        Raises:
            ValueError: if the layer is not linear. Declare the need "head".
        """
        values = features.detach().double()
        if self._origin is None:
            self._origin = _origin(head).to(values)
            self._squares = values.new_zeros(values.shape[1], values.shape[1])
        centered = values - self._origin
        self._squares.addmm_(centered.T, centered)

    def axes(self) -> PrincipalAxes:
        """The principal axes of all batches.

        Raises:
            ValueError: if there was no batch.
        """
        if self._origin is None:
            raise ValueError("no training image: there are no principal axes")
        vectors: Tensor = torch.linalg.eigh(self._squares).eigenvectors
        return PrincipalAxes(self._origin, vectors)


def _origin(head: Head) -> Tensor:
    weight = head.linear_weight.detach().double()
    if head.bias is None:
        return weight.new_zeros(weight.shape[1])
    origin: Tensor = -torch.linalg.pinv(weight) @ head.bias.detach().double()
    return origin


@dataclass(frozen=True)
class PrincipalAxes:
    """Orthonormal axes, ordered by the extent of the training features along them.

    Attributes:
        origin: o, shape [D], float64.
        vectors: one axis in each column, the smallest extent first, shape [D, D], float64.
    """

    origin: Tensor
    vectors: Tensor

    def residual_norms(self, features: Tensor, dim: int) -> Tensor:
        """Length of the part of f - o outside the first `dim` principal axes, shape [B], float64.

        Computed by projection on the remaining axes: the difference of |f - o|^2 and the squared
        length inside would cancel.

        Args:
            features: shape [B, D].
            dim: dimension of the principal space, 0 .. D - 1.
        """
        remaining = self.vectors[:, : len(self.origin) - dim]
        norms: Tensor = ((features.double() - self.origin) @ remaining).norm(dim=1)
        return norms

    def all_residual_norms(self, features: Tensor) -> Tensor:
        """`residual_norms` for every dim: column d is for dim = d, shape [B, D], float64.

        Args:
            features: shape [B, D].
        """
        extents = (features.double() - self.origin) @ self.vectors
        # The axes with the largest extents are last: the first D - d columns are outside.
        return extents.square_().cumsum(dim=1).sqrt_().flip(dims=(1,))


@dataclass(frozen=True)
class MeanResiduals:
    """Mean residual of training images for every dimension of the principal space.

    Attributes:
        levels: at index d the mean for dim = d, float64.
        precision: rounding error of a residual, relative to the mean length of the features from o.
    """

    levels: tuple[float, ...]
    precision: float

    @staticmethod
    def of(bank: RowSample, axes: PrincipalAxes) -> MeanResiduals:
        """Mean residuals of a sample of training features.

        Args:
            bank: not empty.
            axes: axes of the training features.
        """
        sums, precision = torch.zeros_like(axes.origin), 0.0
        for block in bank.blocks:
            for rows in block.split(ROWS):
                sums += axes.all_residual_norms(rows).sum(dim=0)
            precision = max(torch.finfo(block.dtype).eps, 1e-14 * len(sums))
        return MeanResiduals(tuple((sums / len(bank)).tolist()), precision)

    def at(self, dim: int, method: str) -> float:
        """The mean residual outside a principal space.

        Args:
            dim: its dimension.
            method: name of the quantity that is computed from it, for the message.

        Raises:
            ValueError: if the training features lie in that space, up to rounding.
        """
        if self.levels[dim] <= self.precision * self.levels[0]:
            raise ValueError(
                f"the training features lie in a space of dim = {dim} up to rounding: without a "
                f"residual, {method} is not defined. Choose a smaller dim, or fit on more images"
            )
        return self.levels[dim]
