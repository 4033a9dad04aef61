"""Generalized entropy, GEN (Liu, Lochman & Zach, CVPR 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.number_checks import positive
from oodbench.numerics.functional import log_generalized_entropy
from oodbench.numerics.input_checks import at_least


@register(
    "gen",
    label="GEN",
    title="Generalized entropy of the largest probabilities",
    paper="GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
    authors=("Xixi Liu", "Yaroslava Lochman", "Christopher Zach"),
    venue="CVPR",
    year=2023,
    url="https://openreview.net/forum?id=Sie7oeTABS",
    code="https://github.com/XixiLiu95/GEN",
    # What OpenOOD v1.5 passes.
    search_space={
        "gamma": (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
        "top_m": (10, 50, 100, 200, 500, 1000),
    },
)
class GEN(Detector):
    """-log G with G = sum_{j <= M} p_j^gamma (1 - p_j)^gamma over the M largest probabilities.

    The paper's score is -G. The logarithm has the same order, and no ties where G underflows. Very
    small probabilities are not clipped: with a small gamma they count, (1e-20)^0.1 is 0.01.

    Args:
        gamma: exponent; 0.1 in the paper.
        top_m: M; 100 in the paper. All classes where there are fewer.
    """

    def __init__(self, gamma: float = 0.1, top_m: int = 100) -> None:
        self.gamma = positive("gamma", gamma)
        self.top_m = at_least("top_m", top_m, 1)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the generalized entropy, shape [B]."""
        return -log_generalized_entropy(outputs.logits, self.gamma, self.top_m)
