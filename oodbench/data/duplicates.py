"""Images that occur in two sets, pixel for pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from oodbench.data.arrays import ImageArray


def duplicates(id_train: ImageArray, ood: ImageArray) -> NDArray[np.int64]:
    """Out-of-distribution images that are also among the images trained on.

    Two images are the same if every pixel is, whatever their labels. Images of two types (uint8,
    float32) or of two shapes are never the same. Resized, cropped or re-encoded copies are not
    found.

    Args:
        id_train: images trained on.
        ood: images to look for among them.

    Returns:
        Ascending indices into `ood`.
    """
    known = set(_digests(id_train))
    found = [index for index, digest in enumerate(_digests(ood)) if digest in known]
    return np.array(found, dtype=np.int64)


def _digests(data: ImageArray) -> Iterator[bytes]:
    """A digest of each image; its type and shape are part of it."""
    about = f"{data.images.dtype.name} {data.images.shape[1:]} ".encode()
    for image in data.images:
        yield hashlib.sha256(about + np.ascontiguousarray(image).tobytes()).digest()
