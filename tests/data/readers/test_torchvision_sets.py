"""Data sets of torchvision: what is read, and what is refused."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import struct
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reader_sets import COUNT, error_of, spec, toy
from helpers.standins import python2_pickle
from scipy.io import savemat

from oodbench.data import load_split
from oodbench.data.readers.cifar import read_batches
from oodbench.data.readers.torchvision_sets import READERS
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec


def vision_spec(builder: str, **update: Any) -> DatasetSpec:
    return spec("torchvision", builder=builder, **update)


def write_batch(path: Path, content: dict[bytes, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(content))


def packed(folder: Path) -> list[dict[str, Any]]:
    """A manifest's `files`: all that is in a data set's folder, in an archive beside it."""
    path = folder / "toy.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for entry in sorted(folder.iterdir()):
            if entry != path:
                tar.add(entry, entry.name)
    checksum = sha256(path.read_bytes()).hexdigest()
    return [{"name": path.name, "sha256": checksum, "unpacked_limit": 10_000_000}]


def test_cifar10_as_torchvision_reads_it(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10

    images, labels = toy(50)
    folder = tmp_path / "toy/cifar-10-batches-py"
    for number in range(6):
        rows = slice(10 * (number % 5), 10 * (number % 5) + 10)
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        content = {b"data": images[rows].reshape(10, -1), b"labels": labels[rows].tolist()}
        write_batch(folder / name, content)
    write_batch(folder / "batches.meta", {b"label_names": [str(n).encode() for n in range(10)]})

    class Unchecked(CIFAR10):
        def _check_integrity(self) -> bool:
            return True

        def _load_meta(self) -> None:
            pass

    files = packed(tmp_path / "toy")
    manifest = vision_spec("CIFAR10", splits={"train": 50, "test": 10}, files=files)
    for split in ("train", "test"):
        theirs = Unchecked(str(tmp_path / "toy"), train=split == "train")
        mine = load_split(manifest, split, tmp_path)
        np.testing.assert_array_equal(mine.images, theirs.data.transpose(0, 3, 1, 2))
        assert mine.labels.tolist() == list(theirs.targets)
    np.testing.assert_array_equal(load_split(manifest, "train", tmp_path).images, images)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not be printed",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({b"data": Hostile()}, protocol=3), "it asks for builtins.print"),
        (pickle.dumps(Path("x")), "it asks for pathlib"),
        (b"cos\nsystem\n(S'touch /tmp/x'\ntR.", "it asks for os.system"),
        (b"no pickle", "is not a batch of CIFAR"),
        (b"", "is not a batch of CIFAR"),
        (pickle.dumps({b"labels": [1]}), "is not a batch of CIFAR: KeyError(b'data')"),
    ],
)
def test_batches_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    path = tmp_path / "toy/cifar-100-python/test"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    manifest = vision_spec("CIFAR100", files=packed(tmp_path / "toy"))
    assert reason in error_of(manifest, tmp_path).message
    assert capsys.readouterr().out == ""


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(4, 3072), (4, 3, 32, 32)])
@pytest.mark.parametrize("labels", [[1, 2, 3, 4], np.array([[1], [2], [3], [4]], np.uint8)])
def test_batches_in_either_shape(tmp_path: Path, shape: tuple[int, ...], labels: Any) -> None:
    path = tmp_path / "test"
    path.write_bytes(pickle.dumps({b"data": PIXELS.reshape(shape), b"labels": labels}))
    images, numbers = read_batches([path, path], b"labels")
    np.testing.assert_array_equal(images, np.concatenate([PIXELS, PIXELS]))
    assert numbers.tolist() == [1, 2, 3, 4] * 2
    assert numbers.dtype == np.int64


@pytest.mark.parametrize(
    ("data", "labels", "reason"),
    [
        (PIXELS.transpose(0, 2, 3, 1), [0] * 4, "'data' is uint8 of shape [4, 32, 32, 3]"),
        (PIXELS.reshape(2, 2, 3072), [0] * 4, "'data' is uint8 of shape [2, 2, 3072]"),
        (PIXELS.reshape(-1), [0] * 4, "'data' is uint8 of shape [12288]"),
        (PIXELS.reshape(4, 3, 64, 16), [0] * 4, "'data' is uint8 of shape [4, 3, 64, 16]"),
        (PIXELS.astype(float), [0] * 4, "'data' is float64 of shape"),
        (PIXELS.astype(np.int64), [0] * 4, "'data' is int64 of shape"),
        (PIXELS, [0] * 3, "'labels' is int64 of shape [3]"),
        (PIXELS, [0.5] * 4, "'labels' is float64 of shape [4]"),
        (PIXELS, [b"cat"] * 4, "'labels' is |S3 of shape [4]"),
        (PIXELS, [True] * 4, "'labels' is bool of shape [4]"),
        (PIXELS, np.full(4, 2**63, np.uint64), "'labels' has the label 9223372036854775808"),
    ],
)
def test_batches_with_other_arrays(tmp_path: Path, data: Any, labels: Any, reason: str) -> None:
    path = tmp_path / "test"
    path.write_bytes(pickle.dumps({b"data": data, b"labels": labels}))
    with pytest.raises(UserError) as caught:
        read_batches([path], b"labels")
    assert f"{path}: array {reason}" in caught.value.message


@pytest.mark.parametrize("builder", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("readme", [False, True])
def test_batches_of_nobody_knows_where(tmp_path: Path, builder: str, readme: bool) -> None:
    """Without an archive that has a checksum, no batch is opened."""
    for path in ("cifar-10-batches-py/test_batch", "cifar-100-python/test"):
        content = {b"data": toy()[0].reshape(COUNT, -1), b"fine_labels": toy()[1].tolist()}
        write_batch(tmp_path / "toy" / path, content | {b"labels": content[b"fine_labels"]})
    (tmp_path / "toy/readme.txt").write_bytes(b"")
    file = {"name": "readme.txt", "sha256": sha256().hexdigest()}
    error = error_of(vision_spec(builder, files=[file] if readme else []), tmp_path)
    assert f"{builder} needs 'files' with its archive" in error.message
    assert f"data_manifests/{builder.lower()}.yaml" in error.hint


def test_svhn_calls_its_zero_ten(tmp_path: Path) -> None:
    images, labels = toy()
    (tmp_path / "toy").mkdir()
    stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    savemat(tmp_path / "toy/test_32x32.mat", stored)
    data = load_split(vision_spec("SVHN"), "test", tmp_path)
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"X": lambda x: x.astype(float)}, "array 'X' is float64 of shape [32, 32, 3, 20]"),
        ({"X": lambda x: x.astype(np.int16)}, "array 'X' is int16 of shape [32, 32, 3, 20]"),
        ({"X": lambda x: x / 255}, "array 'X' is float64"),
        ({"X": lambda x: x.transpose(3, 0, 1, 2)}, "array 'X' is uint8 of shape [20, 32, 32, 3]"),
        ({"X": lambda x: x[:, :, 0]}, "array 'X' is uint8 of shape [32, 32, 20]"),
        ({"X": lambda x: x > 9}, "array 'X' is bool of shape [32, 32, 3, 20]; expected uint8"),
        ({"X": lambda x: np.zeros_like(x, bool)}, "array 'X' is bool of shape [32, 32, 3, 20]"),
        ({"y": lambda y: y > 0}, "array 'y' is bool of shape [20, 1]"),
        ({"y": lambda y: y.astype(float) + 0.5}, "array 'y' is float64"),
        ({"y": lambda y: y[:-1]}, "array 'y' is int64 of shape [19, 1]"),
        ({"y": lambda y: y - 1}, "array 'y' has the label 0; expected 1 to 10"),
        ({"y": lambda y: y + 1}, "array 'y' has the label 11; expected 1 to 10"),
        ({"y": lambda y: None}, "has no array 'y'"),
    ],
)
def test_a_mat_file_with_other_arrays(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    images, labels = toy()
    stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    for name, function in change.items():
        stored[name] = function(stored[name])
    (tmp_path / "toy").mkdir()
    given = {name: array for name, array in stored.items() if array is not None}
    savemat(tmp_path / "toy/test_32x32.mat", given)
    error = error_of(vision_spec("SVHN"), tmp_path)
    assert "test_32x32.mat" in error.message
    assert said in error.message


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        # The third byte of the magic number is the type: 8 bytes, 11 two bytes, 13 floats.
        ((0x0B, (10, 28, 28), 2), (8, (10,), 1), "images-idx3-ubyte: its array is int16 of shape"),
        ((0x0D, (10, 28, 28), 4), (8, (10,), 1), "images-idx3-ubyte: its array is float32"),
        ((8, (10, 784), 1), (8, (10,), 1), "images-idx3-ubyte: its array is uint8 of shape [10, 7"),
        ((8, (10, 28, 28), 1), (8, (9,), 1), "labels-idx1-ubyte: its array is uint8 of shape [9]"),
        ((8, (10, 28, 28), 1), (0x0D, (10,), 4), "labels-idx1-ubyte: its array is float32"),
        ((8, (10, 28, 29), 1.2), (8, (10,), 1), "cannot read"),
        ((8, (10, 28, 28), 0.5), (8, (10,), 1), "images-idx3-ubyte: the content is not in this f"),
        (
            (8, (10, 28, 28), 1),
            (8, (10,), 2),
            "labels-idx1-ubyte: the content is not in this format",
        ),
    ],
)
def test_an_idx_file_with_other_arrays(tmp_path: Path, images: Any, labels: Any, said: str) -> None:
    (tmp_path / "toy").mkdir()
    for name, (kind, shape, size) in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">{len(shape) + 1}I", kind * 256 + len(shape), *shape)
        content = head + bytes(int(size * np.prod(shape)))
        (tmp_path / f"toy/t10k-{name}-ubyte").write_bytes(content)
    manifest = vision_spec("MNIST", shape=[1, 28, 28], splits={"test": 10})
    assert said in error_of(manifest, tmp_path).message


@pytest.mark.parametrize("builder", ["MNIST", "FashionMNIST", "KMNIST"])
def test_the_format_of_mnist(tmp_path: Path, builder: str) -> None:
    """From .gz files, as they are published."""
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    (tmp_path / "toy").mkdir()
    files = []
    for prefix, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        count = len(labels[rows])
        for name, head, content in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">4I", 2051, count, 28, 28), images[rows]),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">2I", 2049, count), labels[rows]),
        ):
            data = gzip.compress(head + content.tobytes())
            (tmp_path / "toy" / f"{name}.gz").write_bytes(data)
            about = {"name": f"{name}.gz", "sha256": sha256(data).hexdigest()}
            files.append({**about, "unpacked_limit": 100_000})
    manifest = vision_spec(
        builder, shape=[1, 28, 28], splits={"train": 20, "test": 10}, files=files
    )
    for split, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        data = load_split(manifest, split, tmp_path)
        np.testing.assert_array_equal(data.images[:, 0], images[rows])
        assert data.labels.tolist() == labels[rows].tolist()


def test_unknown_readers_options_and_splits(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    error = error_of(vision_spec("CIFAR"), tmp_path)
    assert "there is no torchvision reader 'CIFAR'" in error.message
    assert "CIFAR10" in error.hint
    error = error_of(vision_spec("SVHN", options={"train": True}), tmp_path)
    assert "builder 'SVHN' takes no option 'train'" in error.message
    assert error.hint == "None are known."
    validation = vision_spec("SVHN", splits={"validation": 5, "test": COUNT})
    with pytest.raises(UserError) as caught:
        load_split(validation, "validation", tmp_path)
    assert "split_from" in caught.value.hint


@pytest.mark.parametrize("builder", READERS)
def test_missing_files(tmp_path: Path, builder: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/readme.txt").write_bytes(b"")
    manifest = vision_spec(builder, files=packed(tmp_path / "toy"))
    assert "cannot read " in error_of(manifest, tmp_path).message


def test_a_damaged_mat_file(tmp_path: Path) -> None:
    file = io.BytesIO()
    savemat(file, {"X": np.zeros((32, 32, 3, COUNT), np.uint8)})
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/test_32x32.mat").write_bytes(file.getvalue()[:500])
    assert re.search(
        "cannot read .*test_32x32.mat: ", error_of(vision_spec("SVHN"), tmp_path).message
    )
