"""RankFeat: rank-one feature removal (Song, Sebe & Wang, NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.functional import BaseScore, base_score
from oodbench.shaping import activations, check_choice, remove_rank_one, spatial_mean


@register(
    "rankfeat",
    label="RankFeat",
    title="RankFeat: the map without its largest singular component",
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2209.08590",
    needs=("feature_map", "head"),
)
class RankFeat(Detector):
    """Energy of W pool(X - s1 u1 v1^T) + b, with X the last map as a matrix of [D, HW].

    (s1, u1, v1) is the largest singular triple of X. Only the last map is used (the paper's Block
    4). The authors' code takes the mean of these logits and of those that the last stage makes of
    Block 3's map without its triple, which takes another forward pass through that stage.

    Args:
        base: what the changed logits are scored with: "energy" or "max_probability".
    """

    def __init__(self, base: BaseScore = "energy") -> None:
        check_choice("base", base, BaseScore)
        self.base = base

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of what is left of the map, shape [B].

        Raises:
            ValueError: if the map has one place.
        """
        rest = remove_rank_one(activations(outputs, "map"))
        return base_score(self.base, outputs.head.logits(spatial_mean(rest)))
