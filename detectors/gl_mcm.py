"""Global and local maximum concept matching (Miyai et al., IJCV 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.number_checks import not_negative, positive
from oodbench.numerics.batch_parts import row_slices

_BLOCK = 2**22
"""Cosines of patches and classes that are in memory together."""


@register(
    "gl_mcm",
    label="GL-MCM",
    title="Global and local maximum concept matching",
    paper=(
        "GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot Out-of-Distribution "
        "Detection"
    ),
    authors=("Atsuyuki Miyai", "Qing Yu", "Go Irie", "Kiyoharu Aizawa"),
    venue="IJCV",
    year=2025,
    url="https://arxiv.org/abs/2304.04521",
    code="https://github.com/AtsuMiyai/GL-MCM",
    needs=("features", "language", "local_features"),
)
class GlobalLocalMaximumConceptMatching(Detector):
    """MCM + weight * max_{i, c} softmax_c(s_i / T), with s_ic the cosine of patch i and class c.

    Both temperatures are the same. The local features are those of the authors' code
    (`oodbench.models.vision_language.image_encoders`). The authors take weight = 1 and T = 1, and
    have no grid.

    Args:
        weight: lambda, the weight of the local term.
        temperature: T.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        self.weight = not_negative("weight", weight)
        self.temperature = positive("temperature", temperature)

    def score(self, outputs: Outputs) -> Tensor:
        """Sum of the largest probabilities, shape [B]."""
        language, local = outputs.language, outputs.local_features
        assert language is not None
        assert local is not None
        rows = max(1, _BLOCK // (local.shape[1] * len(language.class_names)))

        def largest(features: Tensor) -> Tensor:
            cosines = language.cosines(features)
            return (cosines / self.temperature).softmax(dim=-1).amax(dim=-1)

        blocks = [local[block] for block in row_slices(local, rows)]
        of_patches = [largest(block).amax(dim=1) for block in blocks]
        return largest(outputs.features) + self.weight * torch.cat(of_patches)
