"""ViM: virtual-logit matching (Wang et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.bank import FeatureBank
from oodbench.numerics.functional import check_logits_positive, energy
from oodbench.numerics.subspace import (
    MeanResiduals,
    PrincipalAxes,
    PrincipalMoments,
    principal_dimension,
)


@register(
    "vim",
    label="ViM",
    title="ViM: energy less a virtual logit",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2203.10807",
    needs=("features", "head", "fit"),
)
class ViM(Detector):
    """log sum exp z - alpha r, with r = || P_perp (f - o) || the residual of `residual`.

    The virtual logit alpha r is scaled to the size of the largest logits: alpha is the mean of
    max z over the mean of r, on training images. The paper's score, the softmax probability of the
    virtual logit, has the opposite order and runs into ties.

    Every r needs the axes, which are known after the pass: the mean of r is taken over a random
    sample of training features, all of them if they are at most `bank_size`, and the sample is
    dropped after `fit`. (The authors take 200,000 images of ImageNet for both means.)

    Args:
        dim: dimension of the principal space; None for the authors' rule: 1000 if the features have
            at least 2048 dimensions, 512 if at least 768, else half of them.
        bank_size: the largest number of training images that alpha's mean residual is taken over.
    """

    def __init__(self, dim: int | None = None, bank_size: int = 10_000) -> None:
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, or None for the authors' rule, not {dim}")
        self.dim = dim
        if bank_size < 1:
            raise ValueError(f"bank_size must be at least 1, not {bank_size}")
        self.bank_size = bank_size
        self.axes: PrincipalAxes | None = None

    def fit(self, batches: Batches) -> None:
        """Principal axes, mean largest logit, and the mean residual for every dim, in one pass.

        Raises:
            ValueError: if there are no images, or the mean largest logit is not positive: alpha
                would not be either, and the residual would count for an image.
        """
        moments, bank = batches.shared(PrincipalMoments), FeatureBank(self.bank_size)
        largest_logits = 0.0
        for outputs in batches:
            batches.once(moments.update, outputs.features, outputs.head)
            bank.add(outputs.features)
            largest_logits += float(outputs.logits.amax(dim=1).sum())
        self.axes = batches.once(moments.axes)
        self.mean_logit = largest_logits / bank.seen
        check_logits_positive(self.mean_logit, "ViM")
        self.mean_residuals = MeanResiduals.of(bank, self.axes)

    def alpha(self, dim: int) -> float:
        """Scale of the virtual logit for a dimension of the principal space.

        Raises:
            ValueError: if the training features lie in the principal space: no scale fits.
        """
        return self.mean_logit / self.mean_residuals.at(dim, "ViM's alpha")

    def score(self, outputs: Outputs) -> Tensor:
        """Energy less the virtual logit, shape [B]."""
        if self.axes is None:
            raise ValueError("ViM has no principal axes yet: call fit first")
        dim = principal_dimension(self.dim, outputs.features.shape[1])
        virtual_logits = self.alpha(dim) * self.axes.residual_norms(outputs.features, dim)
        return energy(outputs.logits) - virtual_logits
