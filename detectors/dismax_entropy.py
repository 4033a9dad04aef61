"""DisMax+Entropy (Macedo, "Distinction Maximization Loss", 2019, v1)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import log_entropy


@register(
    "dismax_entropy",
    label="DisMaxEntropy",
    title="Negative entropy of isotropic probabilities",
    paper=(
        "Distinction Maximization Loss: Fast, Scalable, Turnkey, and Native Neural Networks "
        "Out-of-Distribution Detection simply by Replacing the SoftMax Loss"
    ),
    authors=("David Macêdo",),
    venue="arXiv",
    year=2019,
    url="https://arxiv.org/abs/1908.05569",
    code="https://github.com/dlmacedo/entropic-out-of-distribution-detection",
    needs=("dismax_head",),
)
class DisMaxEntropy(Detector):
    """-log H with H the entropy of p_i proportional to exp(-||f - p_i||) (equations 6 and 8).

    The paper's score is -H. The logarithm has the same order, and none of the ties of H where the
    probabilities are 0 and 1 up to rounding.

    The logits of a DisMax head are minus the distances to the prototypes. The loss's alpha is not
    applied here: the paper's h(d) = d.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the entropy in nats, shape [B]."""
        return -log_entropy(outputs.logits)
