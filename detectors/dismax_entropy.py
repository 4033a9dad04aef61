"""DisMax+Entropy (Macedo, "Distinction Maximization Loss", 2019, v1)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.functional import negative_entropy


@register(
    "dismax_entropy",
    label="DisMaxEntropy",
    title="Negative entropy of isotropic probabilities",
    venue="arXiv",
    year=2019,
    url="https://arxiv.org/abs/1908.05569",
    needs=("dismax_head",),
)
class DisMaxEntropy(Detector):
    """Negative entropy of p_i proportional to exp(-||f - p_i||) (equations 6 and 8).

    The logits of a DisMax head are minus the distances to the prototypes. The loss's alpha is not
    applied here: the paper's h(d) = d.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Negative entropy in nats, shape [B]."""
        return negative_entropy(outputs.logits)
