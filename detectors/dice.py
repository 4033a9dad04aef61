"""Directed sparsification, DICE (Sun & Li, ECCV 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import fraction, one_of
from oodbench.numerics.statistics.moments import mean_features
from oodbench.numerics.statistics.quantiles import EntryQuantiles


@register(
    "dice",
    label="DICE",
    title="Sparsified last layer",
    paper="DICE: Leveraging Sparsification for Out-of-Distribution Detection",
    authors=("Yiyou Sun", "Yixuan Li"),
    venue="ECCV",
    year=2022,
    url="https://arxiv.org/abs/2111.09805",
    code="https://github.com/deeplearning-wisc/dice",
    needs=("features", "head", "fit"),
    # The grid of pytorch-ood 0.4.0; the published code's default is 0.9.
    search_space={"p": (0.1, 0.3, 0.5, 0.7, 0.9)},
    nonnegative_features=True,
    family="shaping",
)
class DICE(Detector):
    """Energy of (W * M) h + b, where M keeps the weights that contribute most.

    A weight contributes V_cd = W_cd E[h_d], its part in the logit of a mean training image. M is 1
    where V exceeds the p-quantile of all its C x D entries, 0 elsewhere.

    The mean image stands for all images where features are not negative: W_cd h_d then has the sign
    of V_cd in each. Signed features cancel in E[h_d], and a weight with V near 0 may contribute
    much to the logits of single images.

    Args:
        p: fraction of the weights that are dropped, in [0, 1).
        base: score of the sparse layer's logits: "energy" or "max_probability".
    """

    def __init__(self, p: float = 0.9, base: BaseScore = "energy") -> None:
        self.p = fraction("p", p)
        self.base = one_of("base", base, BaseScore)

    def fit(self, batches: Batches) -> None:
        """The contributions V, shape [C, D], in one pass.

        Raises:
            ValueError: if there are no images, or the head is not linear.
        """
        mean, head = mean_features(batches)
        self.contributions = head.linear_weight.double() * mean
        self.quantiles = EntryQuantiles(self.contributions)

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the sparse layer's logits, shape [B]."""
        mask = self.contributions > self.quantiles.quantile(self.p)
        sparse = Head("linear", outputs.head.linear_weight * mask, outputs.head.bias)
        return base_score(self.base, sparse.logits(outputs.features))
