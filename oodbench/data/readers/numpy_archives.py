"""Kind `npz`: arrays of images and labels in a file of `numpy.savez`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oodbench.data.array_checks import Layout, fits, require_labels, require_pixels
from oodbench.data.stored_images import StoredImages, images_of_array, stamp
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import DatasetSpec, SplitName

_CHANNELS: Mapping[str, tuple[Layout, ...]] = {
    "NHWC": (("N", "H", "W", 3), ("N", "H", "W", 1)),
    "NCHW": (("N", 3, "H", "W"), ("N", 1, "H", "W")),
}
"""Layout -> the shapes of images in color and in gray."""


def open_npz(
    spec: DatasetSpec,
    split: SplitName,
    folder: Path,
    *,
    images: str = "images",
    labels: str = "labels",
    layout: Literal["NHWC", "NCHW"] = "NHWC",
) -> StoredImages:
    """The images of a split; the whole array is read into memory.

    Args:
        spec: the manifest.
        split: a key of `spec.paths`.
        folder: the folder that the path is relative to.
        images: name of the array of images: uint8, of the layout's shape with C = 1 or 3, or
            [N, H, W] for gray images.
        labels: name of the array of labels, integers of shape [N], [N, 1] or [1, N]; read only if
            the manifest has classes.
        layout: order of the images' dimensions.

    Raises:
        UserError: the file or an array does not exist, or is not as described above.
    """
    about = stamp(folder, spec.paths[split])
    path = folder / spec.paths[split]
    pixels = _array(path, images)
    taken, other = _CHANNELS[layout], _CHANNELS["NCHW" if layout == "NHWC" else "NHWC"]
    transposed = any(pixels.ndim == 4 and fits(pixels.shape, each) for each in other)
    require_pixels(
        pixels,
        f"{path}: array '{images}'",
        *taken,
        ("N", "H", "W"),
        hint=f"Write 'options: {{layout: {'NCHW' if layout == 'NHWC' else 'NHWC'}}}'."
        if transposed and pixels.dtype == np.uint8
        else "",
    )
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif layout == "NHWC":
        pixels = pixels.transpose(0, 3, 1, 2)
    if spec.num_classes is None:
        return images_of_array(pixels, None, [about])
    targets = require_labels(_array(path, labels), f"{path}: array '{labels}'", len(pixels))
    return images_of_array(pixels, targets, [about])


def _array(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays.files:
                raise UserError(f"{path} has no array '{name}'.", did_you_mean(name, arrays.files))
            found: NDArray[Any] = arrays[name]
            return found
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise many types of errors for damaged files
        raise UserError(
            f"cannot read array '{name}' of {path}: {error}.",
            "It must be a file of numpy.savez without Python objects.",
        ) from error
