"""Monte Carlo dropout (Gal & Ghahramani, ICML 2016)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import Confidence, confidence, log_mean_probabilities
from oodbench.numerics.input_checks import at_least, one_of


@register(
    "mcd",
    label="MCDropout",
    title="Monte Carlo dropout: confidence of the mean of several passes with dropout",
    aliases=("dropout",),
    paper=("Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning"),
    authors=("Yarin Gal", "Zoubin Ghahramani"),
    venue="ICML",
    year=2016,
    url="https://arxiv.org/abs/1506.02142",
    code="https://github.com/yaringal/DropoutUncertaintyExps",
    needs=("dropout_logits",),
)
class MonteCarloDropout(Detector):
    """Confidence of p = 1/M sum_m softmax(z_m), with z_m the logits of pass m with dropout.

    The dropout modules of the network drop units as in training, and the rest of it is in
    evaluation mode. Pass m drops the same units of every image, as a network drawn from the
    approximate posterior does, so that scores do not depend on the batch. A network without dropout
    modules has nothing to draw, and the detector is skipped.

    Args:
        samples: M. (Published code takes 5 to 100.)
        statistic: "entropy" for minus the logarithm of the entropy of p, "max_probability" for the
            log-odds of its largest entry: the order of both, without ties.
        seed: seed of the units that are dropped.
    """

    def __init__(self, samples: int = 30, statistic: Confidence = "entropy", seed: int = 0) -> None:
        self.samples = at_least("samples", samples, 1)
        self.statistic = one_of("statistic", statistic, Confidence)
        self.seed = seed

    def score(self, outputs: Outputs) -> Tensor:
        """Confidence of the mean probabilities, shape [B]."""
        assert outputs.sampled_logits is not None, "given while scoring"
        return confidence(self.statistic, log_mean_probabilities(outputs.sampled_logits))
