"""SCALE: activation scaling without pruning (Xu et al., ICLR 2024)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import fraction, one_of
from oodbench.numerics.shaping import Place, activations, largest, sharpening


@register(
    "scale",
    label="SCALE",
    title="SCALE: activations scaled by how peaked they are",
    paper="Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
    authors=("Kai Xu", "Rongyu Chen", "Gianni Franchi", "Angela Yao"),
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2310.00227",
    code="https://github.com/kai422/SCALE",
    needs=("features", "feature_map", "head"),
    # The authors' grid.
    search_space={
        "percentile": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
    },
    nonnegative_features=True,
    family="shaping",
)
class SCALE(Detector):
    """Energy of W (r h) + b, with r = exp(s1 / s2).

    s1 is the sum of an image's n activations and s2 that of the largest n - round(n p) of them (at
    least one). Where s2 is not positive, r = 1. The factor commutes with pooling, so the features
    are multiplied by it wherever s1 and s2 come from.

    The formula assumes activations that are not negative: where signed ones cancel in s1, s1 / s2
    does not say how peaked they are.

    Args:
        percentile: p, a fraction in [0, 1). 0.85 is the authors'; pytorch-ood's is 0.65.
        on: activations in s1 and s2: "pooled", the features after pooling, as in the authors' code;
            "map", the map before pooling, as in pytorch-ood.
        base: score of the logits: "energy" or "max_probability".
    """

    def __init__(
        self, percentile: float = 0.85, on: Place = "pooled", base: BaseScore = "energy"
    ) -> None:
        self.percentile = fraction("percentile", percentile)
        self.on = one_of("on", on, Place)
        self.base = one_of("base", base, BaseScore)

    @property
    def works_on_map(self) -> bool:
        """Whether s1 and s2 are sums over the map, before pooling."""
        return self.on == "map"

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of scaled features, shape [B]."""
        values = activations(outputs, self.on)
        factors = sharpening(values, largest(values, self.percentile))
        return base_score(self.base, outputs.head.logits(outputs.features * factors[:, None]))
