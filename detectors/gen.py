"""Generalized entropy, GEN (Liu, Lochman & Zach, CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register
from oodbench.numerics.input_checks import at_least, positive


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

    The paper's score is -G. The logarithm has the same order, and no ties where G underflows.

    With a small gamma, very small probabilities count: (1e-20)^0.1 is 0.01. Probabilities are
    therefore neither clipped nor subtracted from 1 where that would cancel.

    Args:
        gamma: exponent; 0.1 in the paper.
        top_m: M; 100 in the paper. All classes where there are fewer.
    """

    def __init__(self, gamma: float = 0.1, top_m: int = 100) -> None:
        self.gamma = positive("gamma", gamma)
        self.top_m = at_least("top_m", top_m, 1)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the generalized entropy, shape [B]."""
        log_p = F.log_softmax(outputs.logits, dim=1).sort(dim=1, descending=True).values
        # 1 - p of the largest is the sum of the others; of these, none is larger than 1/2.
        log_largest_complement = log_p[:, 1:].logsumexp(dim=1, keepdim=True)
        others = log_p[:, 1 : self.top_m]
        log_complement = torch.cat([log_largest_complement, torch.log1p(-others.exp())], dim=1)
        return -(self.gamma * (log_p[:, : self.top_m] + log_complement)).logsumexp(dim=1)
