"""Max-mean logit entropy score (DisMax of 2022; Macedo et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import negative_entropy


@register(
    "mmles",
    label="MMLES",
    title="Largest logit, mean logit and negative entropy, summed",
    paper=(
        "Distinction Maximization Loss: Efficiently Improving Out-of-Distribution Detection "
        "and Uncertainty Estimation by Replacing the Loss and Calibrating"
    ),
    authors=("David Macêdo", "Cleber Zanchettin", "Teresa Ludermir"),
    venue="arXiv",
    year=2022,
    url="https://arxiv.org/abs/2205.05874",
    code="https://github.com/dlmacedo/distinction-maximization-loss",
    needs=("dismax_head",),
)
class MMLES(Detector):
    """max z + mean z + sum p log p, with p = softmax(z).

    Proposed for the head `dismax2022`, whose distances are between directions and whose logits are
    divided by the temperature calibrated on validation data. With `dismax` the mean distance grows
    with the length of the features and may count against in-distribution images.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """The sum of the three, in nats, shape [B]."""
        z = outputs.logits
        return z.amax(dim=1) + z.mean(dim=1) + negative_entropy(z)
