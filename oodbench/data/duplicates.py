"""Images that occur in two sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data.arrays import ImageArray

_SAMPLED = 1024
"""Values of an image that its fingerprint looks at, about."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value -> the type that its bits are read as."""


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
    return np.flatnonzero(np.isin(digests(ood), digests(id_train)))


def digests(data: ImageArray) -> NDArray[np.uint64]:
    """A digest of every byte of each image, and of its type and shape; shape [N]."""
    about = f"{data.images.dtype.name} {data.images.shape[1:]} ".encode()
    return _numbers(about + np.ascontiguousarray(image).tobytes() for image in data.images)


def fingerprints(images: Tensor) -> NDArray[np.uint64]:
    """A number for each image: equal for equal images, and hardly ever for two others.

    A digest of up to 1,024 evenly spaced values and of the sum of all, so that a pass costs little
    more with it. Sums are of integers, so that they do not depend on the batch.

    Args:
        images: shape [B, ...], of any type.

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
    """64 bits of a digest of each text."""
    found = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(found), dtype=np.uint64)
