"""Clusters of vectors without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oodbench.errors import counted

MOST_VECTORS = 10_000
"""Vectors that the centers of clusters are computed from; all are then assigned."""


def k_means(blocks: Sequence[Tensor], clusters: int) -> Tensor:
    """The cluster of each vector by k-means (scikit-learn), 0 .. clusters - 1, shape [N], int64.

    Centers are those of evenly spaced vectors, at most `MOST_VECTORS`, the best of three starts
    (k-means++) with a fixed seed.

    Args:
        blocks: N vectors in parts, each of shape [n, D], on any device.
        clusters: number of clusters.

    Raises:
        ValueError: if there are fewer vectors than clusters.
    """
    count = sum(map(len, blocks))
    if count < clusters:
        raise ValueError(
            f"{counted(clusters, 'cluster')} of {counted(count, 'training image')}: choose fewer "
            "clusters, or fit on more images"
        )
    if clusters == 1:
        device = blocks[0].device
        return torch.zeros(count, dtype=torch.int64, device=device)
    from sklearn.cluster import KMeans  # takes long to import

    step = -(-count // MOST_VECTORS)
    rows = torch.arange(0, count, step)
    starts = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0)
    chosen = [
        block[(rows[(rows >= start) & (rows < start + len(block))] - start).to(block.device)]
        for block, start in zip(blocks, starts.tolist(), strict=False)
    ]
    model = KMeans(clusters, n_init=3, random_state=0).fit(torch.cat(chosen).double().cpu().numpy())
    centers = torch.from_numpy(model.cluster_centers_)
    return torch.cat(
        [torch.cdist(block.double(), centers.to(block.device)).argmin(dim=1) for block in blocks]
    )
