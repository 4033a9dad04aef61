"""Arrays held to what readers take, and images to what their manifest says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.arrays import ImageArray
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

Layout = tuple[str | int, ...]
"""A shape: a name for each dimension of any length, a number for each of one length."""


def require_pixels(array: Any, what: str, *layouts: Layout, hint: str = "") -> None:
    """Refuse an array that does not hold 8-bit pixels in one of the shapes that a reader takes.

    Args:
        array: what was read.
        what: what it is called in messages: its file and its name there.
        layouts: the shapes.
        hint: what to do; default: how to store the pixels.

    Raises:
        UserError: the array is of another type or shape, or no numpy array.
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
        array: what was read: integers of shape [count], [count, 1] or [1, count].
        what: what it is called in messages: its file and its name there.
        count: number of images.

    Raises:
        UserError: the array is of another type or shape, or has a value beyond 64 bits.
    """
    labels = np.asarray(array)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1), (1, count)):
        raise UserError(
            f"{what} is {labels.dtype} of shape {list(labels.shape)}; expected one integer for "
            f"each of the {count} images.",
            "Store labels as whole numbers 0, 1, ... of an integer type, in the images' order.",
        )
    if labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{what} has the label {labels.max()}, which is no class.")
    return labels.reshape(-1).astype(np.int64)


def fits(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a shape has the dimensions of a layout, and the lengths that it gives."""
    return len(shape) == len(layout) and all(
        isinstance(wanted, str) or found == wanted
        for found, wanted in zip(shape, layout, strict=True)
    )


def check_count(spec: DatasetSpec, split: str, wanted: int, found: int) -> None:
    """Hold the number of images against the manifest.

    Raises:
        UserError: if it is not what was wanted.
    """
    if found != wanted:
        raise mismatch(spec, split, f"{wanted} images", f"{found}")


def check_shape(spec: DatasetSpec, split: str, images: NDArray[Any]) -> None:
    """Hold the shape of images [N, C, H, W] against the manifest.

    Raises:
        UserError: if they are of another one.
    """
    shape = images.shape[1:]
    if shape != spec.shape:
        raise mismatch(
            spec, split, f"images of shape {list(spec.shape)}", f"images of shape {list(shape)}"
        )


def check_labels(spec: DatasetSpec, split: str, labels: NDArray[np.int64] | None) -> None:
    """Hold labels against the manifest's number of classes.

    Raises:
        UserError: there are labels but no classes, classes but no labels, labels out of range, or
            classes without an image. A split that was set apart by hash may lack classes.
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
    if len(present) != spec.num_classes and split not in spec.split_from:
        raise mismatch(spec, split, wanted, f"{len(present)}")


def check_fingerprint(spec: DatasetSpec, split: str, data: ImageArray) -> None:
    """Hold the images against the manifest's SHA-256, if it gives one.

    Raises:
        UserError: if they differ.
    """
    wanted = spec.sha256.get(split)  # type: ignore[call-overload]
    if wanted is not None and data.fingerprint() != wanted:
        raise mismatch(spec, split, f"sha256 {wanted}", data.fingerprint())


def mismatch(spec: DatasetSpec, split: str, says: str, found: str) -> UserError:
    """The error of a manifest that says something else than its images."""
    return UserError(
        f"data set '{spec.name}', split '{split}': the manifest says {says}, found {found}",
        "Correct the manifest; if nobody changed it, the library that ships the data has changed."
        if spec.kind == "builtin"
        else "Correct the manifest, or the files that it describes.",
    )
