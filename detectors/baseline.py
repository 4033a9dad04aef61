"""The maximum-probability baseline (Hendrycks & Gimpel, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.functional import max_probability


@register(
    "baseline",
    label="MaxProb",
    title="Maximum softmax probability",
    venue="ICLR",
    year=2017,
    url="https://openreview.net/forum?id=Hkg4TI9xl",
)
class MaxProbability(Detector):
    """The largest softmax probability (equation 3 of the DisMax paper)."""

    def score(self, outputs: Outputs) -> Tensor:
        """Max_i p(y_i | x), shape [B]."""
        return max_probability(outputs.logits)
