"""ASH: extremely simple activation shaping (Djurisic et al., ICLR 2023)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import fraction, one_of
from oodbench.numerics.shaping import (
    Place,
    activations,
    prune,
    prune_and_level,
    prune_and_sharpen,
    spatial_mean,
)

Variant = Literal["s", "p", "b"]

SHAPINGS = {"s": prune_and_sharpen, "p": prune, "b": prune_and_level}


@register(
    "ash",
    label="ASH",
    title="ASH: low activations to zero, the rest sharpened",
    paper="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
    authors=("Andrija Djurisic", "Nebojsa Bozanic", "Arjun Ashok", "Rosanne Liu"),
    venue="ICLR",
    year=2023,
    url="https://arxiv.org/abs/2209.09858",
    code="https://github.com/andrijazz/ash",
    needs=("features", "feature_map", "head"),
    # The grid of OpenOOD and pytorch-ood 0.4.0.
    search_space={"percentile": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)},
    nonnegative_features=True,
    family="shaping",
)
class ASH(Detector):
    """Energy of W s(h) + b, where s prunes an image's values below its own percentile.

    Pruning keeps the largest k = n - round(n p) of n values. ASH-S multiplies them by exp(s1 / s2),
    with s1 and s2 the sums before and after pruning; ASH-P leaves them; ASH-B sets them all to
    s1 / k. Values tied at the threshold share the remaining places; the authors' code chooses among
    them arbitrarily. Such ties matter in ASH-B only, when fewer than k values are positive. At
    least one value is kept, and where s2 is not positive ASH-S does not scale.

    The formula assumes values that are not negative. Among signed values, the lowest ones are the
    most negative, not the weakest, and s1 / s2 does not say how few values are strong.

    Args:
        variant: "s", "p" or "b".
        percentile: p, a fraction in [0, 1). The authors' configurations for ASH-S have 0.95 for
            CIFAR-10 and CIFAR-100 (0.9 in earlier revisions) and 0.9 for ImageNet, which is also
            OpenOOD's; pytorch-ood's is 0.65.
        on: what is shaped: "pooled", the features after pooling, as in the authors' code; "map",
            the map before pooling, as in pytorch-ood.
        base: score of the logits W s(h) + b: "energy" or "max_probability".
    """

    def __init__(
        self,
        variant: Variant = "s",
        percentile: float = 0.9,
        on: Place = "pooled",
        base: BaseScore = "energy",
    ) -> None:
        self.variant = one_of("variant", variant, Variant)
        self.percentile = fraction("percentile", percentile)
        self.on = one_of("on", on, Place)
        self.base = one_of("base", base, BaseScore)

    @property
    def works_on_map(self) -> bool:
        """Whether the map is shaped, before pooling."""
        return self.on == "map"

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of shaped activations, shape [B]."""
        shaped = SHAPINGS[self.variant](activations(outputs, self.on), self.percentile)
        return base_score(self.base, outputs.head.logits(spatial_mean(shaped)))
