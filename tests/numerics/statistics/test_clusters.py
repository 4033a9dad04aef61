"""Clusters of k-means: centers from a part of the vectors, all vectors assigned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from oodbench.numerics.statistics import clusters
from oodbench.numerics.statistics.clusters import k_means

VECTORS = torch.randn(103, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("most", [103, 50, 30])
@pytest.mark.parametrize("cuts", [(103,), (1, 40, 62), (10, 3, 90)])
def test_centers_are_those_of_evenly_spaced_vectors(
    monkeypatch: pytest.MonkeyPatch, most: int, cuts: tuple[int, ...]
) -> None:
    monkeypatch.setattr(clusters, "MOST_VECTORS", most)
    chosen = VECTORS.numpy()[:: {103: 1, 50: 3, 30: 4}[most]]
    assert len(chosen) <= most
    centers = KMeans(3, n_init=3, random_state=0).fit(chosen).cluster_centers_
    expected = [np.argmin([np.sum((v - c) ** 2) for c in centers]) for v in VECTORS.numpy()]
    assert k_means(VECTORS.split(cuts), 103, 3).tolist() == expected


def test_one_cluster_has_all_vectors() -> None:
    assert k_means([VECTORS], 103, 1).tolist() == [0] * 103
