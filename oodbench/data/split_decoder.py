"""Decoding single images of a split, in threads and in worker processes alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.data.array_checks import require_pixels
from oodbench.data.image_decoder import CorruptImageError, WrongShapeError, decode_image
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        index: its index in the stored images.
        pixels: uint8 of the manifest's shape; None if it cannot be decoded and is skipped.
        checksum: SHA-256 of its file; "" if there is none, or if it was not asked for.
        lost: what conversion dropped (`oodbench.data.image_decoder.decode_image`).
    """

    index: int
    pixels: NDArray[np.uint8] | None
    checksum: str
    lost: str


@dataclass(frozen=True, eq=False)
class SplitDecoder:
    """Decodes images of one split. It can be pickled.

    Attributes:
        spec: the manifest.
        split: the split, for messages.
        source: the stored images that the split is taken from.
    """

    spec: DatasetSpec
    split: SplitName
    source: StoredImages

    def decoded(self, index: int, *, checksum: bool = False) -> DecodedImage:
        """Decode an image.

        Args:
            index: its index in `source`.
            checksum: whether to compute the checksum of its file.

        Raises:
            UserError: it cannot be read, has another shape or type than the manifest says, or
                cannot be decoded and the manifest does not say `corrupt_images: skip`.
        """
        try:
            content = self.source.content(index)
        except OSError as error:  # of reading, not of writing the cache
            raise UserError(
                f"{self.where(index)} cannot be read: {error.strerror or error}.",
                "Make it readable, or remove it and correct the count in the manifest.",
            ) from error
        found = ""
        if isinstance(content, bytes):
            found = hashlib.sha256(content).hexdigest() if checksum else ""
        else:
            require_pixels(content, self.where(index), (1, "H", "W"), (3, "H", "W"))
        try:
            pixels, lost = decode_image(content, self.spec.shape, self.spec.resize)
        except WrongShapeError as error:
            raise UserError(
                f"{self.where(index)} is {error}, the manifest says {self._size}.",
                "Add 'resize' to the manifest to resize all images (`resize: {filter: bilinear, "
                "crop: center}`), or correct its 'shape'.",
            ) from error
        except MemoryError as error:
            raise UserError(f"{self.where(index)} does not fit into the memory.") from error
        except CorruptImageError as error:
            if self.spec.corrupt_images == "skip":
                return DecodedImage(index, None, found, "")
            raise UserError(
                f"{self.where(index)} cannot be decoded: {error}.",
                "Replace it, or skip such images: write 'corrupt_images: skip' into the manifest, "
                "or into the YAML file of `oodbench evaluate`.",
            ) from error
        require_pixels(pixels, self.where(index), self.spec.shape)
        return DecodedImage(index, np.ascontiguousarray(pixels), found, lost)

    def where(self, index: int) -> str:
        """Data set, split and name of an image, for messages."""
        name = self.source.names[index]
        return f"data set '{self.spec.name}', split '{self.split}': image {name}"

    @property
    def _size(self) -> str:
        return "x".join(str(length) for length in self.spec.shape[1:])
