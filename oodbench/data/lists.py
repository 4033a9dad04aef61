"""Kind `list`: a text file that names the images, one a line, with or without a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.folders import open_folder
from oodbench.data.sources import Source, identity_of, stamp
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName


def open_list(
    spec: DatasetSpec,
    split: SplitName,
    folder: Path,
    *,
    root: dict[SplitName, str] | str | None = None,
    labelled: bool | None = None,
) -> Source:
    """The images of a split, in the order of the list.

    A line is a path, or a path, a tab or blanks, and a label; with tabs, what follows the second
    one is ignored. Labels that are all whole numbers are taken as they are; others are names of
    classes, which sorted by code point are labels 0, 1, ... Empty lines and lines that start with
    "#" are ignored. A split whose path is a folder is read as kind `folder` does.

    Args:
        spec: the manifest.
        split: a split that `spec.paths` names.
        folder: what the path of the list is relative to.
        root: the folder, relative to `folder`, that paths in the list are relative to, for all
            splits or for each; default: the folder that the list is in.
        labelled: whether lines have a label; default: if the manifest has classes. A label in a
            data set without classes is not used.

    Raises:
        UserError: the list or an image is not there, or a line has no label.
    """
    path = folder / spec.paths[split]
    if path.is_dir():
        return open_folder(spec, split, folder)
    stamps = [stamp(folder, spec.paths[split])]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}.", "It must be UTF-8 text.") from error
    given = root.get(split) if isinstance(root, dict) else root
    base = path.parent if given is None else folder / given
    prefix = base.relative_to(folder) if base.is_relative_to(folder) else base
    with_labels = spec.num_classes is not None if labelled is None else labelled
    names: list[str] = []
    texts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, text = _parsed(line, with_labels)
        if with_labels and not text:
            raise UserError(
                f"{path}, line {number}: there is no label behind the path.",
                "Write 'path label' on each line, or leave out 'num_classes' in the manifest.",
            )
        names.append((prefix / name).as_posix())
        texts.append(text)
    labels, classes = _labels(texts) if spec.num_classes is not None else (None, ())
    stamps += [stamp(folder, name) for name in names]
    return Source(
        names=names,
        labels=labels,
        content=lambda index: (folder / names[index]).read_bytes(),
        files=[spec.paths[split], *names],
        identity=identity_of(stamps),
        classes=classes,
    )


def _parsed(line: str, with_label: bool) -> tuple[str, str]:
    """The path and the label of a line; "" if there is none."""
    if "\t" in line:
        name, label = line.split("\t")[:2]
        return name.strip(), label.strip()
    if not with_label:
        return line.strip(), ""
    name, _, label = line.strip().rpartition(" ")
    return (name.strip(), label) if name else (label, "")


def _labels(texts: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels, and the names of the classes if the list has names."""
    try:
        return np.array([int(text) for text in texts], dtype=np.int64), ()
    except ValueError:
        classes = tuple(sorted(set(texts)))
        places = {name: label for label, name in enumerate(classes)}
        return np.array([places[text] for text in texts], dtype=np.int64), classes
