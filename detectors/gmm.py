"""Gaussian mixture with a covariance of its own for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.layerwise import Combine
from oodbench.number_checks import positive
from oodbench.numerics.bank import DirectionBank
from oodbench.numerics.input_checks import at_least, labels_of, require_images
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.statistics.own_covariances import OwnGaussians


@register(
    "gmm",
    label="GMM",
    title="Density of a Gaussian mixture, one component for each class",
    paper="Deep Deterministic Uncertainty: A New Simple Baseline",
    authors=(
        "Jishnu Mukhoti",
        "Andreas Kirsch",
        "Joost van Amersfoort",
        "Philip H. S. Torr",
        "Yarin Gal",
    ),
    venue="CVPR",
    year=2023,
    url="https://arxiv.org/abs/2102.11582",
    code="https://github.com/omegafragger/DDU",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class GaussianMixture(LayerwiseDetector):
    """log sum_c pi_c N(f | mu_c, Sigma_c), with the shares, means and covariances of the classes.

    Sigma_c = (n_c S_c + nu T) / (n_c + nu). S_c is the maximum-likelihood covariance of the n_c
    images of class c, T the covariance within all classes, which counts as nu images (see
    `OwnGaussians`): S_c alone is singular for a class with fewer images than dimensions. The paper
    (DDU) and pytorch-ood add a small number to the diagonal of S_c instead. A direction in which
    the images of the class do not vary then has a nearly infinite weight. The paper also trains
    with spectral normalization; this detector takes any network.

    At 1,000 classes and 2,048 dimensions, all Sigma_c would take 34 GB. Features are then projected
    on the principal directions of the training images, as many as fit into 268 MB: 183 for 1,000
    classes, 579 for 100 classes. Up to 8 classes with 2,048 dimensions need no projection.
    Directions in which features do not vary within the classes, and classes without images, are
    left out.

    Args:
        prior: nu, in images; None for the number of directions that are not left out and two more
            (Fraley & Raftery 2007).
        dim: number of principal directions; None for all, or as many as fit.
        bank_size: the largest number of training images that the Gaussians are fitted on, a random
            sample if there are more; dropped after `fit`.
        layers: feature layers to use in the place of the penultimate features.
        combine: how the scores of several layers are combined.
    """

    def __init__(
        self,
        prior: float | None = None,
        dim: int | None = None,
        bank_size: int = 50_000,
        layers: str | Sequence[str] | None = None,
        combine: Combine = "mean",
    ) -> None:
        super().__init__(layers, combine)
        self.prior = None if prior is None else positive("prior", prior)
        self.dim = None if dim is None else at_least("dim", dim, 1)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit_features(self, batches: Batches) -> None:
        """Sample the training images in one pass, and fit the Gaussians on the sample.

        Raises:
            ValueError: if there are no images, images have no labels, or features do not vary
                within the classes.
        """
        bank = batches.shared(DirectionBank, self.bank_size)
        lengths = batches.shared(RowSample, self.bank_size, of="lengths")  # of the same images
        labels = batches.shared(RowSample, self.bank_size, of="labels")
        for outputs in batches:
            batches.once(bank.add, outputs.features)
            batches.once(lengths.add, outputs.features.double().norm(dim=1))
            batches.once(labels.add, labels_of(outputs))
        require_images(len(bank))
        features = _Features(bank, torch.cat(lengths.blocks))
        self.gaussians = OwnGaussians.of(features, torch.cat(labels.blocks), self.prior, self.dim)

    def score_features(self, features: Tensor) -> Tensor:
        """Log-density, shape [B]."""
        return self.gaussians.log_densities(features).logsumexp(dim=1)


@dataclass(frozen=True)
class _Features:
    """Features from their directions, which other detectors keep too, and their lengths."""

    bank: DirectionBank
    lengths: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        start = 0
        for block in self.bank:
            lengths = self.lengths[start : start + len(block), None]
            yield (block * lengths).to(block.dtype)
            start += len(block)
