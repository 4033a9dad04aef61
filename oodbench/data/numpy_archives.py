"""Kind `npz`: arrays of images and labels in a file of `numpy.savez`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oodbench.data.sources import Source, array_source, stamp
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import DatasetSpec, SplitName


def open_npz(
    spec: DatasetSpec,
    split: SplitName,
    folder: Path,
    *,
    images: str = "images",
    labels: str = "labels",
    layout: Literal["NHWC", "NCHW"] = "NHWC",
) -> Source:
    """The images of a split; they are read into memory, which decoding leaves again.

    Args:
        spec: the manifest.
        split: a split that `spec.paths` names.
        folder: what the path is relative to.
        images: name of the array of images: uint8, of the layout's shape, or [N, H, W] for grey.
        labels: name of the array of labels, integers of shape [N] or [N, 1]; looked at only if the
            manifest has classes.
        layout: order of the images' dimensions.

    Raises:
        UserError: the file or an array is not there, or is not as above.
    """
    about = stamp(folder, spec.paths[split])
    path = folder / spec.paths[split]
    pixels = _array(path, images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise UserError(
            f"{path}: array '{images}' is {pixels.dtype} of shape {list(pixels.shape)}; expected "
            f"uint8 of shape [{', '.join(layout)}].",
            "Store images as whole numbers 0..255.",
        )
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif layout == "NHWC":
        pixels = pixels.transpose(0, 3, 1, 2)
    if spec.num_classes is None:
        return array_source(pixels, None, [about])
    targets = _array(path, labels)
    if not np.issubdtype(targets.dtype, np.integer) or targets.size != len(pixels):
        raise UserError(
            f"{path}: array '{labels}' is {targets.dtype} of shape {list(targets.shape)}; expected "
            f"one integer for each of the {len(pixels)} images.",
            "Correct the file, or name another array with the option 'labels'.",
        )
    return array_source(pixels, targets.reshape(-1).astype(np.int64), [about])


def _array(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays.files:
                raise UserError(f"{path} has no array '{name}'.", did_you_mean(name, arrays.files))
            found: NDArray[Any] = arrays[name]
            return found
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(
            f"cannot read array '{name}' of {path}: {error}.",
            "It must be a file of numpy.savez that holds no Python objects.",
        ) from error
