"""Loading a split of a data set and checking it against the manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.data.array_checks import check_count, check_fingerprint, check_labels, check_shape
from oodbench.data.builtin import BUILDERS
from oodbench.data.image_array import ImageArray
from oodbench.data.reader_options import call
from oodbench.data.store.locations import root_folder
from oodbench.errors import UserError, did_you_mean
from oodbench.progress import Reporter, Silent
from oodbench.specs import DatasetSpec, SplitName


def load_split(
    spec: DatasetSpec,
    split: SplitName,
    data_root: str | Path | None = None,
    say: Reporter | None = None,
) -> ImageArray:
    """Load one split of a data set and check it against the manifest.

    Built-in sets are computed. Others are downloaded if the manifest has addresses, decoded once
    into the cache, and memory-mapped from then on.

    Args:
        spec: the manifest.
        split: one of `spec.splits`.
        data_root: the folder of the data sets; default: `OODBENCH_DATA`, else in the cache.
        say: progress reporter; default: silent, and warnings become Python warnings.

    Returns:
        `spec.splits[split]` images of shape `spec.shape`, minus those that cannot be decoded if
        the manifest says `corrupt_images: skip`; with labels 0..`spec.num_classes` - 1 if the
        manifest gives a number of classes.

    Raises:
        UserError: the manifest has no such split, names an unknown builder, has options that the
            builder does not take, or disagrees with the images (count, shape, classes, SHA-256);
            or the images cannot be found, downloaded or decoded.
    """
    if split not in spec.splits:
        raise UserError(
            f"data set '{spec.name}' has no split '{split}'", f"It has: {', '.join(spec.splits)}."
        )
    if spec.kind != "builtin":
        from oodbench.data.store.stored_dataset import StoredDataset  # imports Pillow

        return StoredDataset(spec, root_folder(data_root), say or Silent()).load(split)
    data = _build(spec, split)
    if spec.resize is not None:
        data = _resized(data, spec)
    check_count(spec, split, spec.splits[split], len(data))
    check_shape(spec, split, data.images)
    check_labels(spec, split, data.labels)
    check_fingerprint(spec, split, data)
    return data


def checked_split(
    spec: DatasetSpec, split: SplitName, data_root: str | Path | None, say: Reporter
) -> tuple[ImageArray, str]:
    """As `load_split`, but verify the fingerprint; changed images in the cache are decoded again.

    Returns:
        The images and their fingerprint.
    """
    if spec.kind != "builtin" and split in spec.splits:
        from oodbench.data.store.stored_dataset import StoredDataset

        return StoredDataset(spec, root_folder(data_root), say).load_checked(split)
    data = load_split(spec, split, data_root, say)
    return data, data.fingerprint()


def _resized(data: ImageArray, spec: DatasetSpec) -> ImageArray:
    """Images of a built-in set in another shape; levels between 0 and 1 are rounded to bytes."""
    from oodbench.data.image_decoder import decode_image  # imports Pillow

    images = data.images
    if images.dtype != np.uint8:
        images = np.rint(255 * images).astype(np.uint8)
    pixels = [decode_image(image, spec.shape, spec.resize)[0] for image in images]
    return ImageArray(np.stack(pixels), data.labels)


def _build(spec: DatasetSpec, split: str) -> ImageArray:
    """Call the manifest's builder with the manifest's options."""
    assert spec.builder is not None  # checked by DatasetSpec
    builder = BUILDERS.get(spec.builder)
    if builder is None:
        raise UserError(
            f"data set '{spec.name}': there is no builder '{spec.builder}'",
            did_you_mean(spec.builder, BUILDERS),
        )
    return call(spec, split, f"builder '{spec.builder}'", builder, split)
