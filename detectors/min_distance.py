"""Minimum distance score (IsoMax+; Macedo et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register


@register(
    "min_distance",
    label="MinDistance",
    title="Minus the distance to the nearest prototype",
    paper=(
        "Enhanced Isotropy Maximization Loss: Seamless and High-Performance "
        "Out-of-Distribution Detection Simply Replacing the SoftMax Loss"
    ),
    authors=("David Macêdo", "Teresa Ludermir"),
    venue="arXiv",
    year=2021,
    url="https://arxiv.org/abs/2105.14399",
    code="https://github.com/dlmacedo/entropic-out-of-distribution-detection",
    needs=("dismax_head",),
)
class MinDistance(Detector):
    """The largest logit, max_j z_j = -min_j d_j, of a head with z_j = -d_j.

    Proposed for the head `isomax_plus`. With `dismax` the distances are those of the features
    themselves; with `dismax2022` the mean distance, too, is in the logits.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the smallest distance, shape [B]."""
        return outputs.logits.amax(dim=1)
