"""From a manifest to the images of one of its splits, checked against what the manifest says."""

from __future__ import annotations

from pathlib import Path

from oodbench.data.arrays import ImageArray
from oodbench.data.builtin import BUILDERS
from oodbench.data.checks import check_count, check_fingerprint, check_labels, check_shape
from oodbench.data.options import call
from oodbench.data.store.places import root_folder
from oodbench.errors import UserError, did_you_mean
from oodbench.progress import Reporter, Silent
from oodbench.specs import DatasetSpec


def load_split(
    spec: DatasetSpec,
    split: str,
    data_root: str | Path | None = None,
    say: Reporter | None = None,
) -> ImageArray:
    """Get one split of a data set and check it against the manifest.

    Built-in sets are computed. All others are decoded once into the cache and memory-mapped from
    then on, after having been fetched if the manifest says from where.

    Args:
        spec: the manifest.
        split: one of `spec.splits`.
        data_root: the folder that data sets lie in; default: `OODBENCH_DATA`, else in the cache.
        say: takes progress and warnings; default: warnings become Python warnings.

    Returns:
        `spec.splits[split]` images of shape `spec.shape`, less those that the manifest allows to
        be left out because they cannot be decoded; with labels 0..`spec.num_classes` - 1 if the
        manifest gives a number of classes.

    Raises:
        UserError: the manifest has no such split, names an unknown builder, gives it options that
            it does not take, or says something that the images are not (count, shape, classes,
            SHA-256); or the images cannot be fetched, found, or decoded.
    """
    if split not in spec.splits:
        raise UserError(
            f"data set '{spec.name}' has no split '{split}'", f"It has: {', '.join(spec.splits)}."
        )
    if spec.kind != "builtin":
        from oodbench.data.store.stored import StoredDataset  # imports Pillow

        return StoredDataset(spec, root_folder(data_root), say or Silent()).load(split)
    data = _build(spec, split)
    check_count(spec, split, spec.splits[split], len(data))
    check_shape(spec, split, data.images)
    check_labels(spec, split, data.labels)
    check_fingerprint(spec, split, data)
    return data


def checked_split(
    spec: DatasetSpec, split: str, data_root: str | Path | None, say: Reporter
) -> tuple[ImageArray, str]:
    """As `load_split`, with the fingerprint; decoded images that have changed are decoded again.

    Returns:
        The images, and their fingerprint, which is the one that they had when they were decoded.
    """
    if spec.kind != "builtin" and split in spec.splits:
        from oodbench.data.store.stored import StoredDataset

        return StoredDataset(spec, root_folder(data_root), say).load_checked(split)
    data = load_split(spec, split, data_root, say)
    return data, data.fingerprint()


def _build(spec: DatasetSpec, split: str) -> ImageArray:
    """Call the manifest's builder with its options, held to the types of its arguments."""
    assert spec.builder is not None  # the spec's validation sees to it
    builder = BUILDERS.get(spec.builder)
    if builder is None:
        raise UserError(
            f"data set '{spec.name}': there is no builder '{spec.builder}'",
            did_you_mean(spec.builder, BUILDERS),
        )
    return call(spec, split, f"builder '{spec.builder}'", builder, split)
