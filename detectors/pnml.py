"""pNML regret of the last layer (Bibas, Feder & Hassner, NeurIPS 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.bank import directions
from oodbench.numerics.functional import log_complements, log_probabilities, log_softplus
from oodbench.numerics.subspace import FeatureMoments

SMALLEST = 1e-300
"""Smaller values of kappa count as this one: every score is finite."""


@register(
    "pnml",
    label="pNML",
    title="pNML: regret of the last layer",
    paper=(
        "Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution Detection"
    ),
    authors=("Koby Bibas", "Meir Feder", "Tal Hassner"),
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2110.09246",
    code="https://github.com/kobybibas/pnml_ood_detection",
    needs=("features", "head", "fit"),
)
class PNML(Detector):
    """-log R, with the regret R = log(sum_c p_c / (p_c + (1 - p_c) p_c^kappa)) / log C.

    p is the softmax of the last layer on the direction q = f / ||f||, kappa = k / (1 + k), and k =
    q^T P q with P the pseudo-inverse of the sum of q q^T over the training images. As in the
    authors' code, the part of q outside the span of the training directions is ignored.

    The paper's score is -R. The logarithm has the same order, and no ties where R rounds to 0. The
    sum is 1 + sum_c p_c (1 - p_c) (1 - p_c^kappa) / (p_c + (1 - p_c) p_c^kappa), whose terms are
    not negative and are taken in logarithms.
    """

    def fit(self, batches: Batches) -> None:
        """Second moment of the training directions, in one pass.

        Raises:
            ValueError: if there are no images, or all their features are zero.
        """
        moments = batches.shared(FeatureMoments, of="directions")
        for outputs in batches:
            batches.once(moments.update, directions(outputs.features))
        self.root = batches.once(moments.inverse_root) / math.sqrt(moments.count)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the regret, shape [B]."""
        rows = directions(outputs.features).double()
        k = (rows @ self.root).square().sum(dim=1)
        logits = outputs.head.logits(rows)
        log_p, log_rest = log_probabilities(logits), log_complements(logits)
        log_power = (k / (1 + k)).clamp_min(SMALLEST)[:, None] * log_p
        log_terms = log_p + log_rest + (-torch.expm1(log_power)).log()
        log_terms = log_terms - torch.logaddexp(log_p, log_rest + log_power)
        return math.log(math.log(logits.shape[1])) - log_softplus(log_terms.logsumexp(dim=1))
