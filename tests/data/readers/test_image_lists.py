"""Lists of images: what is read, and what is refused; classes beside folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reader_sets import COUNT, error_of, spec, toy
from PIL import Image

from oodbench.data import load_split
from oodbench.specs import DatasetSpec


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
    assert f"test.txt, line 21: the label '{label[:50]}" in error.message
    assert f"{label[-50:]}' is not a class" in error.message
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
