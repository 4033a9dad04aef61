"""From a manifest's kind to the images of its splits, as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from oodbench.data.options import call
from oodbench.data.readers.class_names import are_numbers
from oodbench.data.readers.image_folders import open_folder
from oodbench.data.readers.image_lists import open_list
from oodbench.data.readers.numpy_archives import open_npz
from oodbench.data.readers.torchvision_sets import open_torchvision
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError, listed
from oodbench.specs import DatasetSpec, SplitName

_OPENERS: Mapping[str, Callable[..., StoredImages]] = MappingProxyType(
    {"folder": open_folder, "list": open_list, "npz": open_npz}
)


def open_splits(spec: DatasetSpec, folder: Path) -> dict[SplitName, StoredImages]:
    """The images of every split that is read from files; those set apart are still among them.

    Args:
        spec: the manifest; of any kind but `builtin`.
        folder: what the manifest's paths are relative to.

    Raises:
        UserError: something is not there, cannot be read or is not what the kind expects; or the
            splits have other classes than each other.
    """
    if not folder.is_dir():
        raise UserError(
            f"data set '{spec.name}': there is no folder {folder}.",
            "Put the images there, or say where they are: 'folder' in the manifest, --data-root "
            "or OODBENCH_DATA.",
        )
    sources: dict[SplitName, StoredImages] = {}
    for split in spec.splits:
        if split not in spec.split_from:
            try:
                sources[split] = _open(spec, split, folder)
            except OSError as error:
                raise UserError(
                    f"data set '{spec.name}', split '{split}': cannot read {error.filename}: "
                    f"{error.strerror}."
                ) from error
    _check_classes(spec, sources)
    return sources


def _open(spec: DatasetSpec, split: SplitName, folder: Path) -> StoredImages:
    if spec.kind == "torchvision":  # options are those of its readers
        return open_torchvision(spec, split, folder)
    kind = f"kind '{spec.kind}'"
    return call(spec, split, kind, _OPENERS[spec.kind], spec, split, folder)


def _check_classes(spec: DatasetSpec, sources: dict[SplitName, StoredImages]) -> None:
    """A label must mean the same class in every split."""
    if spec.num_classes is None:
        return
    # Classes that are called by their labels are the same with and without names.
    named = {s: () if are_numbers(each.classes) else each.classes for s, each in sources.items()}
    first, expected = next(iter(named.items()), ("", ()))
    for split, classes in named.items():
        if classes == expected:
            continue
        if not classes or not expected:
            numbers, names = (split, first) if not classes else (first, split)
            raise UserError(
                f"data set '{spec.name}': the labels of the split '{numbers}' are numbers, the "
                f"classes of the split '{names}' have names ({listed(classes or expected, 3)}): "
                "which number is which name is not known.",
                "Write the names of the classes into the list, or call the folders by the numbers.",
            )
        only = sorted(set(classes) ^ set(expected))
        raise UserError(
            f"data set '{spec.name}': the splits '{first}' and '{split}' have other classes "
            f"than each other: {', '.join(only[:5])}{' ...' if len(only) > 5 else ''} "
            f"{'is' if len(only) == 1 else 'are'} in one of them only.",
            "Give both the same classes; their order gives the labels.",
        )
