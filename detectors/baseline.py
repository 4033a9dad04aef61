"""The maximum-probability baseline (Hendrycks & Gimpel, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import max_log_odds


@register(
    "baseline",
    label="MSP",
    title="Maximum softmax probability",
    aliases=("msp",),
    paper=(
        "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks"
    ),
    authors=("Dan Hendrycks", "Kevin Gimpel"),
    venue="ICLR",
    year=2017,
    url="https://openreview.net/forum?id=Hkg4TI9xl",
    code="https://github.com/hendrycks/error-detection",
)
class MaxProbability(Detector):
    """Log-odds of the largest softmax probability, log p - log(1 - p) with p = max_i softmax(z)_i.

    Equation 3 of the DisMax paper is p itself. Its log-odds order images alike at every scale of
    the logits, where p is 1 up to rounding for many images.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Log-odds of max_i p(y_i | x), shape [B]."""
        return max_log_odds(outputs.logits)
