"""Simplified Hopfield energy, SHE (Zhang et al., ICLR 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.input_checks import labels_of, require_every_class
from oodbench.numerics.statistics.moments import ClassMeans


@register(
    "she",
    label="SHE",
    title="Simplified Hopfield energy",
    paper=(
        "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization "
        "with Modern Hopfield Energy"
    ),
    authors=(
        "Jinsong Zhang",
        "Qiang Fu",
        "Xu Chen",
        "Lun Du",
        "Zelin Li",
        "Gang Wang",
        "Xiaoguang Liu",
        "Shi Han",
        "Dongmei Zhang",
    ),
    venue="ICLR",
    year=2023,
    url="https://openreview.net/forum?id=KkazG4lgKL",
    code="https://github.com/zjs975584714/SHE_ood_detection",
    needs=("features", "labels", "fit"),
)
class SHE(Detector):
    """<h, S_c>, with c the predicted class and S_c its stored pattern.

    S_c is the mean feature of the training images of class c that are classified correctly. The
    product is not normalized: a long feature counts as in-distribution.
    """

    def fit(self, batches: Batches) -> None:
        """The patterns S_c, shape [C, D], in one pass.

        Raises:
            ValueError: if a class has no training image that is classified correctly, or images
                have no labels.
        """
        correct_images = ClassMeans(batches.num_classes)
        for outputs in batches:
            labels = labels_of(outputs)
            correct = outputs.logits.argmax(dim=1) == labels
            correct_images.add(outputs.features[correct], labels[correct])
        self.patterns = correct_images.means
        require_every_class(
            correct_images.counts,
            "no training image of class {} is classified correctly: it has no pattern. Fit on more "
            "images, or train the network longer.",
        )

    def score(self, outputs: Outputs) -> Tensor:
        """Inner product with the predicted class's pattern, shape [B]."""
        pattern = self.patterns[outputs.logits.argmax(dim=1)]
        return (outputs.features.double() * pattern).sum(dim=1)
