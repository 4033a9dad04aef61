"""Distances of logits to the mean activation vectors of the classes (Bendale & Boult 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.numerics.functional import squared_distances
from oodbench.numerics.row_sample import RowSample


@dataclass(frozen=True)
class Distances:
    """Two kinds of distances, of the same shape.

    Attributes:
        euclidean: || v - mu ||.
        cosine: 1 - cos(v, mu).
    """

    euclidean: Tensor
    cosine: Tensor

    def mixed(self, euclidean_weight: float) -> Tensor:
        """W d_euclidean + (1 - w) d_cosine.

        Args:
            euclidean_weight: w, in [0, 1].
        """
        return euclidean_weight * self.euclidean + (1 - euclidean_weight) * self.cosine


def distances_to_means(logits: Tensor, means: Tensor) -> Distances:
    """Distances of every image to every class, shape [B, C].

    Args:
        logits: shape [B, C], float64.
        means: mean activation vectors, shape [C, C], float64.
    """
    return Distances(
        squared_distances(logits, means).sqrt(),
        1 - F.normalize(logits, dim=1) @ F.normalize(means, dim=1).T,
    )


def distances_within_classes(bank: RowSample, means: Tensor) -> tuple[Distances, Tensor]:
    """Distances of training images to their own class, shape [N], and their classes, [N].

    Args:
        bank: logits of images that are classified correctly, so the largest logit gives the class.
        means: mean activation vectors, shape [C, C], float64.
    """
    euclidean, cosine, classes = [], [], []
    for rows in bank.blocks:
        nearest = rows.argmax(dim=1)
        own = means[nearest]
        euclidean.append((rows.double() - own).norm(dim=1))
        cosine.append(1 - (F.normalize(rows.double(), dim=1) * F.normalize(own, dim=1)).sum(1))
        classes.append(nearest)
    return Distances(torch.cat(euclidean), torch.cat(cosine)), torch.cat(classes)
