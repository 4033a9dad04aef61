"""Small stand-ins for the paper's data sets, in the format of the original files."""

from __future__ import annotations

import io
import pickle
import pickletools
import tarfile
from gzip import GzipFile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec
from oodbench.specs.yaml_file import read_spec

NAMES = ("cifar10", "cifar100", "svhn", "tin_resize", "lsun_resize")
CLASSES = 10
"""Of each labeled set, CIFAR-100's stand-in too: a hundred would need thousands of images."""


def write_standins(
    folder: Path, *, train: int = 60, validation: int = 40, test: int = 40, seed: int = 0
) -> Path:
    """Write stand-ins for cifar10, cifar100, svhn, tin_resize and lsun_resize.

    Each is an archive in the format of the original (pickled batches of Python 2 in a tar, .mat
    files, a tar of PNG files), put "by hand" where downloads go, and a manifest that differs from
    the built-in one in the checksums, the counts and `num_classes` (10) alone. So all that reads
    the originals reads these, without a network.

    Images are 32x32 in color. A class has a color and a stripe pattern of its own, different in
    each data set, under noise: a small network learns ten classes from 60 images in a few epochs,
    and other sets look different to it.

    Use them for the built-in names with `use_standins`, or by hand: `--data-root FOLDER/data`.

    Args:
        folder: an empty folder.
        train: images of each train split.
        validation: images of each validation split, set apart from those to train with.
        test: images of each test split.
        seed: of the noise.

    Returns:
        `folder`, which then holds `data/<name>/<archive>` (a data root) and
        `data_manifests/<name>.yaml`.
    """
    counts = {"train": train, "validation": validation, "test": test}
    for number, name in enumerate(NAMES):
        spec = Catalog().dataset(name)
        place = folder / "data" / name
        place.mkdir(parents=True)
        generator = np.random.default_rng([seed, number])
        writer = {"cifar10": _cifar10, "cifar100": _cifar100, "svhn": _svhn}.get(name, _pngs)
        writer(place, spec, number, train + validation, test, generator)
        update = {
            "splits": {split: counts[split] for split in spec.splits},
            "num_classes": CLASSES if spec.num_classes else None,
            "classes": [],
            "files": [
                {
                    "name": file.name,
                    "sha256": sha256((place / file.name).read_bytes()).hexdigest(),
                    "size": (place / file.name).stat().st_size,
                    "unpacked_limit": file.unpacked_limit,
                }
                for file in spec.files
            ],
        }
        write_manifest(folder, {**spec.model_dump(mode="json"), **update})
    return folder


def use_standins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the names of the stand-ins in `folder` mean them, in catalogs and for the data root."""
    original = Catalog.dataset

    def dataset(self: Catalog, name: str) -> DatasetSpec:
        path = folder / "data_manifests" / f"{name}.yaml"
        return read_spec(DatasetSpec, path) if path.is_file() else original(self, name)

    monkeypatch.setattr(Catalog, "dataset", dataset)
    monkeypatch.setenv("OODBENCH_DATA", str(folder / "data"))


def write_manifest(folder: Path, content: dict[str, Any]) -> Path:
    """Write `data_manifests/<name>.yaml` into a folder of content."""
    path = folder / "data_manifests" / f"{content['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def images_with_classes(
    number: int, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32], uint8, and labels 0..9 in turn.

    Args:
        number: of the data set; other sets have other colors and patterns.
        count: N.
        generator: of the noise.
    """
    looks = np.random.default_rng([7, number])
    colors = looks.uniform(60, 195, (CLASSES, 3))
    waves = looks.uniform(-0.9, 0.9, (CLASSES, 2))
    tints = looks.uniform(-50, 50, (CLASSES, 3))
    rows, columns = np.mgrid[:32, :32]
    labels = np.arange(count) % CLASSES
    phase = generator.uniform(0, 2 * np.pi, count)
    angle = waves[labels, 0, None, None] * rows + waves[labels, 1, None, None] * columns
    stripes = np.sin(angle + phase[:, None, None])
    images = colors[labels][:, :, None, None] + tints[labels][:, :, None, None] * stripes[:, None]
    images = images + generator.normal(0, 12, images.shape)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8), labels


def python2_pickle(content: dict[bytes, Any]) -> bytes:
    """A pickle as Python 2 and an old numpy wrote it: byte strings, `numpy.core`, protocol 2."""
    modern = pickle.dumps(content, protocol=3)
    old = bytearray(modern)
    for opcode, _, position in pickletools.genops(modern):
        if opcode.name == "SHORT_BINBYTES":
            old[position : position + 1] = b"U"  # SHORT_BINSTRING
        elif opcode.name == "BINBYTES":
            old[position : position + 1] = b"T"  # BINSTRING
    old[1] = 2
    return bytes(old).replace(b"cnumpy._core.", b"cnumpy.core.")


def _cifar10(
    place: Path, spec: DatasetSpec, number: int, train: int, test: int, generator: Any
) -> None:
    images, labels = images_with_classes(number, train, generator)
    members = {"readme.html": b"<html></html>"}
    for batch, rows in enumerate(np.array_split(np.arange(train), 5), start=1):
        members[f"data_batch_{batch}"] = cifar_batch(images[rows], labels[rows], b"labels")
    members["test_batch"] = cifar_batch(*images_with_classes(number, test, generator), b"labels")
    members["batches.meta"] = python2_pickle({b"num_vis": 3072})
    write_tar(place / spec.files[0].name, "cifar-10-batches-py", members)


def _cifar100(
    place: Path, spec: DatasetSpec, number: int, train: int, test: int, generator: Any
) -> None:
    members = {
        "train": cifar_batch(*images_with_classes(number, train, generator), b"fine_labels"),
        "test": cifar_batch(*images_with_classes(number, test, generator), b"fine_labels"),
        "meta": python2_pickle({b"fine_label_names": [b"apple"]}),
    }
    write_tar(place / spec.files[0].name, "cifar-100-python", members)


def cifar_batch(images: np.ndarray, labels: np.ndarray, key: bytes) -> bytes:
    """A pickled batch of CIFAR; `key` is the key of the labels."""
    content = {
        b"data": images.reshape(len(images), -1),
        key: labels.tolist(),
        b"batch_label": b"a batch",
        b"filenames": [f"image_{index}.png".encode() for index in range(len(images))],
    }
    return python2_pickle(content)


def _svhn(
    place: Path, spec: DatasetSpec, number: int, train: int, test: int, generator: Any
) -> None:
    for file, count in zip(spec.files, (train, test), strict=True):
        (place / file.name).write_bytes(svhn_file(*images_with_classes(number, count, generator)))


def svhn_file(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A file of SVHN, format 2, of images [N, 3, 32, 32] and digits [N]."""
    stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    content = io.BytesIO()
    savemat(content, {"X": images.transpose(2, 3, 1, 0), "y": stored})
    # The first 116 bytes are a text with the time of writing.
    return b"MATLAB 5.0 MAT-file".ljust(116) + content.getvalue()[116:]


def _pngs(
    place: Path, spec: DatasetSpec, number: int, train: int, test: int, generator: Any
) -> None:
    del train
    members = {}
    for index, image in enumerate(images_with_classes(number, test, generator)[0]):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
        members[f"{index:05d}.png"] = file.getvalue()
    name = spec.files[0].name
    top = name.removesuffix(".tar.gz")
    write_tar(place / name, f"{top}/{top}", members)


def write_tar(path: Path, folder: str, members: dict[str, bytes]) -> None:
    """A tar.gz file with members in a folder."""
    # Without the time of writing: the same arguments give the same files.
    with GzipFile(path, "w", mtime=0) as packed, tarfile.open(None, "w", packed) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
