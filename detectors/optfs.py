"""Optimal feature shaping, OptFS (Zhao et al., ICLR 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.numerics.functional import energy
from oodbench.numerics.input_checks import at_least, one_of, require_images
from oodbench.numerics.row_sample import FEATURE_SAMPLE, RowSample
from oodbench.numerics.statistics.histograms import Bins
from oodbench.numerics.statistics.quantiles import EntryQuantiles

TAIL = 0.001
"""Fraction of the training features below the first bin, and above the last one."""

NORM = 1000.0
"""Length of theta, as in the authors' code. It does not change the order of "contribution"."""

ShapedScore = Literal["contribution", "energy"]


@register(
    "optfs",
    label="OptFS",
    title="OptFS: features shaped by their mean contribution to the predicted logit",
    paper="Towards Optimal Feature-Shaping Methods for Out-of-Distribution Detection",
    authors=(
        "Qinyu Zhao",
        "Ming Xu",
        "Kartik Gupta",
        "Akshay Asthana",
        "Liang Zheng",
        "Stephen Gould",
    ),
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2402.00865",
    code="https://github.com/Qinyu-Allen-Zhao/OptFSOOD",
    needs=("features", "head", "fit"),
    family="shaping",
)
class OptFS(Detector):
    """sum_d w_cd theta(z_d) z_d, with c the class that is predicted from the unshaped features.

    theta is constant on each of K bins of equal width, and 0 outside. The bins lie between the
    0.001- and the 0.999-quantile of all training features together. theta_k is the mean over the
    training images of sum w_cd z_d over their features in bin k: the closed form that needs no OOD
    data. theta is scaled to length 1000, as in the authors' code. Features may be negative.

    Quantiles and theta are those of all training images, or of a uniform sample of 10,000. (The
    authors keep the features of all of them.) The bias is left out, as in the authors' code.

    Args:
        bins: K; 100 in the authors' code.
        base: "contribution", the score above; "energy", log sum exp of the logits of the shaped
            features, which the comparison in CADRef uses.
    """

    def __init__(self, bins: int = 100, base: ShapedScore = "contribution") -> None:
        self.bins = at_least("bins", bins, 1)
        self.base = one_of("base", base, ShapedScore)

    def fit(self, batches: Batches) -> None:
        """theta, from a sample that is drawn in one pass.

        Raises:
            ValueError: if there are no images, their features do not vary, or none of them
                contributes to a logit.
        """
        sample, head = batches.shared(RowSample, FEATURE_SAMPLE), Head("other")
        for outputs in batches:
            batches.once(sample.add, outputs.features)
            head = outputs.head
        require_images(sample.seen)
        quantiles = EntryQuantiles(torch.cat(sample.blocks))
        low, high = (quantiles.quantile(fraction) for fraction in (TAIL, 1 - TAIL))
        self.shaped = Bins(low, high, self.bins)
        sums = torch.zeros(self.bins + 2, dtype=torch.float64)
        for block in sample.blocks:
            for features in block.double().split(512):
                weights = head.linear_weight[head.logits(features).argmax(dim=1)].double()
                places = self.shaped.places(features).flatten()
                contributions = (weights * features).flatten()
                sums += places.bincount(contributions, minlength=len(sums)).cpu()
        sums[[0, -1]] = 0  # outside of the bins
        if not sums.any():
            raise ValueError("no training feature contributes to the logit of a predicted class")
        self.theta = NORM * sums / sums.norm()

    def score(self, outputs: Outputs) -> Tensor:
        """What the shaped features add to the predicted logit, or their energy, shape [B]."""
        features = outputs.features.double()
        shaped = features * self.theta.to(features.device)[self.shaped.places(features)]
        if self.base == "energy":
            return energy(outputs.head.logits(shaped))
        weights = outputs.head.linear_weight[outputs.logits.argmax(dim=1)]
        contribution: Tensor = torch.linalg.vecdot(weights.double(), shaped)
        return contribution
