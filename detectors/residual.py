"""The residual baseline of ViM (Wang et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.subspace import (
    FeatureMoments,
    MeanResiduals,
    check_dimension,
    principal_dimension,
)

SAMPLE = 1000
"""Training images in the sample that shows whether there are residuals."""


@register(
    "residual",
    label="Residual",
    title="Distance from the principal space of the features",
    paper="ViM: Out-Of-Distribution with Virtual-logit Matching",
    authors=("Haoqi Wang", "Zhizhong Li", "Litong Feng", "Wayne Zhang"),
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2203.10807",
    code="https://github.com/haoqiwang/vim",
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
        self.dim = check_dimension(dim)

    def fit(self, batches: Batches) -> None:
        """All principal axes, in one pass; the residuals of a sample of the images.

        Raises:
            ValueError: if there are no images.
        """
        moments, bank = batches.shared(FeatureMoments), RowSample(SAMPLE)
        head = Head("other")
        for outputs in batches:
            batches.once(moments.update, outputs.features)
            bank.add(outputs.features)
            head = outputs.head
        self.axes = batches.once(moments.axes_from_head, head)
        self.mean_residuals = MeanResiduals.of(bank, self.axes)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the length of the residual, shape [B].

        Raises:
            ValueError: if the training features have none.
        """
        dim = principal_dimension(self.dim, outputs.features.shape[1])
        self.mean_residuals.at(dim, "the score")
        return -self.axes.residual_norms(outputs.features, dim)
