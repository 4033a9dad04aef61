"""Neural collapse inspired detector, NCI (Liu & Qin, CVPR 2025)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.moments import mean_features


@register(
    "nci",
    label="NCI",
    title="Neural collapse: proximity to the class's weights, and feature norm",
    venue="CVPR",
    year=2025,
    url="https://arxiv.org/abs/2311.01479",
    needs=("features", "head", "fit"),
    # Default and grid of the authors' code in OpenOOD.
    search_space={"alpha": (0.0001, 0.001, 0.01, 0.1)},
)
class NCI(Detector):
    """(h - mu) . w_c / ||h - mu||_2 + alpha ||h||_1, with c the predicted class.

    The first term is the cosine between the centered feature and the class's weights, times
    ||w_c||;
    mu is the mean training feature. At h = mu there is no direction, and the term is 0.

    Args:
        alpha: weight of the feature's norm, 0 or more.
    """

    def __init__(self, alpha: float = 0.0001) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha must not be negative, not {alpha}")
        self.alpha = alpha
        self.mean: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        """mu, shape [D], in one pass.

        Raises:
            ValueError: if there are no images.
        """
        self.mean, _ = mean_features(batches)

    def score(self, outputs: Outputs) -> Tensor:
        """Proximity plus weighted norm, shape [B]."""
        head, features = outputs.head, outputs.features.double()
        if self.mean is None:
            raise ValueError("NCI has no mean feature yet: call fit first")
        if head.kind != "linear" or head.weight is None:
            raise ValueError(f"a {head.kind} head has no weight vector w of a class")
        weights = head.weight[outputs.logits.argmax(dim=1)].double()
        proximity = (F.normalize(features - self.mean, dim=1) * weights).sum(dim=1)
        return proximity + self.alpha * features.abs().sum(dim=1)
