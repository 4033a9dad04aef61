"""ImageArray: decoded images with their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 1024
"""Number of images that are hashed at a time."""


class PixelDigest:
    """The fingerprint of images that come block by block (`ImageArray.fingerprint`).

    Args:
        count: number of all images.
        shape: shape of an image.
        dtype: type of the pixels.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._digest = hashlib.sha256()
        self._begin("images", (count, *shape), dtype)

    def add(self, images: NDArray[Any]) -> None:
        """Add the next images, shape [N, ...]."""
        little_endian = images.astype(images.dtype.newbyteorder("<"), copy=False)
        self._digest.update(np.ascontiguousarray(little_endian).data)

    def fingerprint(self, labels: NDArray[np.int64] | None) -> str:
        """The fingerprint, 64 hex digits, after all images were added."""
        if labels is None:
            self._digest.update(b"labels none\n")
        else:
            self._begin("labels", labels.shape, labels.dtype)
            self.add(labels)
        return self._digest.hexdigest()

    def _begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._digest.update(f"{name} {dtype.name} {'x'.join(map(str, shape))}\n".encode())


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Decoded images of one split, with their labels if they have any.

    The arrays must not be changed. Compare two values by `fingerprint()`.

    Attributes:
        images: shape [N, C, H, W]; uint8 in 0..255 or float32 in [0, 1].
        labels: shape [N], int64; None for images that are only used as out-of-distribution data.

    Raises:
        ValueError: a shape, a dtype or a value is not as described above.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4:
            raise ValueError(f"images must have shape [N, C, H, W], not {list(images.shape)}")
        if images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images must be uint8 or float32, not {images.dtype}")
        if images.dtype == np.float32 and images.size:
            low, high = float(images.min()), float(images.max())
            # Written so that NaN, which compares false with everything, is refused too.
            if not (low >= 0.0 and high <= 1.0):
                raise ValueError(f"float images must be in [0, 1], not in [{low:g}, {high:g}]")
        if labels is None:
            return
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must have shape [{len(images)}], one per image, not {list(labels.shape)}"
            )
        if labels.dtype != np.int64:
            raise ValueError(f"labels must be int64, not {labels.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of the images, then of the labels; 64 hex digits.

        Bytes are in C order and little-endian, independent of machine and memory layout.
        """
        digest = PixelDigest(len(self), self.images.shape[1:], self.images.dtype)
        # A block at a time: the images may be a memory map, larger than the memory.
        for start in range(0, len(self), _BLOCK):
            digest.add(self.images[start : start + _BLOCK])
        return digest.fingerprint(self.labels)

    def select(self, indices: ArrayLike) -> ImageArray:
        """The images at `indices`, in that order.

        Args:
            indices: shape [M]; integers (negative ones count from the end), or N booleans.

        Returns:
            A copy with M images; for booleans, M is the number of true values.

        Raises:
            IndexError: an index is out of range, or `indices` holds neither integers nor booleans.
        """
        chosen = np.atleast_1d(np.asarray(indices))
        if chosen.size == 0:  # an empty list becomes a float array, which cannot index
            chosen = chosen.astype(np.int64)
        return ImageArray(
            images=self.images[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )
