"""Gini score of DOCTOR (Granese et al., NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.number_checks import positive
from oodbench.numerics.functional import log_complements, log_probabilities


@register(
    "gini",
    label="Gini",
    title="DOCTOR: sum of the squared probabilities",
    aliases=("doctor",),
    paper="DOCTOR: A Simple Method for Detecting Misclassification Errors",
    authors=(
        "Federica Granese",
        "Marco Romanelli",
        "Daniele Gorla",
        "Catuscia Palamidessi",
        "Pablo Piantanida",
    ),
    venue="NeurIPS",
    year=2021,
    url="https://openreview.net/forum?id=FHQBDiMwvK",
    code="https://github.com/doctor-public-submission/DOCTOR",
)
class Gini(Detector):
    """log g - log(1 - g) with g = sum_c p_c^2, and p = softmax(z / T).

    g is the probability that two classes drawn from p are the same. The paper's D_alpha rejects an
    image if (1 - g) / g is above a threshold; the score is minus the logarithm of that ratio. It
    orders images as g does, without ties where g rounds to 1: 1 - g is the sum of p_c (1 - p_c),
    taken in logarithms. The paper's D_beta orders images as the maximum probability does, which is
    `baseline`. The images are not preprocessed, as in the paper's setting of a "totally black box".

    Args:
        temperature: T; 1 is the paper's for D_alpha.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def score(self, outputs: Outputs) -> Tensor:
        """Log-odds of the sum of squared probabilities, shape [B]."""
        logits = outputs.logits / self.temperature
        log_p = log_probabilities(logits)
        log_complement = (log_p + log_complements(logits)).logsumexp(dim=1)
        return (2 * log_p).logsumexp(dim=1) - log_complement
