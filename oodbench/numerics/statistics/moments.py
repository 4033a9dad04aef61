"""Streaming statistics of features, in float64: memory does not grow with the number of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from oodbench.detector import Batches, Head
from oodbench.numerics.functional import squared_distances
from oodbench.numerics.input_checks import require_every_class, require_images


def mean_features(batches: Batches) -> tuple[Tensor, Head]:
    """Mean penultimate feature of training images, shape [D], float64; and the network's head.

    Raises:
        ValueError: if there are no images.
    """
    total, count, head = torch.zeros((), dtype=torch.float64), 0, Head("other")
    for outputs in batches:
        total = total + outputs.features.double().sum(dim=0)
        count += len(outputs)
        head = outputs.head
    require_images(count)
    return total / count, head


class ClassMeans:
    """Mean vector of each class, summed over batches.

    Attributes:
        counts: vectors of each class, shape [C], float64.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        self._sums: Tensor | None = None

    def add(self, values: Tensor, classes: Tensor) -> None:
        """Add a batch.

        Args:
            values: shape [B, D], any floating type.
            classes: 0 .. C - 1, shape [B], int64.
        """
        values = values.double()
        if self._sums is None:
            self._sums = values.new_zeros(len(self.counts), values.shape[1])
            self.counts = self.counts.to(values.device)
        self._sums.index_add_(0, classes, values)
        self.counts += torch.bincount(classes, minlength=len(self.counts))

    @property
    def means(self) -> Tensor:
        """Shape [C, D], float64; 0 for a class without vectors.

        Raises:
            ValueError: if no batch was added.
        """
        if self._sums is None:
            raise ValueError("no training images to fit on")
        return self._sums / self.counts.clamp_min(1)[:, None]

    def means_or_overall(self) -> Tensor:
        """Shape [C, D], float64; the mean of all vectors for a class without vectors.

        Raises:
            ValueError: if no batch was added.
        """
        means = self.means
        require_images(int(self.counts.sum()))
        overall = self.counts @ means / self.counts.sum()
        return torch.where(self.counts[:, None] > 0, means, overall)


class ClassMoments:
    """First and second moments of labeled features, summed over batches.

    Sums are taken around the first batch's mean, so that subtracting them later does not cancel.
    scikit-learn's `EmpiricalCovariance` needs all features in memory at once.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        self._rounding = torch.finfo(torch.float64).eps ** 2

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: shape [B, D], any floating type.
            labels: classes 0 .. num_classes - 1, shape [B].
        """
        eps = torch.finfo(features.dtype).eps
        values = features.detach().double()
        if not hasattr(self, "_origin"):
            dimension = values.shape[1]
            self._origin = values.mean(dim=0)
            self._sums = values.new_zeros(self.num_classes, dimension)
            self._squares = values.new_zeros(dimension, dimension)
            self.counts = self.counts.to(values.device)
            # Rounding features of size 1 leaves a variance of eps^2: less is no information.
            self._rounding = max(self._rounding, eps**2)
        values = values - self._origin
        self.counts += torch.bincount(labels, minlength=self.num_classes)
        self._sums.index_add_(0, labels, values)
        self._squares.addmm_(values.T, values)

    def tied_gaussian(self) -> TiedGaussian:
        """One Gaussian per class with a shared covariance (Lee et al. 2018, equation 1).

        Raises:
            ValueError: if a class has no image.
        """
        require_every_class(
            self.counts,
            "no training image of class {}: a class without images has no mean. Fit on images of "
            "every class",
        )
        means = self._sums / self.counts[:, None]
        within = self._squares - (means * self.counts[:, None]).T @ means
        total = self.counts.sum()
        mean = self._sums.sum(dim=0) / total + self._origin
        spread = self._squares.diagonal() / total
        precision = max(torch.finfo(torch.float64).eps, self._rounding)
        # Of the features, and of the sums, which are kept in float64 around the first batch's mean.
        noise = float((mean.square() + spread).mean()) * self._rounding
        noise += float(spread.mean()) * torch.finfo(torch.float64).eps
        return TiedGaussian(means + self._origin, within / total, precision, noise)


@dataclass(frozen=True)
class TiedGaussian:
    """Gaussians with class means and one covariance.

    Attributes:
        means: shape [C, D], float64.
        covariance: maximum-likelihood pooled within-class covariance (divided by N), shape [D, D].
        precision: variance, relative to the largest, below which a direction counts as constant.
        noise: variance below which a direction counts as constant in any case: the rounding of the
            features.
    """

    means: Tensor
    covariance: Tensor
    precision: float
    noise: float = 0.0

    @cached_property
    def whitening(self) -> Tensor:
        """W with W W^T the pseudo-inverse of the covariance, shape [D, R].

        Directions without variance (dead or linearly dependent units) are left out, as in the
        pseudo-inverse; their weight would be nearly infinite.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        largest = max(values.tolist(), default=0.0)
        smallest = max(largest, 0.0) * self.precision + self.noise
        kept = values > len(values) * smallest
        whitening: Tensor = vectors[:, kept] * values[kept].rsqrt()
        return whitening

    @property
    def varies(self) -> bool:
        """Whether the training images vary within their classes, beyond rounding."""
        return self.whitening.shape[1] > 0

    @cached_property
    def origin(self) -> Tensor:
        """The mean of the class means, shape [D]; subtracted first, to avoid large numbers."""
        return self.means.mean(dim=0)

    @cached_property
    def white_means(self) -> Tensor:
        """Class means in whitened space, where the covariance is the identity, shape [C, R]."""
        return (self.means - self.origin) @ self.whitening

    def white(self, features: Tensor) -> Tensor:
        """Features in whitened space, shape [B, R], float64.

        Args:
            features: shape [B, D].
        """
        return (features.double() - self.origin) @ self.whitening

    def class_scores(self, features: Tensor) -> Tensor:
        """-1/2 (f - mu_c)^T Sigma^+ (f - mu_c) for every class, shape [B, C], float64.

        Args:
            features: shape [B, D].
        """
        return -0.5 * squared_distances(self.white(features), self.white_means)

    def on_principal_directions(self, count: int, images: Tensor) -> tuple[Tensor, TiedGaussian]:
        """The Gaussians on the principal directions of all images.

        These are the eigenvectors with the largest eigenvalues of the covariance of all images,
        which is the sum of that within the classes and that of the class means.

        Args:
            count: number of directions d, at most D.
            images: of each class, shape [C].

        Returns:
            The directions, shape [D, d], and the Gaussians of features projected on them.
        """
        shares = images.to(self.means) / images.sum()
        centered = self.means - shares @ self.means
        between = (centered * shares[:, None]).T @ centered
        axes = torch.linalg.eigh(self.covariance + between).eigenvectors[:, -count:]
        covariance = axes.T @ self.covariance @ axes
        return axes, replace(self, means=self.means @ axes, covariance=covariance)

    def white_background(self, counts: Tensor) -> TiedGaussian:
        """One Gaussian over the images of all classes, in whitened space (C = 1).

        If there are fewer images than features, there are directions in which features vary between
        the classes but not within them. Whitening leaves these directions out. They are left out
        here too, so that the distances from a class and from all images are in the same space,
        where the total covariance is the identity plus the covariance of the class means.

        Args:
            counts: images of each class, shape [C].
        """
        shares = counts.to(self.means) / counts.sum()
        mean = shares @ self.white_means
        centered = self.white_means - mean
        within = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        between = (centered * shares[:, None]).T @ centered
        return TiedGaussian(mean[None], within + between, torch.finfo(mean.dtype).eps)


def require_variation(*gaussians: TiedGaussian) -> None:
    """Check that at least one Gaussian has a direction in which features vary.

    Args:
        gaussians: gaussians of the feature layers that a score is made of.

    Raises:
        ValueError: if no Gaussian has such a direction.
    """
    if not any(gaussian.varies for gaussian in gaussians):
        raise ValueError(
            "the training features do not vary within their classes, up to rounding: distances "
            "from the classes are not defined. Fit on more images, or check the network's features"
        )
