"""Kind `list`: a text file that names the images, one a line, with or without a label."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.readers.class_names import ordered_classes
from oodbench.data.readers.image_folders import open_folder
from oodbench.data.stored_images import StoredImages, identity_of, stamp
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName

_BLANKS = " \t"
"""What is around paths and labels; any other character may be a part of them."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)


def open_list(
    spec: DatasetSpec,
    split: SplitName,
    folder: Path,
    *,
    root: dict[SplitName, str] | str | None = None,
    labeled: bool | None = None,
) -> StoredImages:
    """The images of a split, in the order of the list.

    A line is a path, or a path, a tab or blanks, and a label; with tabs, what follows the second
    one is ignored. Labels that are all whole numbers are the numbers of the classes; others are
    names, whose order gives the labels (`oodbench.data.readers.class_names`). Empty lines and lines
    that start
    with "#" are ignored. The text is UTF-8, with or without a byte order mark; a line ends with a
    line feed, a carriage return, or both, and with no other character. A split whose path is a
    folder is read as kind `folder` does.

    Args:
        spec: the manifest.
        split: a split that `spec.paths` names.
        folder: what the path of the list is relative to.
        root: the folder, relative to `folder`, that paths in the list are relative to, for all
            splits or for each; default: the folder that the list is in.
        labeled: whether lines have a label; default: if the manifest has classes. A label in a
            data set without classes is not used.

    Raises:
        UserError: the list or an image is not there, a line has no label, or a label is a number
            that is no class.
    """
    path = folder / spec.paths[split]
    if path.is_dir():
        return open_folder(spec, split, folder)
    stamps = [stamp(folder, spec.paths[split])]
    try:
        # Reading as text turns every end of a line into "\n"; splitlines() would end one at other
        # characters too, which file names may have.
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
                f"{path}, line {number}: there is no label behind the path.",
                "Write 'path label' on each line, with a blank or a tab between them, or leave out "
                "'num_classes' in the manifest.",
            )
        names.append((prefix / name).as_posix())
        labels.append((number, text))
        stamps.append(stamp(folder, names[-1], f"{path}, line {number}: "))
    numbers: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if spec.num_classes is not None:
        numbers, classes = _numbers(path, labels, spec.num_classes)
    return StoredImages(
        names=names,
        labels=numbers,
        content=lambda index: (folder / names[index]).read_bytes(),
        files=[spec.paths[split], *names],
        identity=identity_of(stamps),
        classes=classes,
    )


def _parsed(line: str, with_label: bool) -> tuple[str, str]:
    """The path and the label of a line; "" if there is none."""
    if "\t" in line:
        name, label = line.split("\t")[:2]
        return name.strip(_BLANKS), label.strip(_BLANKS)
    if not with_label:
        return line.strip(_BLANKS), ""
    name, _, label = line.strip(_BLANKS).rpartition(" ")
    return (name.strip(_BLANKS), label) if name else (label, "")


def _numbers(
    path: Path, labels: list[tuple[int, str]], num_classes: int
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of lines and what is written there as numbers; and the names, if they are names."""
    if not all(_NUMBER.fullmatch(text) for _, text in labels):
        classes = ordered_classes(text for _, text in labels)
        places = {name: number for number, name in enumerate(classes)}
        return np.array([places[text] for _, text in labels], dtype=np.int64), classes
    for line, text in labels:
        # As text first: a number may have more digits than can be converted.
        if not (_WHOLE.fullmatch(text) and int(text) < num_classes):
            raise UserError(
                f"{path}, line {line}: the label '{text}' is no class: the manifest says "
                f"{num_classes} classes, so labels are 0 to {num_classes - 1}.",
                "Write whole numbers from 0, or the names of the classes.",
            )
    return np.array([int(text) for _, text in labels], dtype=np.int64), ()
