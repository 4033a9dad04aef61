"""Kind `npz`: arrays of images and labels in a file of `numpy.savez`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from oodbench.data.array_checks import (
    Layout,
    check_count,
    fits,
    require_labels,
    require_pixels,
)
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
    taken, other = _CHANNELS[layout], _CHANNELS["NCHW" if layout == "NHWC" else "NHWC"]
    parts = [split, *(each for each, source in spec.split_from.items() if source == split)]

    def check(pixels: NDArray[Any]) -> None:
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
        size = pixels.shape[2:] if pixels.ndim == 4 and layout == "NCHW" else pixels.shape[1:3]
        if spec.resize is None and size != spec.shape[1:]:
            raise UserError(
                f"{path}: array '{images}' has images of {'x'.join(map(str, size))}, the manifest "
                f"says {'x'.join(map(str, spec.shape[1:]))}.",
                "Add 'resize' to the manifest to resize all images (`resize: {filter: bilinear, "
                "crop: center}`), or correct its 'shape'.",
            )
        check_count(spec, " + ".join(parts), sum(spec.splits[each] for each in parts), len(pixels))

    pixels = _array(path, images, check)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif layout == "NHWC":
        pixels = pixels.transpose(0, 3, 1, 2)
    if spec.num_classes is None:
        return images_of_array(pixels, None, [about])
    require = partial(require_labels, what=f"{path}: array '{labels}'", count=len(pixels))
    return images_of_array(pixels, require(_array(path, labels, require)), [about])


def _array(path: Path, name: str, check: Callable[[NDArray[Any]], object]) -> NDArray[Any]:
    """An array of a file; its type and shape are checked before memory is taken for it."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays.files:
                raise UserError(f"{path} has no array '{name}'.", did_you_mean(name, arrays.files))
            check(_declared(arrays.zip, name))
            found: NDArray[Any] = arrays[name]
            return found
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise many types of errors for damaged files
        raise UserError(
            f"cannot read array '{name}' of {path}: {error}.",
            "It must be a file of numpy.savez without Python objects.",
        ) from error


def _declared(archive: ZipFile, name: str) -> NDArray[Any]:
    """Zeros of the type and shape that a file says, in almost no memory."""
    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return np.broadcast_to(np.zeros((), dtype), shape)
