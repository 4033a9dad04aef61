"""Kind `list`: a text file with one image per line, with or without a label."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.readers.class_names import labels_of
from oodbench.data.readers.image_folders import open_folder
from oodbench.data.stored_images import FileContents, StoredImages, identity_of, listing_of, stamp
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName

_BLANKS = " \t"
"""Characters around paths and labels; all other characters may be part of them."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)


def open_list(
    spec: DatasetSpec,
    split: SplitName,
    folder: Path,
    *,
    root: dict[SplitName, str] | str | None = None,
    labeled: bool | None = None,
    order: list[str] | None = None,
) -> StoredImages:
    """The images of a split, in the order of the list.

    A line is a path, or a path and a label with a tab or blanks between them; text after a second
    tab is ignored. If all labels are integers, they are the classes; otherwise they are names, and
    `order`, or the order of `class_names.ordered_classes`, gives the classes. Empty lines and lines
    that start with "#" are ignored. The text is UTF-8, with or without a byte order mark; lines end
    with a line feed, a carriage return, or both. If the path of the split is a folder, it is read
    as kind `folder`.

    Args:
        spec: the manifest.
        split: a key of `spec.paths`.
        folder: the folder that the list's path is relative to.
        root: the folder that paths in the list are relative to, itself relative to `folder`; one
            for all splits or one per split. Default: the folder of the list.
        labeled: whether lines have a label; default: whether the manifest has classes. Labels of
            data sets without classes are ignored.
        order: names of all classes in the order of their labels, as in kind `folder`.

    Raises:
        UserError: the list or an image does not exist, a line has no label, or a label is a number
            that is not a class.
    """
    path = folder / spec.paths[split]
    if path.is_dir():
        return open_folder(spec, split, folder, order=order)
    stamps = [stamp(folder, spec.paths[split])]
    try:
        # Text mode turns every end of a line into "\n"; splitlines() would also split at other
        # characters, which may occur in file names.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}.", "It must be UTF-8 text.") from error
    given = root.get(split) if isinstance(root, dict) else root
    base = path.parent if given is None else folder / given
    prefix = base.relative_to(folder) if base.is_relative_to(folder) else base
    with_labels = spec.num_classes is not None if labeled is None else labeled
    names: list[str] = []
    labels: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip(_BLANKS) or line.startswith("#"):
            continue
        name, text = _parsed(line, with_labels)
        if with_labels and not text:
            raise UserError(
                f"{path}, line {number}: the label is missing after the path.",
                "Write 'path label' on each line, with a blank or a tab between them, or remove "
                "'num_classes' from the manifest.",
            )
        names.append((prefix / name).as_posix())
        labels.append((number, text))
        stamps.append(stamp(folder, names[-1], f"{path}, line {number}: "))
    numbers: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if spec.num_classes is not None:
        numbers, classes = _numbers(path, labels, spec.num_classes, order)
    return StoredImages(
        names=names,
        labels=numbers,
        content=FileContents(folder, names),
        files=[spec.paths[split], *names],
        identity=identity_of(stamps),
        listing=listing_of(stamps),
        classes=classes,
    )


def _parsed(line: str, with_label: bool) -> tuple[str, str]:
    """Path and label of a line; the label is "" if there is none."""
    if "\t" in line:
        name, label = line.split("\t")[:2]
        return name.strip(_BLANKS), label.strip(_BLANKS)
    if not with_label:
        return line.strip(_BLANKS), ""
    name, _, label = line.strip(_BLANKS).rpartition(" ")
    return (name.strip(_BLANKS), label) if name else (label, "")


def _numbers(
    path: Path, labels: list[tuple[int, str]], num_classes: int, order: list[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels [N] from (line number, text) pairs, and the names of the classes if there are any."""
    if not all(_NUMBER.fullmatch(text) for _, text in labels):
        places = labels_of((text for _, text in labels), order, str(path))
        numbers = [places[text] for _, text in labels]
        return np.array(numbers, dtype=np.int64), tuple(places)
    for line, text in labels:
        # Check the text first: int() refuses numbers with too many digits.
        if not (_WHOLE.fullmatch(text) and int(text) < num_classes):
            raise UserError(
                f"{path}, line {line}: the label '{text}' is not a class: the manifest says "
                f"{num_classes} classes, so labels are 0 to {num_classes - 1}.",
                "Write whole numbers from 0, or the names of the classes.",
            )
    return np.array([int(text) for _, text in labels], dtype=np.int64), ()
