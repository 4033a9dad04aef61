"""ReAct: rectified activations (Sun, Guo & Li, NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.quantiles import StreamingQuantiles
from oodbench.numerics.shaping import (
    Place,
    activations,
    check_choice,
    check_percentile,
    rectify,
    spatial_mean,
)

SAMPLE = 2**20
"""Activations whose percentile is taken: its rank is right to some 0.0005."""


@register(
    "react",
    label="ReAct",
    title="ReAct: activations cut off from above",
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2111.12797",
    needs=("features", "feature_map", "head", "fit"),
    # The grid of pytorch-ood 0.4.0 and OpenOOD; the paper's p is 90 (per cent).
    search_space={"percentile": (0.85, 0.9, 0.95, 0.99)},
)
class ReAct(Detector):
    """Energy of W min(h, c) + b, with h the penultimate features.

    c is one number, the percentile of all features of the training images together. (The authors'
    code takes it from some 2,000 images of ImageNet's validation split.)

    Args:
        percentile: a fraction in [0, 1).
        on: "pooled", as in the paper: the features are cut off. "map", as in pytorch-ood: the map
            before pooling is, at the percentile of its own values.
        base: what the changed logits are scored with: "energy" or "max_probability".
    """

    def __init__(
        self, percentile: float = 0.9, on: Place = "pooled", base: BaseScore = "energy"
    ) -> None:
        self.percentile = check_percentile(percentile)
        check_choice("on", on, Place)
        self.on = on
        check_choice("base", base, BaseScore)
        self.base = base
        self.quantiles = StreamingQuantiles(SAMPLE)

    @property
    def works_on_map(self) -> bool:
        """Whether activations are changed before pooling."""
        return self.on == "map"

    def fit(self, batches: Batches) -> None:
        """Quantiles of the training activations; of a sample of them, if they are many."""
        self.quantiles = StreamingQuantiles(SAMPLE)
        for outputs in batches:
            self.quantiles.add(activations(outputs, self.on).flatten())

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of rectified activations, shape [B]."""
        threshold = self.quantiles.quantile(self.percentile)
        rectified = rectify(activations(outputs, self.on), threshold)
        return base_score(self.base, outputs.head.logits(spatial_mean(rectified)))
