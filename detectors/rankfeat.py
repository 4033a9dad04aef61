"""RankFeat: rank-one feature removal (Song, Sebe & Wang, NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import one_of
from oodbench.numerics.shaping import activations, remove_rank_one, spatial_mean


@register(
    "rankfeat",
    label="RankFeat",
    title="RankFeat: the map without its largest singular component",
    paper="RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
    authors=("Yue Song", "Nicu Sebe", "Wei Wang"),
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2209.08590",
    code="https://github.com/KingJamesSong/RankFeat",
    needs=("feature_map", "head", "replaced_logits"),
)
class RankFeat(Detector):
    """Energy of W pool(X - s1 u1 v1^T) + b, with X the last map as a matrix of [D, HW].

    (s1, u1, v1) is the largest singular triple of X, the paper's Block 4. With `fuse`, these logits
    are averaged with those that the network computes after the same removal in the feature layer
    before the last, Block 3: the authors' code for residual networks (`iterate_data_rankfeat` in
    their test_ood_resnetv2.py). That code removes the triple before the normalization and rectifier
    that follow Block 4; here X is the map that is averaged, which in other residual networks is
    Block 4's.

    Args:
        base: score of the logits: "energy" or "max_probability".
        fuse: whether Block 3 counts too; costs the last stage's part of another forward pass.
    """

    def __init__(self, base: BaseScore = "energy", fuse: bool = False) -> None:
        self.base = one_of("base", base, BaseScore)
        self.fuse = fuse

    def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
        """The feature layer before the last, to fuse.

        Raises:
            ValueError: if there is none.
        """
        if self.fuse and len(taps) < 2:
            there = f"only '{taps[0]}' is there" if taps else "there is none"
            raise ValueError(
                "needs two feature layers to fuse, the ends of the network's last two stages, and "
                f"{there}: name them with taps, or leave out fuse"
            )
        return taps[-2:-1] if self.fuse else ()

    def replace_tap(self, name: str, activation: Tensor) -> Tensor:
        """Its map, or tokens, without the largest singular triple.

        Raises:
            ValueError: if it has one place.
        """
        places = activation.transpose(1, 2) if activation.ndim == 3 else activation
        if places[0, 0].numel() < 2:
            raise ValueError(
                f"fuse needs more than one place in the feature layer '{name}': a single place is "
                "a matrix of rank one, of which nothing is left"
            )
        rest = remove_rank_one(places)
        return rest.transpose(1, 2) if activation.ndim == 3 else rest

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits after the removal, shape [B].

        Raises:
            ValueError: if the map has one place.
        """
        rest = remove_rank_one(activations(outputs, "map"))
        logits = outputs.head.logits(spatial_mean(rest))
        if self.fuse:
            (other,) = outputs.replaced_logits.values()
            logits = (logits + other) / 2
        return base_score(self.base, logits)
