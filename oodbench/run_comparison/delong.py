"""The AUROC as a mean over images, and what each image adds to it (DeLong et al., Biometrics 1988).

The AUROC is a mean over all pairs of an ID and an OOD image. The *component* of an image is the
mean over its own pairs: for an ID image, the fraction of the OOD images that score below it; for an
OOD image, the fraction of the ID images that score above it. Ties count half. The variance is

    Var = S_id / n_id + S_ood / n_ood,

with S the sample variance of the components. A difference of two AUROCs on the same images is the
mean of the differences of components, so the formula holds for it, covariance included. It holds
for every linear combination of AUROCs: means over seeds, and over OOD sets, which share the ID
images.

The components come from midranks in O(n log n) (Sun & Xu, IEEE Signal Processing Letters 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from oodbench.metrics import Array


class Components(NamedTuple):
    """Components of an AUROC, or of a linear combination of AUROCs on the same images.

    Attributes:
        id: of the ID images, shape [n_id]; their mean is the AUROC.
        ood: of the OOD images, shape [n_ood]; their mean is the AUROC.
    """

    id: Array
    ood: Array


def components(id_scores: Array, ood_scores: Array) -> Components:
    """Components of the AUROC of these scores.

    Args:
        id_scores: one finite score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one finite score per OOD image, shape [n_ood].
    """
    n_id, n_ood = len(id_scores), len(ood_scores)
    together = midranks(np.concatenate([id_scores, ood_scores]))
    # An image's midrank among all, less that among its own kind, counts the images of the other
    # kind below it. Ranks are multiples of a half: the differences are exact.
    ood_below = together[:n_id] - midranks(id_scores)
    id_below = together[n_id:] - midranks(ood_scores)
    return Components(ood_below / n_ood, 1 - id_below / n_id)


def midranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of their ranks. Shape [n]."""
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


def variance_of_sum(sets: Sequence[Components]) -> float:
    """Sampling variance of the sum over OOD sets of AUROCs, or of differences of AUROCs.

    Args:
        sets: components on each OOD set, all with the same ID images, at least two of every kind.
    """
    shared = np.sum([each.id for each in sets], axis=0)
    own = sum(np.var(each.ood, ddof=1) / len(each.ood) for each in sets)
    return float(np.var(shared, ddof=1) / len(shared) + own)
