"""Finding images that occur in two data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data.image_array import ImageArray

_SAMPLED = 1024
"""Approximate number of values of an image that go into its fingerprint."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value -> integer type of the same size."""


def duplicates(id_train: ImageArray, ood: ImageArray) -> NDArray[np.int64]:
    """Out-of-distribution images that are also training images.

    Two images are equal if type (uint8 or float32), shape and all pixels are equal; labels do not
    matter. Resized, cropped or re-encoded copies are not found.

    Args:
        id_train: training images.
        ood: out-of-distribution images.

    Returns:
        Ascending indices into `ood`.
    """
    return np.flatnonzero(np.isin(digests(ood), digests(id_train)))


def digests(data: ImageArray) -> NDArray[np.uint64]:
    """A digest of type, shape and every byte of each image; shape [N]."""
    return digests_of(data.images)


def digests_of(images: NDArray[Any]) -> NDArray[np.uint64]:
    """As `digests`, of images of shape [N, C, H, W]."""
    about = f"{images.dtype.name} {images.shape[1:]} ".encode()
    return _numbers(about + np.ascontiguousarray(image).tobytes() for image in images)


def fingerprints(images: Tensor) -> NDArray[np.uint64]:
    """A number for each image: equal images have equal numbers, others almost never.

    It is a digest of at most about 1,024 evenly spaced values and of the sum of all values, which
    is cheap compared to a forward pass. Values are summed as integers, so that sums do not depend
    on the batch.

    Args:
        images: shape [B, ...], any type.

    Returns:
        Shape [B].
    """
    flat = images.detach().cpu().flatten(1).contiguous()
    bits = flat.view(_INTEGERS[flat.element_size()])
    sums = bits.sum(dim=1, dtype=torch.int64)
    sampled = bits[:, :: max(1, bits.shape[1] // _SAMPLED)].contiguous().numpy()
    about = f"{flat.dtype} {tuple(images.shape[1:])}".encode()
    return _numbers(
        about + total.tobytes() + values.tobytes()
        for total, values in zip(sums.numpy(), sampled, strict=True)
    )


def _numbers(texts: Iterable[bytes]) -> NDArray[np.uint64]:
    """A 64-bit digest of each text."""
    found = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(found), dtype=np.uint64)
