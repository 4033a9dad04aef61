"""ReAct: rectified activations (Sun, Guo & Li, NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import fraction, one_of
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.shaping import Place, activations, rectify, spatial_mean
from oodbench.numerics.statistics.quantiles import StreamingQuantiles

SAMPLE = 2**20
"""Largest number of activations in the sample; the rank of its percentile is right to 0.0005."""


@register(
    "react",
    label="ReAct",
    title="ReAct: activations cut off from above",
    paper="ReAct: Out-of-distribution Detection With Rectified Activations",
    authors=("Yiyou Sun", "Chuan Guo", "Yixuan Li"),
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2111.12797",
    code="https://github.com/deeplearning-wisc/react",
    needs=("features", "feature_map", "head", "fit"),
    # The grid of pytorch-ood 0.4.0 and OpenOOD; the paper's p is 90 (per cent).
    search_space={"percentile": (0.85, 0.9, 0.95, 0.99)},
    nonnegative_features=True,
    family="shaping",
)
class ReAct(Detector):
    """Energy of W min(h, c) + b, with h the penultimate features.

    c is one number, the percentile of all features of the training images together. (The authors'
    code takes it from some 2,000 images of ImageNet's validation split.)

    The paper assumes features after a ReLU (it models them as rectified Gaussians): the abnormally
    strong ones are positive, and one threshold cuts them off. Of signed features, strong negative
    ones stay.

    Args:
        percentile: a fraction in [0, 1).
        on: what is rectified: "pooled", the features, as in the paper; "map", the map before
            pooling, at the percentile of its own values, as in pytorch-ood.
        base: score of the logits: "energy" or "max_probability".
    """

    def __init__(
        self, percentile: float = 0.9, on: Place = "pooled", base: BaseScore = "energy"
    ) -> None:
        self.percentile = fraction("percentile", percentile)
        self.on = one_of("on", on, Place)
        self.base = one_of("base", base, BaseScore)

    @property
    def works_on_map(self) -> bool:
        """Whether the map is rectified, before pooling."""
        return self.on == "map"

    def fit(self, batches: Batches) -> None:
        """Quantiles of the training activations; of a sample of them, if they are many."""
        self.quantiles = StreamingQuantiles(RowSample(SAMPLE))
        for outputs in batches:
            self.quantiles.add(activations(outputs, self.on).flatten())

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of rectified activations, shape [B]."""
        threshold = self.quantiles.quantile(self.percentile)
        rectified = rectify(activations(outputs, self.on), threshold)
        return base_score(self.base, outputs.head.logits(spatial_mean(rectified)))
