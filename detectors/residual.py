"""The residual baseline of ViM (Wang et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.bank import FeatureBank
from oodbench.numerics.subspace import (
    MeanResiduals,
    PrincipalAxes,
    PrincipalMoments,
    principal_dimension,
)

SAMPLE = 1000
"""Training images whose residuals are looked at: whether there are any."""


@register(
    "residual",
    label="Residual",
    title="Distance from the principal space of the features",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2203.10807",
    needs=("features", "head", "fit"),
)
class Residual(Detector):
    """-|| P_perp (f - o) ||, the part of the features outside their principal space.

    The origin is o = -W^+ b. The principal space is spanned by the eigenvectors of the second
    moment of f - o with the largest eigenvalues. There is no search space: the authors fix the
    dimension by a rule, and grids of absolute dimensions do not fit narrow networks.

    Args:
        dim: dimension of the principal space; None for the authors' rule: 1000 if the features have
            at least 2048 dimensions, 512 if at least 768, else half of them.
    """

    def __init__(self, dim: int | None = None) -> None:
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, or None for the authors' rule, not {dim}")
        self.dim = dim
        self.axes: PrincipalAxes | None = None

    def fit(self, batches: Batches) -> None:
        """All principal axes, in one pass; the residuals of a sample of the images.

        Raises:
            ValueError: if there are no images.
        """
        moments, bank = batches.shared(PrincipalMoments), FeatureBank(SAMPLE)
        for outputs in batches:
            batches.once(moments.update, outputs.features, outputs.head)
            bank.add(outputs.features)
        self.axes = batches.once(moments.axes)
        self.mean_residuals = MeanResiduals.of(bank, self.axes)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the length of the residual, shape [B].

        Raises:
            ValueError: if the training features have none.
        """
        if self.axes is None:
            raise ValueError("Residual has no principal axes yet: call fit first")
        dim = principal_dimension(self.dim, outputs.features.shape[1])
        self.mean_residuals.at(dim, "the score")
        return -self.axes.residual_norms(outputs.features, dim)
