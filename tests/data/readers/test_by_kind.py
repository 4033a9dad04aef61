"""Any kind of source: one split at a time, and images that worker processes can read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reader_sets import spec, toy
from PIL import Image

from oodbench.data import load_split
from oodbench.data.readers.by_kind import open_split
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError


def write(folder: Path, kind: str) -> Any:
    """A test split of any kind, and its manifest."""
    images, labels = toy()
    folder.mkdir()
    if kind == "npz":
        np.savez(folder / "a.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
        return spec("npz", paths={"test": "a.npz"})
    for index, image in enumerate(images):
        path = folder / f"test/{labels[index]}/{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    lines = [f"test/{label}/{index:02d}.png {label}" for index, label in enumerate(labels)]
    (folder / "test.txt").write_text("\n".join(lines))
    return spec(kind, paths={"test": "test.txt" if kind == "list" else "test"})


def first_bytes(source: StoredImages) -> list[bytes]:
    return [bytes(source.content(index)) for index in (0, len(source) - 1)]


@pytest.mark.parametrize("kind", ["folder", "list", "npz"])
def test_contents_can_be_read_in_another_process(tmp_path: Path, kind: str) -> None:
    source = open_split(write(tmp_path / "toy", kind), "test", tmp_path / "toy")
    copy = pickle.loads(pickle.dumps(source.content))
    assert bytes(copy(3)) == bytes(source.content(3))
    if kind == "folder":  # a spawned process has nothing of this one but what was pickled
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(first_bytes, (source,)) == first_bytes(source)


def test_a_split_without_classes_needs_no_other_split(tmp_path: Path) -> None:
    write(tmp_path / "toy", "folder")
    manifest = spec(
        "folder",
        num_classes=None,
        paths={"test": "test", "validation": "absent"},
        splits={"test": 20, "validation": 1},
    )
    assert len(open_split(manifest, "test", tmp_path / "toy")) == 20
    with pytest.raises(UserError, match="split 'validation': there is no folder"):
        open_split(manifest, "validation", tmp_path / "toy")


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "toy", "folder")
    (tmp_path / "toy/train/cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "toy/train/cat/1.png")
    both = {"train": "train", "test": "test"}
    manifest = spec("folder", paths=both, splits={"train": 1, "test": 20})
    with pytest.raises(UserError, match="the labels of split 'test' are numbers"):
        open_split(manifest, "test", tmp_path / "toy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names on this system")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    manifest = write(tmp_path / "toy", "folder")
    (path,) = (tmp_path / "toy/test").rglob("00.png")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"00\.png cannot be read: it is not a file"):
        load_split(manifest, "test", tmp_path)
