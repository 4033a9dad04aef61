"""Deep ensembles (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import Confidence, confidence, log_mean_probabilities
from oodbench.numerics.input_checks import one_of


@register(
    "ensemble",
    label="Ensemble",
    title="Deep ensemble: confidence of the mean probabilities of several networks",
    paper="Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    authors=("Balaji Lakshminarayanan", "Alexander Pritzel", "Charles Blundell"),
    venue="NeurIPS",
    year=2017,
    url="https://arxiv.org/abs/1612.01474",
    needs=("member_logits",),
)
class DeepEnsemble(Detector):
    """Confidence of p = 1/M sum_m softmax(z_m), with z_m the logits of network m.

    The model is an `oodbench.models.Ensemble` of networks that were trained alike from other seeds.
    On a single network the detector is skipped.

    Args:
        statistic: "entropy" for minus the logarithm of the entropy of p, "max_probability" for the
            log-odds of its largest entry: the order of both, without ties.
    """

    def __init__(self, statistic: Confidence = "entropy") -> None:
        self.statistic = one_of("statistic", statistic, Confidence)

    def score(self, outputs: Outputs) -> Tensor:
        """Confidence of the mean probabilities, shape [B]."""
        assert outputs.sampled_logits is not None, "given while scoring"
        return confidence(self.statistic, log_mean_probabilities(outputs.sampled_logits))
