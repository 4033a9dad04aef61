"""The principal space of features, and the residual of features outside of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.detector import Head
from oodbench.numerics.input_checks import require_images
from oodbench.numerics.row_sample import RowSample

ROWS = 512
"""Number of rows of a bank that are projected on all axes at a time."""


def check_share(name: str, share: float) -> float:
    """The parameter of a detector that is a share of the variance of training features.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"{name} must be a fraction in (0, 1), not {share}")
    return share


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


class FeatureMoments:
    """Mean and second moment of features, or of vectors made of them, summed over batches.

    Sums are taken around the first batch's mean, so that subtracting a mean later does not cancel.
    scikit-learn's `PCA` needs all features in memory at once. Detectors that need other axes of the
    same features share one object: the second moment around any point follows from the sums.

    Attributes:
        count: number of vectors.
    """

    def __init__(self) -> None:
        self.count = 0

    def update(self, features: Tensor) -> None:
        """Add a batch.

        Args:
            features: shape [B, D], any floating type.
        """
        values = features.detach().double()
        if not self.count:
            self._origin = values.mean(dim=0)
            self._sum = torch.zeros_like(self._origin)
            self._squares = values.new_zeros(values.shape[1], values.shape[1])
            self._rounding = max(torch.finfo(features.dtype).eps, torch.finfo(values.dtype).eps)
        centered = values - self._origin
        self.count += len(centered)
        self._sum += centered.sum(dim=0)
        self._squares.addmm_(centered.T, centered)

    @property
    def mean(self) -> Tensor:
        """Shape [D], float64.

        Raises:
            ValueError: if there was no batch.
        """
        require_images(self.count)
        return self._origin + self._sum / self.count

    @property
    def noise(self) -> Tensor:
        """Variance of each feature that rounding may cause, shape [D], float64.

        Raises:
            ValueError: if there was no batch.
        """
        spread = self._squares.diagonal() / self.count - (self._sum / self.count).square()
        return (spread + self.mean.square()) * self._rounding**2

    def around(self, point: Tensor, *, last: bool = False) -> Tensor:
        """Second moment around a point, divided by the number of vectors, shape [D, D].

        Args:
            point: shape [D].
            last: compute it in the memory of the sums, which are then gone.

        Raises:
            ValueError: if there was no batch.
        """
        require_images(self.count)
        shift, mean = self._origin - point, self._sum / self.count
        moment = self._squares.div_(self.count) if last else self._squares / self.count
        return moment.addr_(mean, shift).addr_(shift, mean).addr_(shift, shift)

    def axes_from_head(self, head: Head) -> PrincipalAxes:
        """Principal axes around the point where the logits are zero.

        Wang et al. 2022 (ViM): the origin o = -W^+ b, where all logits are (nearly) equal to 0.
        scikit-learn's `PCA` centers features at their mean instead.

        Args:
            head: the network's last layer, linear.

        Raises:
            ValueError: if there was no batch, or the layer is not linear. Declare the need "head".
        """
        require_images(self.count)
        origin = _origin(head).to(self._origin)
        return PrincipalAxes.of(self.around(origin), origin)

    def axes(self, *, last: bool = False) -> PrincipalAxes:
        """Principal axes around the mean, as of a principal component analysis.

        Args:
            last: compute them in the memory of the sums, which are then gone.

        Raises:
            ValueError: if there was no batch, or the features do not vary, up to rounding.
        """
        mean, noise = self.mean, self.noise
        covariance = self.around(mean, last=last)
        _require_variation(covariance.diagonal(), noise)
        return PrincipalAxes.of(covariance, mean)

    def standardized_axes(self) -> tuple[Tensor, Tensor, PrincipalAxes]:
        """Mean and standard deviation of each feature; principal axes of features so standardized.

        Returns:
            Mean, shape [D]; standard deviation, shape [D], 1 for a feature that does not vary, as
            in scikit-learn's `StandardScaler`; axes, whose origin is 0.

        Raises:
            ValueError: if there was no batch, or no feature varies, up to rounding.
        """
        mean = self.mean
        covariance = self.around(mean)
        variances = covariance.diagonal()
        _require_variation(variances, self.noise)
        scale = variances.clamp_min(0).sqrt().where(variances > self.noise, 1.0)
        covariance.div_(scale).div_(scale[:, None])
        return mean, scale, PrincipalAxes.of(covariance, torch.zeros_like(mean))

    def inverse_root(self) -> Tensor:
        """W with W W^T the pseudo-inverse of the second moment around zero, shape [D, R].

        Directions in which the features are zero, up to rounding, are left out.

        Raises:
            ValueError: if there was no batch, or all features are zero.
        """
        moment = self.around(torch.zeros_like(self.mean))
        values, vectors = torch.linalg.eigh(moment)
        smallest = float(self.noise.sum()) + torch.finfo(values.dtype).eps * values[-1]
        kept = values > len(values) * smallest
        if not kept.any():
            raise ValueError("the features of all training images are zero: check the network")
        root: Tensor = vectors[:, kept] * values[kept].rsqrt()
        return root


def _require_variation(variances: Tensor, noise: Tensor) -> None:
    if not variances.sum() > noise.sum():
        raise ValueError(
            "the training features do not vary, up to rounding: their principal axes are not "
            "defined. Fit on more images, or check the network's features"
        )


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
        variances: mean square of the extents along each axis, in ascending order, shape [D].
    """

    origin: Tensor
    vectors: Tensor
    variances: Tensor

    @staticmethod
    def of(second_moment: Tensor, origin: Tensor) -> PrincipalAxes:
        """Eigenvectors of a second moment around the origin.

        Args:
            second_moment: shape [D, D].
            origin: shape [D].
        """
        variances, vectors = torch.linalg.eigh(second_moment)
        return PrincipalAxes(origin, vectors, variances.clamp_min(0))

    def dimension(self, share: float) -> int:
        """The smallest dimension, at least 1, of a principal space with a share of the variance.

        Args:
            share: of the sum of all variances, a fraction in (0, 1).
        """
        largest_first = self.variances.flip(0).cumsum(dim=0)
        return 1 + int((largest_first < share * largest_first[-1]).sum())

    def principal_norms(self, features: Tensor, dim: int) -> Tensor:
        """Length of the part of f - o inside the first `dim` principal axes, shape [B], float64.

        Args:
            features: shape [B, D].
            dim: dimension of the principal space, 1 .. D.

        Raises:
            ValueError: if it is above D.
        """
        if dim > len(self.origin):
            raise ValueError(
                f"a principal space of dim = {dim} in features that have {len(self.origin)} "
                "dimensions: choose a smaller dim"
            )
        principal = self.vectors[:, len(self.origin) - dim :]
        norms: Tensor = ((features.double() - self.origin) @ principal).norm(dim=1)
        return norms

    def residual_norms(self, features: Tensor, dim: int) -> Tensor:
        """Length of the part of f - o outside the first `dim` principal axes, shape [B], float64.

        Computed by projection on the remaining axes: the difference of |f - o|^2 and the squared
        length inside would cancel.

        Args:
            features: shape [B, D].
            dim: dimension of the principal space; D counts as D - 1.
        """
        remaining = self.vectors[:, : max(len(self.origin) - dim, 1)]
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
