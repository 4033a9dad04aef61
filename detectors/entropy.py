"""Negative entropy of the softmax probabilities, on any head."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.functional import negative_entropy


@register(
    "entropy",
    label="Entropy",
    title="Negative entropy",
    venue="arXiv",
    year=2019,
    url="https://arxiv.org/abs/1908.05569",
)
class Entropy(Detector):
    """Sum_i p_i log p_i: "SoftMax+Entropy" of the DisMax paper's Table 2."""

    def score(self, outputs: Outputs) -> Tensor:
        """Negative entropy in nats, shape [B]."""
        return negative_entropy(outputs.logits)
