"""Directions of class means, and cosines to them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Batches
from oodbench.numerics.input_checks import labels_of, require_images
from oodbench.numerics.statistics.moments import ClassMeans


def fitted_mean_directions(batches: Batches) -> Tensor:
    """Mean training feature of each class, divided by its length, shape [C, D], float64.

    Classes without images are left out. One pass; detectors share the means.

    Raises:
        ValueError: if there are no images, or images have no labels.
    """
    means = batches.shared(ClassMeans, batches.num_classes)
    for outputs in batches:
        batches.once(means.add, outputs.features, labels_of(outputs))
    require_images(int(means.counts.sum()))
    return F.normalize(means.means[means.counts > 0], dim=1)


def cosines(features: Tensor, unit_vectors: Tensor) -> Tensor:
    """Cosine of each feature vector with each unit vector, shape [B, C], float64; 0 for length 0.

    Args:
        features: shape [B, D].
        unit_vectors: shape [C, D], float64.
    """
    return F.normalize(features.double(), dim=1) @ unit_vectors.T
