"""From a manifest to the images of one of its splits, checked against what the manifest says."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
from pydantic import ValidationError, validate_call

from oodbench.data.arrays import ImageArray
from oodbench.data.builtin import BUILDERS
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import DatasetSpec, SplitName


def load_split(spec: DatasetSpec, split: str) -> ImageArray:
    """Build one split of a data set and check it against the manifest.

    Args:
        spec: the manifest.
        split: one of `spec.splits`.

    Returns:
        `spec.splits[split]` images of shape `spec.shape`, with labels 0..`spec.num_classes` - 1 if
        the manifest gives a number of classes.

    Raises:
        UserError: the manifest has no such split, names an unknown builder, gives it options that
            it does not take, or says something that the images are not (count, shape, classes,
            SHA-256).
    """
    if split not in spec.splits:
        raise UserError(
            f"data set '{spec.name}' has no split '{split}'", f"It has: {', '.join(spec.splits)}."
        )
    data = _build(spec, split)
    _check_images(spec, split, data)
    _check_labels(spec, split, data)
    _check_fingerprint(spec, split, data)
    return data


def _build(spec: DatasetSpec, split: SplitName) -> ImageArray:
    """Call the manifest's builder with its options, held to the types of its arguments."""
    assert spec.builder is not None  # the spec's validation sees to it
    builder = BUILDERS.get(spec.builder)
    if builder is None:
        raise UserError(
            f"data set '{spec.name}': there is no builder '{spec.builder}'",
            did_you_mean(spec.builder, BUILDERS),
        )
    accepted = _options_of(builder)
    unknown = [name for name in spec.options if name not in accepted]
    if unknown:
        raise UserError(
            f"data set '{spec.name}': builder '{spec.builder}' takes no option "
            + ", ".join(f"'{name}'" for name in unknown),
            f"It takes: {', '.join(accepted)}.",
        )
    try:
        return validate_call(builder)(split, **spec.options)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(key) for key in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise UserError(
            f"data set '{spec.name}', split '{split}': builder '{spec.builder}' cannot use "
            f"the options: {faults}",
            "Correct 'options' in the data set's manifest.",
        ) from error
    except UserError as error:
        raise UserError(
            f"data set '{spec.name}', split '{split}': {error.message}", error.hint
        ) from error


def _options_of(builder: Callable[..., ImageArray]) -> list[str]:
    """Names of a builder's options: its keyword-only arguments."""
    parameters = inspect.signature(builder).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _check_images(spec: DatasetSpec, split: SplitName, data: ImageArray) -> None:
    wanted = spec.splits[split]
    if len(data) != wanted:
        raise _mismatch(spec, split, f"{wanted} images", f"{len(data)}")
    shape = data.images.shape[1:]
    if shape != spec.shape:
        raise _mismatch(
            spec, split, f"images of shape {list(spec.shape)}", f"images of shape {list(shape)}"
        )


def _check_labels(spec: DatasetSpec, split: SplitName, data: ImageArray) -> None:
    if spec.num_classes is None:
        if data.labels is not None:
            raise _mismatch(spec, split, "no classes (num_classes is null)", "labelled images")
        return
    wanted = f"{spec.num_classes} classes"
    if data.labels is None:
        raise _mismatch(spec, split, wanted, "images without labels")
    present = np.unique(data.labels)
    if present[0] < 0 or present[-1] >= spec.num_classes:
        raise _mismatch(
            spec,
            split,
            f"{wanted}, so labels 0 to {spec.num_classes - 1}",
            f"labels {present[0]} to {present[-1]}",
        )
    if len(present) != spec.num_classes:
        raise _mismatch(spec, split, wanted, f"{len(present)}")


def _check_fingerprint(spec: DatasetSpec, split: SplitName, data: ImageArray) -> None:
    wanted = spec.sha256.get(split)
    if wanted is not None and data.fingerprint() != wanted:
        raise _mismatch(spec, split, f"sha256 {wanted}", data.fingerprint())


def _mismatch(spec: DatasetSpec, split: SplitName, says: str, found: str) -> UserError:
    return UserError(
        f"data set '{spec.name}', split '{split}': the manifest says {says}, found {found}",
        "Correct the manifest; if nobody changed it, the library that ships the data has changed.",
    )
