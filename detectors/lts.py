"""LTS: logit scaling (Djurisic, Liu & Nikolic, 2025)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import fraction, one_of
from oodbench.numerics.shaping import largest, mass_ratio


@register(
    "lts",
    label="LTS",
    title="LTS: logits scaled by how peaked the features are",
    paper="Logit Scaling for Out-of-Distribution Detection",
    authors=("Andrija Djurisic", "Rosanne Liu", "Mladen Nikolic"),
    venue="Machine Vision and Applications",
    year=2025,
    url="https://arxiv.org/abs/2409.01175",
    code="https://github.com/andrijazz/lts",
    needs=("features",),
    nonnegative_features=True,
    # The values of ASH and SCALE in OpenOOD v1.5; the authors use 95 (per cent) for all networks.
    search_space={"percentile": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)},
    family="shaping",
)
class LTS(Detector):
    """Energy of the logits r^2 z, with r = s1 / s2.

    s1 is the sum of an image's D features and s2 that of the largest D - round(D p) of them (at
    least one). Negative features count as zero in both, as in the authors' code; the paper does not
    mention it. The logits z are those of the unchanged features. r is at least 1, and 1 where no
    feature is positive.

    Args:
        percentile: p, a fraction in [0, 1).
        base: score of the logits: "energy" or "max_probability".
    """

    def __init__(self, percentile: float = 0.95, base: BaseScore = "energy") -> None:
        self.percentile = fraction("percentile", percentile)
        self.base = one_of("base", base, BaseScore)

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the scaled logits, shape [B]."""
        active = outputs.features.relu()
        ratios = mass_ratio(active, largest(active, self.percentile)).clamp_min(1)
        return base_score(self.base, outputs.logits * ratios.square()[:, None])
