"""ViM: virtual-logit matching (Wang et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.numerics.functional import energy
from oodbench.numerics.input_checks import at_least, require_positive_logits
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.subspace import (
    FeatureMoments,
    MeanResiduals,
    check_dimension,
    principal_dimension,
)


@register(
    "vim",
    label="ViM",
    title="ViM: energy less a virtual logit",
    paper="ViM: Out-Of-Distribution with Virtual-logit Matching",
    authors=("Haoqi Wang", "Zhizhong Li", "Litong Feng", "Wayne Zhang"),
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2203.10807",
    code="https://github.com/haoqiwang/vim",
    needs=("features", "head", "fit"),
)
class ViM(Detector):
    """log sum exp z - alpha r, with r = || P_perp (f - o) || the residual of `residual`.

    alpha scales the virtual logit alpha r to the size of the largest logits: the mean of max z over
    the mean of r, on training images. The paper's score, the softmax probability of the
    virtual logit, has the opposite order and runs into ties.

    r needs the axes, which are known after the pass. The mean of r is therefore over a random
    sample of at most `bank_size` training features, which is dropped after `fit`. (The authors take
    200,000 images of ImageNet for both means.)

    Args:
        dim: dimension of the principal space; None for the authors' rule: 1000 if the features have
            at least 2048 dimensions, 512 if at least 768, else half of them.
        bank_size: the largest number of training images in the mean of r.
    """

    def __init__(self, dim: int | None = None, bank_size: int = 10_000) -> None:
        self.dim = check_dimension(dim)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit(self, batches: Batches) -> None:
        """Principal axes, mean largest logit, and the mean residual for every dim, in one pass.

        Raises:
            ValueError: if there are no images, or the mean largest logit is not positive: a
                negative alpha would make residuals raise the score.
        """
        moments = batches.shared(FeatureMoments)
        bank = batches.shared(RowSample, self.bank_size)  # OptFS shares the default
        largest_logits, head = 0.0, Head("other")
        for outputs in batches:
            batches.once(moments.update, outputs.features)
            batches.once(bank.add, outputs.features)
            head = outputs.head
            largest_logits += float(outputs.logits.amax(dim=1).sum())
        self.axes = batches.once(moments.axes_from_head, head)
        self.mean_logit = require_positive_logits(largest_logits, bank.seen, "ViM")
        self.mean_residuals = MeanResiduals.of(bank, self.axes)

    def alpha(self, dim: int) -> float:
        """Scale of the virtual logit for a dimension of the principal space.

        Raises:
            ValueError: if the training features lie in the principal space: no scale fits.
        """
        return self.mean_logit / self.mean_residuals.at(dim, "ViM's alpha")

    def score(self, outputs: Outputs) -> Tensor:
        """Energy less the virtual logit, shape [B]."""
        dim = principal_dimension(self.dim, outputs.features.shape[1])
        virtual_logits = self.alpha(dim) * self.axes.residual_norms(outputs.features, dim)
        return energy(outputs.logits) - virtual_logits
