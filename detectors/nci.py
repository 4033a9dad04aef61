"""Neural collapse inspired detector, NCI (Liu & Qin, CVPR 2025)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Outputs, register
from oodbench.number_checks import not_negative
from oodbench.numerics.statistics.moments import mean_features


@register(
    "nci",
    label="NCI",
    title="Neural collapse: proximity to the class's weights, and feature norm",
    paper="Detecting Out-of-Distribution Through the Lens of Neural Collapse",
    authors=("Litian Liu", "Yao Qin"),
    venue="CVPR",
    year=2025,
    url="https://arxiv.org/abs/2311.01479",
    code="https://github.com/litianliu/NCI-OOD",
    needs=("features", "head", "fit"),
    # Default and grid of the authors' code in OpenOOD.
    search_space={"alpha": (0.0001, 0.001, 0.01, 0.1)},
)
class NCI(Detector):
    """(h - mu) . w_c / ||h - mu||_2 + alpha ||h||_1, with c the predicted class.

    The first term is the cosine between the centered feature and the class's weights, times
    ||w_c||; mu is the mean training feature. At h = mu there is no direction, and the term is 0.

    Args:
        alpha: weight of the feature's norm, 0 or more.
    """

    def __init__(self, alpha: float = 0.0001) -> None:
        self.alpha = not_negative("alpha", alpha)

    def fit(self, batches: Batches) -> None:
        """mu, shape [D], in one pass.

        Raises:
            ValueError: if there are no images.
        """
        self.mean, _ = mean_features(batches)

    def score(self, outputs: Outputs) -> Tensor:
        """Proximity plus weighted norm, shape [B]."""
        features = outputs.features.double()
        weights = outputs.head.linear_weight[outputs.logits.argmax(dim=1)].double()
        proximity = (F.normalize(features - self.mean, dim=1) * weights).sum(dim=1)
        return proximity + self.alpha * features.abs().sum(dim=1)
