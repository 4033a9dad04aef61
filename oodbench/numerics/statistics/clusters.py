"""Clusters of vectors without labels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from oodbench.errors import counted

MOST_VECTORS = 10_000
"""Vectors that the centers of clusters are computed from; all are then assigned."""


def k_means(blocks: Iterable[Tensor], count: int, clusters: int) -> Tensor:
    """The cluster of each vector by k-means (scikit-learn), 0 .. clusters - 1, shape [N], int64.

    Centers are those of evenly spaced vectors, at most `MOST_VECTORS`, the best of three starts
    (k-means++) with a fixed seed.

    Args:
        blocks: N vectors in parts, each of shape [n, D], on any device; iterated twice.
        count: N.
        clusters: number of clusters.

    Raises:
        ValueError: if there are fewer vectors than clusters.
    """
    if count < clusters:
        raise ValueError(
            f"{counted(clusters, 'cluster')} of {counted(count, 'training image')}: choose fewer "
            "clusters, or fit on more images"
        )
    if clusters == 1:
        return torch.cat([torch.zeros_like(block[:, 0], dtype=torch.int64) for block in blocks])
    from sklearn.cluster import KMeans  # takes long to import

    step, start, chosen = -(-count // MOST_VECTORS), 0, []
    for block in blocks:
        chosen.append(block[-start % step :: step].double().cpu())
        start += len(block)
    model = KMeans(clusters, n_init=3, random_state=0).fit(torch.cat(chosen).numpy())
    centers = torch.from_numpy(model.cluster_centers_)
    return torch.cat(
        [torch.cdist(block.double(), centers.to(block.device)).argmin(dim=1) for block in blocks]
    )
