"""The reader of each kind of data set, and checks across splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from oodbench.data.decoding_choice import is_large
from oodbench.data.reader_options import call
from oodbench.data.readers.class_names import are_numbers
from oodbench.data.readers.image_folders import open_folder
from oodbench.data.readers.image_lists import open_list
from oodbench.data.readers.listed_images import open_listed
from oodbench.data.readers.numpy_archives import open_npz
from oodbench.data.readers.torchvision_sets import open_torchvision
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError, listed
from oodbench.specs import DatasetSpec, SplitName

_OPENERS: Mapping[str, Callable[..., StoredImages]] = MappingProxyType(
    {"folder": open_folder, "list": open_list, "npz": open_npz}
)


def open_split(spec: DatasetSpec, split: SplitName, folder: Path) -> StoredImages:
    """The stored images of one split with files, before `split_from` takes images from it.

    Where the names of classes may give the labels (kinds `folder` and `list` with classes), the
    other splits are opened too, except large ones: all splits must have the same classes.

    Args:
        spec: the manifest; any kind but `builtin`.
        split: a split that is not taken from another one.
        folder: the folder that the manifest's paths are relative to.

    Raises:
        UserError: a file does not exist, cannot be read or has unexpected content; or the splits
            have different classes.
    """
    named = spec.kind in ("folder", "list") and spec.num_classes is not None and not spec.lists
    sources = {
        each: _open_only(spec, each, folder)
        for each in spec.splits
        if each == split or (named and each not in spec.split_from and not is_large(spec, each))
    }
    check_classes(spec, sources)
    return sources[split]


def _open_only(spec: DatasetSpec, split: SplitName, folder: Path) -> StoredImages:
    """Open a split without a look at the others."""
    if not folder.is_dir():
        raise UserError(
            f"data set '{spec.name}': there is no folder {folder}.",
            "Put the images there, or name their folder: 'folder' in the manifest, --data-root or "
            "OODBENCH_DATA.",
        )
    try:
        return _open(spec, split, folder)
    except OSError as error:
        raise UserError(
            f"data set '{spec.name}', split '{split}': cannot read {error.filename}: "
            f"{error.strerror}."
        ) from error


def _open(spec: DatasetSpec, split: SplitName, folder: Path) -> StoredImages:
    if spec.kind == "torchvision":  # its readers take the options
        return open_torchvision(spec, split, folder)
    kind = f"kind '{spec.kind}'"
    opener = open_listed if spec.lists else _OPENERS[spec.kind]
    return call(spec, split, kind, opener, spec, split, folder)


def check_classes(spec: DatasetSpec, sources: Mapping[SplitName, StoredImages]) -> None:
    """Check that a label means the same class in all splits.

    Raises:
        UserError: the splits have different classes.
    """
    if spec.num_classes is None:
        return
    # Names that are the labels themselves are compatible with labels without names.
    named = {s: () if are_numbers(each.classes) else each.classes for s, each in sources.items()}
    first, expected = next(iter(named.items()), ("", ()))
    for split, classes in named.items():
        if classes == expected:
            continue
        if not classes or not expected:
            numbers, names = (split, first) if not classes else (first, split)
            raise UserError(
                f"data set '{spec.name}': the labels of split '{numbers}' are numbers, those of "
                f"split '{names}' are names ({listed(classes or expected, 3)}): the number of each "
                "name is not known.",
                "Write the names of the classes into the list, or rename the folders to numbers.",
            )
        only = sorted(set(classes) ^ set(expected))
        raise UserError(
            f"data set '{spec.name}': the splits '{first}' and '{split}' have different classes: "
            f"{', '.join(only[:5])}{' ...' if len(only) > 5 else ''} "
            f"{'is' if len(only) == 1 else 'are'} in only one of them.",
            "Both splits need the same classes: their order gives the labels.",
        )
