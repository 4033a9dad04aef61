"""Simplified Hopfield energy, SHE (Zhang et al., ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.errors import listed


@register(
    "she",
    label="SHE",
    title="Simplified Hopfield energy",
    venue="ICLR",
    year=2023,
    url="https://openreview.net/forum?id=KkazG4lgKL",
    needs=("features", "labels", "fit"),
)
class SHE(Detector):
    """<h, S_c>, with c the predicted class and S_c its stored pattern.

    S_c is the mean feature of the training images of class c that are classified correctly. The
    product is not normalized: features that are long count as in-distribution.
    """

    def __init__(self) -> None:
        self.patterns: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        """The patterns S_c, shape [C, D], in one pass.

        Raises:
            ValueError: if a class has no training image that is classified correctly (any image
                may be predicted as that class), or images have no labels.
        """
        sums: Tensor | None = None
        counts = torch.zeros(batches.num_classes, dtype=torch.int64)
        for outputs in batches:
            if outputs.labels is None:
                raise ValueError("SHE needs training images with labels")
            correct = outputs.logits.argmax(dim=1) == outputs.labels
            classes, features = outputs.labels[correct], outputs.features[correct].double()
            if sums is None:
                sums = features.new_zeros(batches.num_classes, features.shape[1])
                counts = counts.to(features.device)
            sums.index_add_(0, classes, features)
            counts += torch.bincount(classes, minlength=batches.num_classes)
        if sums is None:
            raise ValueError("no training images to fit on")
        empty = [index for index, count in enumerate(counts.tolist()) if count == 0]
        if empty:
            raise ValueError(
                f"no training image of class {listed(empty)} is classified correctly: it has "
                "no pattern. Fit on more images, or train the network longer."
            )
        self.patterns = sums / counts[:, None]

    def score(self, outputs: Outputs) -> Tensor:
        """Inner product with the predicted class's pattern, shape [B]."""
        if self.patterns is None:
            raise ValueError("SHE has no patterns yet: call fit first")
        stored = self.patterns[outputs.logits.argmax(dim=1)]
        return (outputs.features.double() * stored).sum(dim=1)
