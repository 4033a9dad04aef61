"""Small stand-ins for the data sets of OpenOOD v1.5, in the formats of the original files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.standins import (
    CLASSES,
    cifar_batch,
    images_with_classes,
    python2_pickle,
    svhn_file,
    write_manifest,
    write_tar,
)
from oodbench.plugins.catalog import Catalog

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10 += ("dog", "frog", "horse", "ship", "truck")
CIFAR100 = ("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle")
CIFAR100 += ("bicycle", "bottle")
WNIDS = tuple(f"n0144{number:04d}" for number in range(CLASSES))
LARGE = ("imagenet", "ssb", "ninco", "inaturalist", "openimage", "textures")


def write_openood(
    folder: Path,
    names: Iterable[str] = (),
    *,
    train: int = 60,
    validation: int = 20,
    test: int = 40,
    torchvision: bool = False,
    seed: int = 0,
) -> Path:
    """Write stand-ins for the manifests `openood-*`: lists, images and manifests.

    Lists have the form of the published ones (`path label` a line, -1 for OOD, names as OpenOOD
    numbers its files), images are in `images_classic/` and `images_largescale/`, and manifests
    differ from the built-in ones in checksums, counts and classes (10) alone. So all that
    reads the originals reads these, without a network. Images of 32x32 have learnable classes
    (`helpers.standins.images_with_classes`); those of ImageNet are these, enlarged to about 240
    pixels, as JPEG files; ImageNet-C has 224x224.

    Use them for the built-in names with `helpers.standins.use_standins(folder, monkeypatch)`. By
    hand, copy `data_manifests/` over that of a checkout, and give `--data-root FOLDER/data`: two
    manifests of one name are an error.

    Args:
        folder: an empty folder.
        names: the manifests; default: all whose names begin with `openood-`.
        train: images of each train split.
        validation: images of each validation split.
        test: images of each test split.
        torchvision: whether CIFAR, SVHN and MNIST are written as torchvision's files instead.
        seed: of the noise.

    Returns:
        `folder`, which then holds `data/` (a data root) and `data_manifests/`.
    """
    counts = {"train": train, "validation": validation, "test": test}
    root = folder / "data"
    known = [name for name in Catalog().entries["dataset"] if name.startswith("openood-")]
    writer = _Writer(root, counts, torchvision=torchvision, seed=seed)
    for name in names or known:
        spec = Catalog().dataset(name)
        values = spec.model_dump(mode="json")
        for split, listing in values["lists"].items():
            writer.write_list(name, split, listing)
        for split, folders in values["class_folders"].items():
            writer.write_training(folders["folders"][0], counts[split])
            folders["at_most"] = False
            if folders["classes"] is not None:
                writer.write_list("openood-imagenet-r", "test", folders["classes"])
        values["splits"] = {split: counts[split] for split in spec.splits}
        values["num_classes"] = CLASSES if spec.num_classes else None
        values.pop("classes", None)
        for place in values["places"]:
            for file in place["files"]:
                writer.adapt(place["folder"], file)
        write_manifest(folder, values)
    return folder


class _Writer:
    """Writes lists and the images that they name."""

    def __init__(self, root: Path, counts: dict[str, int], *, torchvision: bool, seed: int) -> None:
        self._root, self._counts, self._torchvision, self._seed = root, counts, torchvision, seed
        self._arrays: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        if torchvision:
            self._write_torchvision()

    def write_list(self, name: str, split: str, listing: dict[str, Any]) -> None:
        """Write a list and its images, and give its entry in the manifest the new checksum."""
        spec = Catalog().dataset(name)
        source = name.removeprefix("openood-").removesuffix("-ood")
        kind = next(key for key in sorted(_PATHS, key=len, reverse=True) if source.startswith(key))
        start = (
            0 if split != "test" or "validation" not in spec.splits else self._counts["validation"]
        )
        part = "train" if split == "train" else "test"
        lines = []
        images, labels = self.images(kind, part)
        for index in range(start, start + self._counts[split]):
            label = int(labels[index])
            inner = _PATHS[kind](part, label, index)
            lines.append(f"{inner} {label if spec.num_classes else -1}\n")
            if not (self._torchvision and kind in _TORCHVISION):
                large = source.startswith(LARGE)
                top = "images_largescale" if large and kind != "texture" else "images_classic"
                self._write_image(f"{top}/{inner}", images[index], spec.shape, spec.resize)
        content = "".join(lines).encode()
        path = self._root / listing["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        listing |= {"sha256": sha256(content).hexdigest(), "size": len(content)}

    def write_training(self, folder: str, count: int) -> None:
        """Write the training images of ImageNet, one folder per class."""
        images, labels = self.images("imagenet", "train")
        shape, resize = (3, 224, 224), True
        for index in range(count):
            wnid = WNIDS[labels[index]]
            self._write_image(f"{folder}/{wnid}/{wnid}_{index}.JPEG", images[index], shape, resize)

    def images(self, kind: str, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images of a data set: the same ones for all lists that name them."""
        key = kind, part
        if key not in self._arrays:
            count, number = sum(self._counts.values()), sum(map(ord, kind))
            noise = np.random.default_rng([self._seed, number, part == "train"])
            self._arrays[key] = images_with_classes(number, count, noise)
        return self._arrays[key]

    def adapt(self, folder: str, file: dict[str, Any]) -> None:
        """Give a file of a manifest the checksum of its stand-in, and no address."""
        file["urls"] = []
        path = self._root / folder / file["name"]
        if path.is_file():
            content = path.read_bytes()
            file["size"] = len(content)
            if file["sha256"]:
                file["sha256"] = sha256(content).hexdigest()
            elif file["md5"]:
                file["md5"] = md5(content, usedforsecurity=False).hexdigest()

    def _write_image(self, path: str, pixels: np.ndarray, shape: Any, resize: Any) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        if shape[1] > 32:
            image = image.resize((270, 240) if resize else (224, 224))
        if path.startswith("images_classic/mnist"):
            image = image.convert("L").resize((28, 28))
        image.save(target, "PNG" if path.endswith(".png") else "JPEG")

    def _write_torchvision(self) -> None:
        for kind, names in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
            key = b"labels" if kind == "cifar10" else b"fine_labels"
            train, test = (self.images(kind, part) for part in ("train", "test"))
            meta = python2_pickle(
                {key.replace(b"labels", b"label_names"): [name.encode() for name in names]}
            )
            members = {"test": cifar_batch(*test, key), "meta": meta}
            if kind == "cifar10":
                members = {"test_batch": members["test"], "batches.meta": meta}
                for batch, rows in enumerate(np.array_split(np.arange(len(train[1])), 5), start=1):
                    members[f"data_batch_{batch}"] = cifar_batch(
                        train[0][rows], train[1][rows], key
                    )
            else:
                members["train"] = cifar_batch(*train, key)
            top = "cifar-10-batches-py" if kind == "cifar10" else "cifar-100-python"
            archive = f"{'cifar-10' if kind == 'cifar10' else 'cifar-100'}-python.tar.gz"
            (self._root / kind).mkdir(parents=True)
            write_tar(self._root / kind / archive, top, members)
        (self._root / "svhn").mkdir()
        (self._root / "svhn/test_32x32.mat").write_bytes(svhn_file(*self.images("svhn", "test")))
        (self._root / "mnist").mkdir()
        for part, prefix in (("train", "train"), ("test", "t10k")):
            images, labels = self.images("mnist", part)
            gray = images[:, 0, 2:30, 2:30]
            _write_idx(self._root / f"mnist/{prefix}-images-idx3-ubyte.gz", gray)
            _write_idx(self._root / f"mnist/{prefix}-labels-idx1-ubyte.gz", labels)


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(
        length.to_bytes(4, "big") for length in array.shape
    )
    content = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=content, mtime=0) as file:
        file.write(header + array.astype(np.uint8).tobytes())
    path.write_bytes(content.getvalue())


def _hex(index: int) -> str:
    return sha256(str(index).encode()).hexdigest()[:16]


_TORCHVISION = ("cifar10", "cifar100", "svhn", "mnist")

_PATHS: dict[str, Callable[[str, int, int], str]] = {
    "cifar10": lambda part, y, i: f"cifar10/{part}/{CIFAR10[y]}/{i // CLASSES + 1:04d}.png",
    "cifar100": lambda part, y, i: f"cifar100/{part}/{CIFAR100[y]}/{i // CLASSES + 1:04d}.png",
    "cifar10c": lambda part, y, i: f"cifar10c/{i:05d}_{y}.png",
    "tin": lambda part, y, i: f"tin/val/images/val_{i}.JPEG",
    "places365": lambda part, y, i: f"places365/scene-{y}/Places365_val_{i + 1:08d}.jpg",
    "mnist": lambda part, y, i: f"mnist/{part}/{y}_{i}.jpg",
    "svhn": lambda part, y, i: f"svhn/{part}/{i + 1:06d}_{y}.jpg",
    "texture": lambda part, y, i: f"texture/kind{y}/kind{y}_{i:04d}.jpg",
    "imagenet": lambda part, y, i: f"imagenet_1k/val/ILSVRC2012_val_{i + 1:08d}.JPEG",
    "imagenet-v2": lambda part, y, i: f"imagenet_v2/{y}/{_hex(i)}.jpeg",
    "imagenet200-v2": lambda part, y, i: f"imagenet_v2/{y}/{_hex(i)}.jpeg",
    "imagenet-c": lambda part, y, i: f"imagenet_c/fog/1/ILSVRC2012_val_{i + 1:08d}.JPEG",
    "imagenet200-c": lambda part, y, i: f"imagenet_c/fog/1/ILSVRC2012_val_{i + 1:08d}.JPEG",
    "imagenet-r": lambda part, y, i: f"imagenet_r/{WNIDS[y]}/art_{i}.jpg",
    "imagenet200-r": lambda part, y, i: f"imagenet_r/{WNIDS[y]}/art_{i}.jpg",
    "ssb-hard": lambda part, y, i: f"ssb_hard/{WNIDS[y]}/{WNIDS[y]}_{i}.JPEG",
    "ninco": lambda part, y, i: f"ninco/thing_{y}/thing_{y}_{i:03d}.jpg",
    "inaturalist": lambda part, y, i: f"inaturalist/images/{_hex(i)}.jpg",
    "openimage-o": lambda part, y, i: f"openimage_o/images/{_hex(i)}.jpg",
}
"""Beginning of a manifest's name, without `openood-` -> path of an image: part of the data set,
class, index."""
