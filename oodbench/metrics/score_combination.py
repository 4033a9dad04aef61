"""Scores made of the scores of two detectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oodbench.metrics.sorted_scores import Array, checked_scores


def sirc(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    id_second: npt.ArrayLike,
    first_maximum: float = 1.0,
) -> Array:
    """Softmax information retaining combination (SIRC) of two scores.

    -(S1max - S1) (1 + exp(-b (S2 - a))), with a = mean - 3 std and b = 1 / std of S2 on ID images
    (Xia & Bouganis, ACCV 2022). Where S2 is usual for an ID image the order is that of
    S1; where S2 is unusually low the score drops. The function returns
    -ln(S1max - S1) - ln(1 + exp(-b (S2 - a))), which orders the images in the same way and does not
    overflow. An image with S1 = S1max, for which the paper's score is 0, gets a finite score above
    all others; among such images S2 decides.

    Args:
        first: S1, a softmax score of each image, shape [n]; higher is more in-distribution. The
            paper uses the maximum softmax probability, or the negative entropy.
        second: S2, another score of the same images, shape [n]; higher is more in-distribution. The
            paper uses the 1-norm of the features, or the negative `residual`.
        id_second: S2 of ID training or validation images, shape [m]. Do not use test images.
        first_maximum: S1max, the largest possible S1: 1 for the maximum softmax probability, 0 for
            the negative entropy.

    Returns:
        One score for each image, shape [n]; higher is more in-distribution.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity; the
            shapes of `first` and `second` differ; `first` exceeds `first_maximum`; or all values of
            `id_second` are equal.
    """
    s1, s2 = checked_scores("first", first), checked_scores("second", second)
    id_s2 = checked_scores("id_second", id_second)
    if s1.shape != s2.shape:
        raise ValueError(f"first has {s1.size} scores and second has {s2.size}; expected as many")
    if s1.max() > first_maximum:
        index = int(np.argmax(s1))
        raise ValueError(f"first[{index}] is {s1[index]}, above first_maximum = {first_maximum}")
    if id_s2.min() == id_s2.max():
        raise ValueError("all values of id_second are equal; their standard deviation is 0")
    std = id_s2.std()
    a = id_s2.mean() - 3 * std
    gap = np.maximum(first_maximum - s1, np.finfo(np.float64).tiny)
    return np.asarray(-np.log(gap) - np.logaddexp(0, -(s2 - a) / std))
