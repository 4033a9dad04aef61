"""CARef: class-aware relative features (Ling et al., CVPR 2025)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.statistics.moments import ClassMeans

SMALLEST_NORM = 1e-8
"""A feature with a smaller L1 norm counts as this long: every score is finite."""


@register(
    "caref",
    label="CARef",
    title="CARef: relative distance from the mean feature of the predicted class",
    paper=(
        "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature "
        "Leveraging"
    ),
    authors=(
        "Zhiwei Ling",
        "Yachen Chang",
        "Hailiang Zhao",
        "Xinkui Zhao",
        "Kingsum Chow",
        "Shuiguang Deng",
    ),
    venue="CVPR",
    year=2025,
    url="https://arxiv.org/abs/2503.00325",
    code="https://github.com/LingAndZero/CADRef",
    needs=("features", "fit"),
)
class CARef(Detector):
    """-||z - M_c||_1 / ||z||_1, with c the predicted class.

    M_c is the mean feature of the training images that the network predicts as c; true labels are
    not used. If no training image is predicted as a class, it has no mean, and the authors' code
    stops. Here its M_c is the mean feature of all training images.
    """

    def fit(self, batches: Batches) -> None:
        """Mean features by predicted class, shape [C, D], in one pass.

        Raises:
            ValueError: if there are no images.
        """
        means = batches.shared(ClassMeans, batches.num_classes, of="features by predicted class")
        for outputs in batches:
            batches.once(means.add, outputs.features, outputs.logits.argmax(dim=1))
        self.means = batches.once(means.means_or_overall)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the relative distance from the predicted class's mean, shape [B]."""
        features = outputs.features.double()
        errors = features - self.means[outputs.logits.argmax(dim=1)]
        norms = features.abs().sum(dim=1).clamp_min(SMALLEST_NORM)
        return -errors.abs().sum(dim=1) / norms
