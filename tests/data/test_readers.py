"""Kinds list, npz and torchvision: what they read, and what they refuse."""

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
from helpers.standins import images_with_classes, python2_pickle
from PIL import Image
from scipy.io import savemat

from oodbench.data import load_split
from oodbench.data.readers.cifar import read_batches
from oodbench.data.readers.torchvision_sets import READERS
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

COUNT = 20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))


def spec(kind: str, **update: Any) -> DatasetSpec:
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": kind,
        "shape": [3, 32, 32],
        "num_classes": 10,
        "splits": {"test": COUNT},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


def toy(count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    return images_with_classes(0, count, np.random.default_rng(0))


def error_of(manifest: DatasetSpec, root: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        load_split(manifest, "test", root)
    assert caught.value.message.startswith("data set 'toy'")
    return caught.value


# --- list --------------------------------------------------------------------------------------


def write_list(root: Path, lines: list[str], name: str = "test.txt", folder: str = "toy") -> None:
    images, _ = toy()
    (root / folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(root / folder / f"pictures/no {index}.png")
    (root / folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def list_spec(**update: Any) -> DatasetSpec:
    return spec("list", **{"paths": {"test": "test.txt"}, **update})


ORDER = np.random.default_rng(1).permutation(COUNT)


@pytest.mark.parametrize("separator", [" ", "   ", "\t"])
@pytest.mark.parametrize("names", [False, True])
def test_a_list_with_labels(tmp_path: Path, separator: str, names: bool) -> None:
    """Blanks in paths are no problem; class names are sorted."""
    images, labels = toy()
    shown = [f"class{9 - label}" if names else str(label) for label in labels]
    more = "\t7\t7" if separator == "\t" else ""  # as in Tiny-ImageNet's val_annotations.txt
    lines = [f"pictures/no {i}.png{separator}{shown[i]}{more}" for i in ORDER]
    write_list(tmp_path, ["# a comment", *lines, ""])
    data = load_split(list_spec(), "test", tmp_path)
    np.testing.assert_array_equal(data.images, images[ORDER])
    expected = 9 - labels if names else labels
    assert data.labels.tolist() == expected[ORDER].tolist()


@pytest.mark.parametrize("root", ["pictures", {"test": "pictures"}])
def test_a_list_without_labels(tmp_path: Path, root: Any) -> None:
    images, _ = toy()
    write_list(tmp_path, [f"no {i}.png" for i in ORDER])
    manifest = list_spec(num_classes=None, options={"root": root})
    data = load_split(manifest, "test", tmp_path)
    assert data.labels is None
    np.testing.assert_array_equal(data.images, images[ORDER])


def test_a_list_whose_labels_are_not_used(tmp_path: Path) -> None:
    write_list(tmp_path, [f"pictures/no {i}.png -1" for i in ORDER])
    manifest = list_spec(num_classes=None, options={"labeled": True})
    assert load_split(manifest, "test", tmp_path).labels is None


LINES = [f"pictures/no {i}.png {i % 10}" for i in range(COUNT)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + "\n".join(LINES),
        "\r\n".join(LINES) + "\r\n",
        "\r".join(LINES),
        "\n\n".join(f"  {line}   " for line in LINES) + "\n \t \n",
        "# a \u2028 comment\n" + "\n".join(LINES),
    ],
    ids=["mark", "windows", "mac", "blanks", "comment"],
)
def test_lists_as_programs_write_them(tmp_path: Path, text: str) -> None:
    write_list(tmp_path, [])
    (tmp_path / "toy/test.txt").write_bytes(text.encode())
    data = load_split(list_spec(), "test", tmp_path)
    np.testing.assert_array_equal(data.images, toy()[0])
    assert data.labels.tolist() == [i % 10 for i in range(COUNT)]


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\xa0"])
def test_no_other_character_ends_a_line(tmp_path: Path, char: str) -> None:
    """Not even at the end of a path."""
    write_list(tmp_path, [])
    for name in (f"a{char}b.png", f"{char}c.png", f"d.png{char}"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "toy" / name, "PNG")
    lines = [f"a{char}b.png", f"{char}c.png", f"d.png{char}"]
    (tmp_path / "toy/test.txt").write_text("\n".join(lines), encoding="utf-8")
    manifest = list_spec(num_classes=None, splits={"test": 3})
    assert len(load_split(manifest, "test", tmp_path)) == 3


@pytest.mark.parametrize(
    "label", ["99999999999999999999", "9" * 5000, "-1", "10", "+1", "1.0", "1e0"]
)
def test_labels_that_are_no_classes_are_named_with_their_line(tmp_path: Path, label: str) -> None:
    write_list(tmp_path, ["# a comment", *LINES[:-1], f"pictures/no 19.png {label}"])
    error = error_of(list_spec(), tmp_path)
    assert f"test.txt, line 21: the label '{label}' is not a class" in error.message
    assert "labels are 0 to 9" in error.message


def test_images_that_are_not_there_are_named_with_their_line(tmp_path: Path) -> None:
    for name in ("none.png", '"pictures/no 1.png"', "a\0b.png", "x" * 300):
        write_list(tmp_path, [LINES[0], f"{name} 1"])
        error = error_of(list_spec(), tmp_path)
        assert "test.txt, line 2: cannot read" in error.message


def mixed_spec(**update: Any) -> DatasetSpec:
    paths = {"train": "train.txt", "test": "test"}
    return list_spec(paths=paths, splits={"train": 12, "test": 12}, num_classes=12, **update)


def write_mixed(root: Path, labels: list[str], folders: list[str]) -> None:
    """A list to train with and a folder to test with; the shade of an image tells its class."""
    lines = []
    for number, (label, name) in enumerate(zip(labels, folders, strict=True)):
        image = Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8))
        for path in (f"toy/images/{number}.png", f"toy/test/{name}/a.png"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / path)
        lines.append(f"images/{number}.png {label}")
    (root / "toy/train.txt").write_text("\n".join(lines))


TWELVE = [str(number) for number in range(12)]
WORDS = [chr(ord("a") + number) for number in range(12)]


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        (TWELVE, TWELVE),
        (TWELVE, [f"{number:03}" for number in range(12)]),
        ([f"{number:02}" for number in range(12)], TWELVE),
        (WORDS, WORDS),
        ([*TWELVE[:11], "x"], [*TWELVE[:11], "x"]),
    ],
)
def test_a_label_is_the_same_class_in_a_list_and_in_a_folder(
    tmp_path: Path, labels: list[str], folders: list[str]
) -> None:
    write_mixed(tmp_path, labels, folders)
    shades = []
    for split in ("train", "test"):
        data = load_split(mixed_spec(), split, tmp_path)
        shades.append([int(data.images[data.labels == c].mean()) for c in range(12)])
    assert shades[0] == shades[1]
    assert sorted(shades[0]) == [20 * number for number in range(12)]


@pytest.mark.parametrize(
    ("labels", "folders"),
    [(TWELVE, WORDS), (TWELVE, [str(number) for number in range(1, 13)])],
)
def test_numbers_in_one_split_and_names_in_another(
    tmp_path: Path, labels: list[str], folders: list[str]
) -> None:
    write_mixed(tmp_path, labels, folders)
    error = error_of(mixed_spec(), tmp_path)
    assert "the labels of split 'train' are numbers" in error.message
    assert "those of split 'test' are names" in error.message


def test_a_list_of_numbers_beside_a_list_of_names(tmp_path: Path) -> None:
    write_list(tmp_path, [f"pictures/no {i}.png c{i % 10}" for i in range(COUNT)])
    write_list(tmp_path, LINES, "train.txt")
    manifest = list_spec(
        paths={"train": "train.txt", "test": "test.txt"}, splits={"train": COUNT, "test": COUNT}
    )
    error = error_of(manifest, tmp_path)
    assert "the labels of split 'train' are numbers" in error.message
    assert "'test' are names (c0, c1, c2 and 7 more)" in error.message


def test_a_list_beside_a_folder(tmp_path: Path) -> None:
    """Tiny-ImageNet: folders of classes to train with, a list of names to test with."""
    images, labels = toy()
    write_list(tmp_path, [f"no {i}.png\tc{labels[i]}\t0\t0" for i in range(COUNT)])
    for index, image in enumerate(images):
        path = tmp_path / f"toy/train/c{labels[index]}/images/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    manifest = list_spec(
        paths={"train": "train", "test": "test.txt"},
        splits={"train": COUNT, "test": COUNT},
        options={"root": {"test": "pictures"}},
    )
    assert load_split(manifest, "test", tmp_path).labels.tolist() == labels.tolist()
    assert load_split(manifest, "train", tmp_path).labels.tolist() == sorted(labels.tolist())


def test_a_changed_list_is_read_again(tmp_path: Path) -> None:
    images, _ = toy()
    write_list(tmp_path, [f"pictures/no {i}.png" for i in range(COUNT)])
    manifest = list_spec(num_classes=None)
    load_split(manifest, "test", tmp_path)
    (tmp_path / "toy/test.txt").write_text("pictures/no 3.png\n" * COUNT)
    data = load_split(manifest, "test", tmp_path)
    assert (data.images == images[3]).all()


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["pictures/none.png 0"], {}, "cannot read .*pictures/none.png: No such file"),
        (["pictures/no 1.png\t"], {}, "line 1: the label is missing after the path"),
        (["0"], {}, "line 1: the label is missing after the path"),
        (["pictures/no 1.png 0"], {}, "the manifest says 20 images, found 1"),
        (["pictures/no 1.png 0"] * COUNT, {}, "the manifest says 10 classes, found 1"),
        ([], {"rot": 1}, "kind 'list' takes no option 'rot'"),
        ([], {"root": 1}, "cannot use the options: root"),
    ],
)
def test_lists_that_do_not_fit(
    tmp_path: Path, lines: list[str], options: dict[str, Any], message: str
) -> None:
    write_list(tmp_path, lines)
    assert re.search(message, error_of(list_spec(options=options), tmp_path).message)


def test_a_list_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    write_list(tmp_path, [])
    assert "cannot read" in error_of(list_spec(paths={"test": "none.txt"}), tmp_path).message
    (tmp_path / "toy/test.txt").write_bytes(b"\xff\xfe\xff")
    assert "UTF-8" in error_of(list_spec(), tmp_path).hint


# --- npz ---------------------------------------------------------------------------------------


def npz_spec(**update: Any) -> DatasetSpec:
    return spec("npz", **{"paths": {"test": "data.npz"}, **update})


def write_npz(root: Path, **arrays: Any) -> None:
    (root / "toy").mkdir(exist_ok=True)
    np.savez(root / "toy/data.npz", **arrays)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_npz(tmp_path: Path, dtype: type) -> None:
    images, labels = toy()
    write_npz(tmp_path, images=images.transpose(0, 2, 3, 1), labels=labels.astype(dtype)[:, None])
    data = load_split(npz_spec(), "test", tmp_path)
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == labels.tolist()


def test_npz_channels_first_under_other_names(tmp_path: Path) -> None:
    images, labels = toy()
    write_npz(tmp_path, x=images, y=labels)
    options = {"images": "x", "labels": "y", "layout": "NCHW"}
    data = load_split(npz_spec(options=options), "test", tmp_path)
    np.testing.assert_array_equal(data.images, images)
    unlabeled = npz_spec(options=options, num_classes=None)
    assert load_split(unlabeled, "test", tmp_path).labels is None


def test_npz_gray_and_resized(tmp_path: Path) -> None:
    images, labels = toy()
    write_npz(tmp_path, images=images[:, 0], labels=labels)
    gray = load_split(npz_spec(shape=[1, 32, 32]), "test", tmp_path)
    np.testing.assert_array_equal(gray.images[:, 0], images[:, 0])
    half = load_split(npz_spec(shape=[1, 16, 16], resize={"filter": "box"}), "test", tmp_path)
    means = images[:, 0].reshape(COUNT, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.abs(half.images[:, 0] - means).max() <= 1  # rounded after rows and columns
    color = load_split(npz_spec(), "test", tmp_path)  # gray as RGB
    np.testing.assert_array_equal(color.images, np.repeat(images[:, :1], 3, axis=1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((COUNT, 32, 32, 3))}, "array 'images' is float64 of shape"),
        ({"images": np.zeros((COUNT, 9), np.uint8)}, "array 'images' is uint8 of shape [20, 9]"),
        ({"image": np.zeros((COUNT, 32, 32, 3), np.uint8)}, "has no array 'images'"),
        ({"images": np.zeros((COUNT, 32, 32, 3), np.uint8)}, "has no array 'labels'"),
        (
            {"images": np.zeros((COUNT, 32, 32, 3), np.uint8), "labels": np.arange(3)},
            "array 'labels' is int64 of shape [3]",
        ),
        (
            {"images": np.zeros((COUNT, 9, 9, 3), np.uint8), "labels": np.arange(COUNT) % 10},
            "image number 0 is 9x9, the manifest says 32x32",
        ),
        ({"images": np.array([object()])}, "cannot read array 'images'"),
        (
            {"images": np.zeros((COUNT, 3, 32, 32), np.uint8)},
            "uint8 of shape [20, 3, 32, 32]; expected uint8 of shape [N, H, W, 3]",
        ),
        ({"images": np.zeros((COUNT, 32, 32, 4), np.uint8)}, "is uint8 of shape [20, 32, 32, 4]"),
        ({"images": np.zeros((COUNT, 32, 32, 3), bool)}, "is bool of shape [20, 32, 32, 3]"),
        (
            {"images": np.zeros((COUNT, 32, 32), np.uint8), "labels": np.zeros(COUNT)},
            "array 'labels' is float64 of shape [20]",
        ),
        (
            {"images": np.zeros((COUNT, 32, 32), np.uint8), "labels": np.eye(COUNT, dtype=int)},
            "array 'labels' is int64 of shape [20, 20]",
        ),
        (
            {"images": np.zeros((COUNT, 32, 32), np.uint8), "labels": -np.arange(COUNT)},
            "labels 0 to 9, found labels -19 to 0",
        ),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: Any, message: str) -> None:
    write_npz(tmp_path, **arrays)
    assert message in error_of(npz_spec(), tmp_path).message


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_npz_in_the_other_layout_and_what_to_do(tmp_path: Path, layout: str) -> None:
    images, labels = toy()
    other = images if layout == "NHWC" else images.transpose(0, 2, 3, 1)
    write_npz(tmp_path, images=other, labels=labels)
    error = error_of(npz_spec(options={"layout": layout}), tmp_path)
    wanted = "NCHW" if layout == "NHWC" else "NHWC"
    assert error.hint == f"Write 'options: {{layout: {wanted}}}'."
    assert load_split(npz_spec(options={"layout": wanted}), "test", tmp_path).images.shape[1] == 3


@pytest.mark.parametrize("content", [b"", b"PK no zip", b"\x93NUMPY\x01\x00"])
def test_npz_files_that_are_damaged(tmp_path: Path, content: bytes) -> None:
    write_npz(tmp_path)
    (tmp_path / "toy/data.npz").write_bytes(content)
    assert "cannot read array 'images' of" in error_of(npz_spec(), tmp_path).message


def test_npy_that_is_called_npz_and_bytes_that_are_flipped(tmp_path: Path) -> None:
    write_npz(tmp_path, images=np.zeros((COUNT, 32, 32), np.uint8), labels=np.arange(COUNT))
    path = tmp_path / "toy/data.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert "cannot read array 'images' of" in error_of(npz_spec(), tmp_path).message
    with path.open("wb") as file:
        np.save(file, np.zeros((COUNT, 32, 32), np.uint8))
    assert "cannot read array 'images' of" in error_of(npz_spec(), tmp_path).message


def test_npz_that_is_no_npz(tmp_path: Path) -> None:
    write_npz(tmp_path)
    (tmp_path / "toy/data.npz").write_bytes(b"PK no zip")
    assert "cannot read array 'images' of" in error_of(npz_spec(), tmp_path).message


# --- torchvision -------------------------------------------------------------------------------


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
    assert "split_from" in error_of(validation, tmp_path).hint


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
