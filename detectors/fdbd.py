"""Fast decision boundary based detector, fDBD (Liu & Qin, ICML 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.numerics.statistics.moments import mean_features

SMALLEST_DISTANCE = 1e-8
"""Smaller distances from the mean feature count as this one: every score is finite."""


@register(
    "fdbd",
    label="fDBD",
    title="Mean distance to the decision boundaries",
    paper="Fast Decision Boundary based Out-of-Distribution Detector",
    authors=("Litian Liu", "Yao Qin"),
    venue="ICML",
    year=2024,
    url="https://arxiv.org/abs/2312.11536",
    code="https://github.com/litianliu/fDBD-OOD",
    needs=("features", "head", "fit"),
)
class FDBD(Detector):
    """Mean over c != c* of |z_c* - z_c| / ||w_c* - w_c||, over ||h - mu||.

    c* is the predicted class and mu the mean training feature. Each term is the distance from h to
    the boundary between c* and c in the space of features. A class with the same weights as c* has
    no boundary with it and counts 0. No hyperparameter, as in the paper; the authors' code in
    OpenOOD sums over the classes, and may choose ||h|| as the divisor on validation data.
    """

    def fit(self, batches: Batches) -> None:
        """mu, shape [D], in one pass; ||w_i - w_j||, shape [C, C].

        Raises:
            ValueError: if there are no images, fewer than two classes, or the head is not linear.
        """
        self.mean, head = mean_features(batches)
        self.weight_distances = _weight_distances(head)

    def score(self, outputs: Outputs) -> Tensor:
        """Mean distance to the boundaries over the distance from the mean feature, shape [B]."""
        largest, predicted = outputs.logits.double().max(dim=1, keepdim=True)
        boundaries = (largest - outputs.logits) / self.weight_distances[predicted.squeeze(1)]
        centered = outputs.features.double() - self.mean
        from_mean: Tensor = torch.linalg.vector_norm(centered, dim=1)
        mean_distance = boundaries.sum(dim=1) / (boundaries.shape[1] - 1)
        return mean_distance / from_mean.clamp_min(SMALLEST_DISTANCE)


def _weight_distances(head: Head) -> Tensor:
    """||w_i - w_j||, shape [C, C], float64; infinite between classes with the same weights."""
    weight = head.linear_weight.double()
    if len(weight) < 2:
        raise ValueError("there are no decision boundaries between fewer than two classes")
    # Not by the expanded square, which cancels for weights near each other.
    distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.masked_fill(distances == 0, torch.inf)
