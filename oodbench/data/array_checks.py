"""Checks of arrays against what readers accept, and of images against their manifest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_array import ImageArray
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

Layout = tuple[str | int, ...]
"""A shape: names for dimensions of any length, numbers for dimensions of a fixed length."""


def require_pixels(array: Any, what: str, *layouts: Layout, hint: str = "") -> None:
    """Refuse an array that does not contain 8-bit pixels in one of the accepted shapes.

    Args:
        array: the array that was read.
        what: description for messages: the file, and the array's name in it.
        layouts: the accepted shapes.
        hint: what the user can do; default: how to store pixels.

    Raises:
        UserError: the array has another type or shape, or is not a NumPy array.
    """
    dtype, shape = getattr(array, "dtype", type(array).__name__), getattr(array, "shape", ())
    if dtype == np.uint8 and any(fits(shape, layout) for layout in layouts):
        return
    expected = " or ".join(f"[{', '.join(map(str, layout))}]" for layout in layouts)
    raise UserError(
        f"{what} is {dtype} of shape {list(shape)}; expected uint8 of shape {expected}.",
        hint or "Store pixels as whole numbers 0..255 of type uint8, in that shape.",
    )


def require_labels(array: Any, what: str, count: int) -> NDArray[np.int64]:
    """The labels of `count` images, shape [count].

    Args:
        array: the array that was read: integers of shape [count], [count, 1] or [1, count].
        what: description for messages: the file, and the array's name in it.
        count: number of images.

    Raises:
        UserError: the array has another type or shape, or a value that does not fit 64 bits.
    """
    labels = np.asarray(array)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1), (1, count)):
        raise UserError(
            f"{what} is {labels.dtype} of shape {list(labels.shape)}; expected one integer for "
            f"each of the {count} images.",
            "Store labels as whole numbers 0, 1, ... of an integer type, in the images' order.",
        )
    if labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{what} has the label {labels.max()}, which is not a class.")
    return labels.reshape(-1).astype(np.int64)


def fits(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a shape has as many dimensions as a layout, and the layout's fixed lengths."""
    return len(shape) == len(layout) and all(
        isinstance(wanted, str) or found == wanted
        for found, wanted in zip(shape, layout, strict=True)
    )


def check_count(spec: DatasetSpec, split: str, wanted: int, found: int) -> None:
    """Check the number of images.

    Raises:
        UserError: the number differs from the manifest's.
    """
    if found != wanted:
        raise mismatch(spec, split, f"{wanted} images", f"{found}")


def check_shape(spec: DatasetSpec, split: str, images: NDArray[Any]) -> None:
    """Check the shape of images [N, C, H, W].

    Raises:
        UserError: the shape differs from the manifest's.
    """
    shape = images.shape[1:]
    if shape != spec.shape:
        raise mismatch(
            spec, split, f"images of shape {list(spec.shape)}", f"images of shape {list(shape)}"
        )


def check_labels(spec: DatasetSpec, split: str, labels: NDArray[np.int64] | None) -> None:
    """Check labels against the manifest's number of classes.

    Raises:
        UserError: there are labels but no classes, classes but no labels, labels out of range, or
            classes without an image. Splits of `split_from` and of published lists may lack
            classes, and those of a manifest with the order of the classes.
    """
    if spec.num_classes is None:
        if labels is not None:
            raise mismatch(spec, split, "no classes (num_classes is null)", "labeled images")
        return
    wanted = f"{spec.num_classes} classes"
    if labels is None:
        raise mismatch(spec, split, wanted, "images without labels")
    present = np.unique(labels)
    if len(present) and (present[0] < 0 or present[-1] >= spec.num_classes):
        raise mismatch(
            spec,
            split,
            f"{wanted}, so labels 0 to {spec.num_classes - 1}",
            f"labels {present[0]} to {present[-1]}",
        )
    partial = split in spec.split_from or split in spec.lists or "order" in spec.options
    if len(present) != spec.num_classes and not partial:
        raise mismatch(spec, split, wanted, f"{len(present)}")


def check_fingerprint(spec: DatasetSpec, split: str, data: ImageArray) -> None:
    """Check the fingerprint of the images, if the manifest gives one.

    Raises:
        UserError: the fingerprint differs from the manifest's.
    """
    wanted = spec.sha256.get(split)  # type: ignore[call-overload]
    if wanted is not None and data.fingerprint() != wanted:
        raise mismatch(spec, split, f"sha256 {wanted}", data.fingerprint())


def mismatch(spec: DatasetSpec, split: str, says: str, found: str) -> UserError:
    """The error of a manifest that disagrees with its images."""
    return UserError(
        f"data set '{spec.name}', split '{split}': the manifest says {says}, found {found}",
        "Correct the manifest. If it is unchanged, the library that ships the data has changed."
        if spec.kind == "builtin"
        else "Correct the manifest, or the files that it describes.",
    )
