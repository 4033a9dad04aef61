"""CoRP: PCA of random Fourier features (Fang et al., NeurIPS 2024)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.number_checks import positive
from oodbench.numerics.bank import directions
from oodbench.numerics.input_checks import at_least
from oodbench.numerics.subspace import FeatureMoments, check_share

LARGEST = 4096
"""Number of random Fourier features that the authors use for ImageNet."""


@register(
    "corp",
    label="CoRP",
    title="CoRP: distance from the principal space of random Fourier features",
    paper="Kernel PCA for Out-of-Distribution Detection",
    authors=("Kun Fang", "Qinghua Tao", "Kexin Lv", "Mingzhen He", "Xiaolin Huang", "Jie Yang"),
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2402.02949",
    code="https://github.com/fanghenshaometeor/ood-kernel-pca",
    needs=("features", "fit"),
    # 0.8 and 0.5 are the authors' for CIFAR-10 and ImageNet. Another gamma needs another fit.
    search_space={"variance": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)},
)
class CoRP(Detector):
    """-|| P_perp (phi(q) - mu) ||, with q = f / ||f|| and random Fourier features phi.

    phi(q) = sqrt(2 / M) cos(Omega q + u), with the entries of Omega [M, D] from a normal
    distribution of variance 2 gamma and those of u from [0, 2 pi): phi(q) phi(r) is close to the
    Gaussian kernel exp(-gamma ||q - r||^2). mu is the mean of phi over the training images, and
    P_perp projects on all but its first principal axes, as in `cop`. The authors draw Omega and u
    without a seed of their own.

    Args:
        variance: share of the variance in the principal space, a fraction in (0, 1).
        gamma: 2 and 3 are the authors' for CIFAR-10 and ImageNet.
        components: M; None for 4 D, at most 4096: the authors' 2048 for 512 features and 4096 for
            2048.
        seed: seed of Omega and u.
    """

    def __init__(
        self,
        variance: float = 0.8,
        gamma: float = 2.0,
        components: int | None = None,
        seed: int = 0,
    ) -> None:
        self.variance = check_share("variance", variance)
        self.gamma = positive("gamma", gamma)
        self.components = None if components is None else at_least("components", components, 2)
        self.seed = seed

    def fit(self, batches: Batches) -> None:
        """Draw Omega and u; mean and principal axes of the Fourier features, in one pass.

        Raises:
            ValueError: if there are no images, or their directions do not vary.
        """
        moments, drawn = FeatureMoments(), False
        for outputs in batches:
            if not drawn:
                self._draw(outputs.features)
                drawn = True
            moments.update(self.fourier(outputs.features))
        self.axes = moments.axes(last=True)  # with M = 4096 the sums take 134 MB

    def _draw(self, features: Tensor) -> None:
        width = features.shape[1]
        components = self.components or min(4 * width, LARGEST)
        generator = np.random.default_rng(self.seed)
        omega = math.sqrt(2 * self.gamma) * generator.standard_normal((components, width))
        phases = 2 * math.pi * generator.random(components)
        self.omega, self.phases = (
            torch.from_numpy(drawn).to(features.device) for drawn in (omega, phases)
        )

    def fourier(self, features: Tensor) -> Tensor:
        """Random Fourier features phi of directions, shape [B, M], float64."""
        angles = torch.addmm(self.phases, directions(features).double(), self.omega.T)
        return math.sqrt(2 / len(self.phases)) * angles.cos_()

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the length of the residual, shape [B]."""
        dim = self.axes.dimension(self.variance)
        return -self.axes.residual_norms(self.fourier(outputs.features), dim)
