"""Negative entropy of the softmax probabilities, on any head."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import log_entropy


@register(
    "entropy",
    label="Entropy",
    title="Negative entropy",
    paper=(
        "Distinction Maximization Loss: Fast, Scalable, Turnkey, and Native Neural Networks "
        "Out-of-Distribution Detection simply by Replacing the SoftMax Loss"
    ),
    authors=("David Macêdo",),
    venue="arXiv",
    year=2019,
    url="https://arxiv.org/abs/1908.05569",
    code="https://github.com/dlmacedo/entropic-out-of-distribution-detection",
)
class Entropy(Detector):
    """-log H with H = -sum_i p_i log p_i: "SoftMax+Entropy" of the DisMax paper's Table 2.

    The paper's score is the negative entropy, -H. The logarithm has the same order, and none of the
    ties of H where the probabilities are 0 and 1 up to rounding.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the entropy in nats, shape [B]."""
        return -log_entropy(outputs.logits)
