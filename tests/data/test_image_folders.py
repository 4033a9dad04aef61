"""Folders of images: what is taken, in which order, and what is said when it does not fit."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench.data import load_split
from oodbench.data.image_selection import split_parts
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.store.image_cache import decoded_folder
from oodbench.data.store.locations import decoded_root, root_folder
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.data.store.verification import verify
from oodbench.errors import UserError
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec

SIDE = 6


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_DATA", raising=False)


def spec(**update: Any) -> DatasetSpec:
    """Two classes of four images to train with and two to test with."""
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": "folder",
        "paths": {"train": "train", "test": "test"},
        "shape": [3, SIDE, SIDE],
        "num_classes": 2,
        "splits": {"train": 8, "test": 4},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


UNLABELLED = {"num_classes": None, "paths": {"test": "test"}, "splits": {"test": 4}}


def pixels(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_image(path: Path, seed: int, side: int = SIDE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(seed, side)
    Image.fromarray(array).save(path)
    return array


def write_toy(root: Path) -> dict[str, np.ndarray]:
    """The images that `spec` describes, by path in the data set's folder."""
    written = {}
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                path = f"{split}/{name}/{index}.png"
                seed = 100 * label + 10 * index + count
                written[path] = write_image(root / "toy" / path, seed)
    return written


def load(manifest: DatasetSpec, split: str, root: Path) -> Any:
    return load_split(manifest, split, root)


def error_of(manifest: DatasetSpec, root: Path, split: str = "test") -> UserError:
    with pytest.raises(UserError) as caught:
        load_split(manifest, split, root)
    assert caught.value.message.startswith("data set 'toy'")
    assert list(decoded_root().glob("toy-*")) == [], "half a data set was left"
    assert list(decoded_root().glob(".writing*")) == []
    return caught.value


# --- what is taken ----------------------------------------------------------------------------


def test_classes_are_sub_folders(tmp_path: Path) -> None:
    written = write_toy(tmp_path)
    for split, per_class in (("train", 4), ("test", 2)):
        data = load(spec(), split, tmp_path)
        assert data.labels.tolist() == [0] * per_class + [1] * per_class
        expected = [array for path, array in written.items() if path.startswith(split)]
        np.testing.assert_array_equal(data.images, np.stack(expected).transpose(0, 3, 1, 2))
        assert isinstance(data.images, np.memmap)


def test_without_classes_all_images_below_are_taken_in_the_order_of_their_paths(
    tmp_path: Path,
) -> None:
    names = ["b/x.png", "a.png", "B.PNG", "b-c.png"]
    arrays = {name: write_image(tmp_path / "toy/test" / name, i) for i, name in enumerate(names)}
    for other in ("notes.txt", ".hidden.png", ".folder/x.png", "b/.DS_Store"):
        (tmp_path / "toy/test" / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy/test" / other).write_bytes(b"no image")
    data = load(spec(**UNLABELLED), "test", tmp_path)
    assert data.labels is None
    expected = np.stack([arrays[name] for name in sorted(names)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.images, expected)


def test_classes_are_sorted_before_paths(tmp_path: Path) -> None:
    """As text, "a-b/1" comes before "a/1"; as classes, "a" comes before "a-b"."""
    for name in ("a", "a-b"):
        write_image(tmp_path / f"toy/test/{name}/below/1.png", 1)
    manifest = spec(paths={"test": "test"}, splits={"test": 2})
    assert load(manifest, "test", tmp_path).labels.tolist() == [0, 1]
    stored = StoredDataset(manifest, tmp_path, Silent())
    assert stored.decoded("test").record["classes"] == ["a", "a-b"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere/1.png", 1)
    (tmp_path / "toy/test").mkdir(parents=True)
    (tmp_path / "toy/test/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "toy/test")
    manifest = spec(**{**UNLABELLED, "splits": {"test": 1}})
    assert len(load(manifest, "test", tmp_path)) == 1


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path / "root")
    expected = load(spec(), "test", tmp_path / "root").fingerprint()
    absolute = spec(folder=str(tmp_path / "root/toy"))
    assert load_split(absolute, "test").fingerprint() == expected
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "root"))
    assert load_split(spec(), "test").fingerprint() == expected
    assert load_split(spec(name="other", folder="toy"), "test").fingerprint() == expected
    monkeypatch.delenv("OODBENCH_DATA")
    assert root_folder() == tmp_path / "cache/data"


# --- pixels -----------------------------------------------------------------------------------


def encoded(array: np.ndarray, mode: str, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_colors_become_rgb(tmp_path: Path, mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    path = tmp_path / f"toy/test/1.{form.lower()}"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(pixels(1), mode, form))
    data = load(spec(**{**UNLABELLED, "splits": {"test": 1}}), "test", tmp_path)
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images[0], expected)


def test_gray(tmp_path: Path) -> None:
    write_image(tmp_path / "toy/test/1.png", 1)
    manifest = spec(**{**UNLABELLED, "splits": {"test": 1}}, shape=[1, SIDE, SIDE])
    data = load(manifest, "test", tmp_path)
    expected = np.asarray(Image.fromarray(pixels(1)).convert("L"))
    np.testing.assert_array_equal(data.images[0, 0], expected)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """Pillow's conversion would cut values off at 255."""
    path = tmp_path / "toy/test/1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((SIDE, SIDE), 1000, np.uint16)).save(path)
    error = error_of(spec(**{**UNLABELLED, "splits": {"test": 1}}), tmp_path)
    assert "image test/1.png cannot be decoded: it has more than 8 bits" in error.message


def deep_png(color_type: int, channels: int) -> bytes:
    """A PNG file of 16 bits per channel, of which Pillow would drop the lower eight."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, color_type, 0, 0, 0)
    row = b"\0" + np.full(SIDE * channels, 0x1234, ">u2").tobytes()
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * SIDE))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{kind}.png", deep_png(kind, channels)) for kind, channels in ((2, 3), (4, 2), (6, 4))),
        ("1.ppm", b"P6 6 6 65535\n" + bytes(6 * SIDE * SIDE)),
        ("1.pgm", b"P5 6 6 65535\n" + bytes(2 * SIDE * SIDE)),
    ],
)
def test_sixteen_bits_in_colors_are_refused_too(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "toy/test").mkdir(parents=True)
    (tmp_path / "toy/test" / name).write_bytes(content)
    error = error_of(spec(**{**UNLABELLED, "splits": {"test": 1}}), tmp_path)
    assert f"image test/{name} cannot be decoded: it has more than 8 bits" in error.message


def test_what_conversion_loses_is_said(tmp_path: Path) -> None:
    """Transparency and CMYK; an image that is opaque loses nothing."""
    (tmp_path / "toy/test").mkdir(parents=True)
    opaque = Image.fromarray(pixels(1)).convert("RGBA")
    for name, alpha in (("1", 255), ("2", 254), ("3", 0)):
        opaque.putalpha(alpha)
        opaque.save(tmp_path / f"toy/test/{name}.png")
    (tmp_path / "toy/test/4.tiff").write_bytes(encoded(pixels(1), "CMYK", "TIFF"))
    with pytest.warns(UserWarning, match="toy") as caught:
        data = load(spec(**UNLABELLED), "test", tmp_path)
    said = [str(each.message) for each in caught]
    assert [text for text in said if "transparency of 2 images" in text] == said[1:]
    assert [text for text in said if "CMYK colors of 1 image " in text] == said[:1]
    expected = pixels(1).transpose(2, 0, 1)
    for image in data.images[:3]:
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("numbers", "order"),
    [
        ([str(n) for n in range(12)], [str(n) for n in range(12)]),
        ([f"{n:02}" for n in range(12)], [f"{n:02}" for n in range(12)]),
        # Not 0 to C-1: names like others.
        ([str(n) for n in range(1, 13)], sorted(str(n) for n in range(1, 13))),
        (["0", "1", "10", "x"], ["0", "1", "10", "x"]),
    ],
)
def test_classes_that_are_called_by_their_labels_keep_them(
    tmp_path: Path, numbers: list[str], order: list[str]
) -> None:
    for name in numbers:
        write_image(tmp_path / f"toy/test/{name}/1.png", 1)
    count = len(numbers)
    manifest = spec(paths={"test": "test"}, splits={"test": count}, num_classes=count)
    assert StoredDataset(manifest, tmp_path, Silent()).decoded("test").record["classes"] == order


ODD_NAMES = [b"\xff\xfe.png", b"a\nb.png", b"back\\slash.png", "é\u2028.png".encode(), b"cr\r.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_with_odd_characters(tmp_path: Path) -> None:
    """They are read, verified, and named in one line."""
    for number, name in enumerate([*ODD_NAMES, b"x" * 251 + b".png"]):
        write_image(tmp_path / "toy/test" / os.fsdecode(name), number)
    manifest = spec(**{**UNLABELLED, "splits": {"test": 6}})
    assert len(load(manifest, "test", tmp_path)) == 6
    whole = verify(manifest, tmp_path, Silent())
    assert whole.findings == []
    assert "6 of your files as when they were decoded" in whole.checked
    write_image(tmp_path / "toy/test" / os.fsdecode(ODD_NAMES[1]), 77)
    (changed,) = verify(manifest, tmp_path, Silent()).findings
    assert changed.path == tmp_path / "toy/test" / os.fsdecode(ODD_NAMES[1])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_with_odd_characters_in_a_message(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "toy/test" / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no image")
    error = error_of(spec(**{**UNLABELLED, "splits": {"test": 1}}), tmp_path)
    assert "cannot be decoded: it is not an image of a known format" in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.zeros((3, SIDE, SIDE)), "is float64 of shape [3, 6, 6]"),
        (np.zeros((3, SIDE, SIDE), np.int16), "is int16 of shape [3, 6, 6]"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), "is uint8 of shape [6, 6, 3]"),
        ([[0, 1], [2, 3]], "is list of shape []"),
    ],
)
def test_nothing_but_bytes_of_the_right_shape_reaches_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Any, found: str
) -> None:
    """Whatever a reader gives: as images that are not decoded yet, and as decoded ones."""
    write_toy(tmp_path)
    manifest = spec(**UNLABELLED)
    source = StoredDataset(manifest, tmp_path, Silent()).source("test")
    wrong = dataclasses.replace(source, content=lambda index: pixels)
    for place, value in (
        ("store.stored_dataset.open_split", wrong),
        ("split_decoder.decode_image", (pixels, "")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"oodbench.data.{place}", lambda *_, value=value: value)
            error = error_of(manifest, tmp_path)
        assert f"image test/cat/0.png {found}; expected uint8 of shape" in error.message


def test_an_image_of_another_size(tmp_path: Path) -> None:
    write_toy(tmp_path)
    write_image(tmp_path / "toy/test/dog/1.png", 1, side=9)
    error = error_of(spec(), tmp_path)
    assert error.message == (
        "data set 'toy', split 'test': image test/dog/1.png is 9x9, the manifest says 6x6."
    )
    assert "'resize'" in error.hint


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        # Width 12, height 6: left 3, right 9; then nothing is left to resize.
        ((12, 6), {"crop": "center", "filter": "nearest"}, lambda image: image.crop((3, 0, 9, 6))),
        (
            (24, 12),
            {"crop": "center", "filter": "box"},
            lambda image: image.crop((6, 0, 18, 12)).reduce(2),
        ),
        ((18, 12), {"crop": "none", "filter": "box"}, lambda image: image.reduce((3, 2))),
        (
            (13, 7),
            {"crop": "none", "filter": "bicubic"},
            lambda image: image.resize((6, 6), Image.Resampling.BICUBIC),
        ),
        ((6, 6), {}, lambda image: image),
    ],
)
def test_resize(
    tmp_path: Path,
    size: tuple[int, int],
    resize: dict[str, str],
    expected: Callable[[Image.Image], Image.Image],
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = tmp_path / "toy/test/1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(array).save(path)
    manifest = spec(**{**UNLABELLED, "splits": {"test": 1}}, resize=resize)
    data = load(manifest, "test", tmp_path)
    wanted = np.asarray(expected(Image.fromarray(array))).transpose(2, 0, 1)
    np.testing.assert_allclose(data.images[0].astype(int), wanted, atol=1)


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (7, 6), (6, 7), (1, 1), (3, 1000)])
def test_any_size_can_be_resized(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "toy/test/1.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)
    for crop in ("center", "none"):
        manifest = spec(**{**UNLABELLED, "splits": {"test": 1}}, resize={"crop": crop})
        image = load(manifest, "test", tmp_path).images[0]
        assert (image == np.array([10, 20, 30], np.uint8)[:, None, None]).all()


# --- splits set apart --------------------------------------------------------------------------

VALIDATION = {
    "splits": {"train": 5, "validation": 3, "test": 4},
    "split_from": {"validation": "train"},
}


def test_a_split_set_apart(tmp_path: Path) -> None:
    write_toy(tmp_path)
    whole = load(spec(), "train", tmp_path)
    parts = split_parts(spec(**VALIDATION), "train")
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(8))
    for split, indices in parts.items():
        assert np.all(np.diff(indices) > 0)
        data = load(spec(**VALIDATION), split, tmp_path)
        np.testing.assert_array_equal(data.images, whole.images[indices])
        np.testing.assert_array_equal(data.labels, whole.labels[indices])


def test_the_division_is_pinned_and_depends_on_the_name() -> None:
    """Users' checkpoints depend on it: it must never change."""
    assert split_parts(spec(**VALIDATION), "train")["validation"].tolist() == [4, 5, 7]
    other = split_parts(spec(**VALIDATION, name="other"), "train")["validation"]
    assert other.tolist() != [4, 5, 7]


def test_two_splits_set_apart(tmp_path: Path) -> None:
    write_toy(tmp_path)
    manifest = spec(
        paths={"train": "train"},
        splits={"train": 4, "validation": 2, "test": 2},
        split_from={"validation": "train", "test": "train"},
    )
    parts = split_parts(manifest, "train")
    assert [len(part) for part in parts.values()] == [4, 2, 2]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 8
    for split in manifest.splits:
        assert len(load(manifest, split, tmp_path)) == len(parts[split])


def test_the_source_must_have_all_of_them(tmp_path: Path) -> None:
    write_toy(tmp_path)
    message = error_of(
        spec(**{**VALIDATION, "splits": {**VALIDATION["splits"], "train": 6}}), tmp_path, "train"
    )
    assert message.message == (
        "data set 'toy', split 'train + validation': the manifest says 9 images, found 8"
    )


# --- what does not fit ------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    error = error_of(spec(), tmp_path)
    assert error.message == f"data set 'toy': there is no folder {tmp_path / 'toy'}."
    assert "--data-root" in error.hint


def test_no_folder_of_a_split(tmp_path: Path) -> None:
    write_image(tmp_path / "toy/train/a/1.png", 1)
    error = error_of(spec(), tmp_path)
    assert f"there is no folder {tmp_path / 'toy/test'}." in error.message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_wrong_count_is_found_before_anything_is_decoded(tmp_path: Path, split: str) -> None:
    write_toy(tmp_path)
    (tmp_path / "toy/train/cat/0.png").write_bytes(b"would be corrupt")
    write_image(tmp_path / "toy/test/dog/9.png", 1)
    error = error_of(spec(), tmp_path, split)
    assert error.message == "data set 'toy', split 'test': the manifest says 4 images, found 5"


def test_a_wrong_number_of_classes(tmp_path: Path) -> None:
    write_toy(tmp_path)
    error = error_of(spec(num_classes=3), tmp_path)
    assert "the manifest says 3 classes, found 2" in error.message


def test_an_image_outside_of_the_classes(tmp_path: Path) -> None:
    write_toy(tmp_path)
    write_image(tmp_path / "toy/test/stray.png", 1)
    assert (
        f"{tmp_path / 'toy/test/stray.png'} is not in the folder of a class"
        in error_of(spec(), tmp_path).message
    )


def test_splits_with_other_classes(tmp_path: Path) -> None:
    write_toy(tmp_path)
    (tmp_path / "toy/test/dog").rename(tmp_path / "toy/test/Dog")
    error = error_of(spec(), tmp_path)
    assert "'train' and 'test' have different classes: Dog, dog" in error.message


def test_options_are_refused(tmp_path: Path) -> None:
    write_toy(tmp_path)
    error = error_of(spec(options={"root": "x"}), tmp_path)
    assert "kind 'folder' takes no option 'root'" in error.message


def test_two_channels_are_refused(tmp_path: Path) -> None:
    write_toy(tmp_path)
    assert (
        "have 1 channel (gray) or 3 (RGB), not 2"
        in error_of(spec(shape=[2, 6, 6]), tmp_path).message
    )


# --- corrupt images ----------------------------------------------------------------------------


def corrupt(path: Path, how: str) -> None:
    array = np.asarray(Image.open(path))
    content = {
        "empty": b"",
        "no image": b"<html>not found</html>",
        "truncated": encoded(array, "RGB", "JPEG")[:-60],
        "only a header": encoded(array, "RGB")[:20],
    }[how]
    path.write_bytes(content)


CORRUPT = ("empty", "no image", "truncated", "only a header")


@pytest.mark.parametrize("how", CORRUPT)
def test_a_corrupt_image_is_named(tmp_path: Path, how: str) -> None:
    write_toy(tmp_path)
    corrupt(tmp_path / "toy/train/dog/2.png", how)
    error = error_of(spec(), tmp_path, "train")
    assert error.message.startswith(
        "data set 'toy', split 'train': image train/dog/2.png cannot be decoded: "
    )
    assert "corrupt_images: skip" in error.hint


@pytest.mark.parametrize("how", CORRUPT)
def test_a_corrupt_image_is_left_out(tmp_path: Path, how: str) -> None:
    write_toy(tmp_path)
    whole = load(spec(), "train", tmp_path)
    corrupt(tmp_path / "toy/train/dog/2.png", how)
    manifest = spec(corrupt_images="skip")
    said = (
        r"data set 'toy', split 'train': 1 of 8 images could not be decoded and are left out: "
        r"train/dog/2.png"
    )
    for _ in range(2):  # said again when the cache is opened
        with pytest.warns(UserWarning, match=said):
            data = load(manifest, "train", tmp_path)
        np.testing.assert_array_equal(data.images, np.delete(whole.images, 6, axis=0))
        assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(load(manifest, "test", tmp_path)) == 4
    record = StoredDataset(manifest, tmp_path, Silent()).decoded("train").record
    assert record["skipped"] == ["train/dog/2.png"]
    assert record["count"] == 7


def test_leaving_out_does_not_move_images_between_splits(tmp_path: Path) -> None:
    write_toy(tmp_path)
    manifest = spec(**VALIDATION, corrupt_images="skip")
    before = load(manifest, "validation", tmp_path)
    (tmp_path / "toy/train/cat/0.png").write_bytes(b"")  # among those to train with
    assert 0 not in split_parts(manifest, "train")["validation"]
    assert load(manifest, "validation", tmp_path).fingerprint() == before.fingerprint()
    with pytest.warns(UserWarning, match="1 of 5 images"):
        assert len(load(manifest, "train", tmp_path)) == 4


def test_a_class_of_corrupt_images_alone(tmp_path: Path) -> None:
    write_toy(tmp_path)
    for index in range(2):
        corrupt(tmp_path / f"toy/test/dog/{index}.png", "empty")
    error = error_of(spec(corrupt_images="skip"), tmp_path)
    assert "split 'test': the manifest says 2 classes, found 1" in error.message


def test_an_image_that_may_not_be_read_is_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path)
    read_bytes = Path.read_bytes

    def refusing(path: Path) -> bytes:  # taking the permission away does not stop root
        if path.name == "2.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    error = error_of(spec(corrupt_images="skip"), tmp_path, "train")
    assert "Permission denied" in error.message


# --- the cache ---------------------------------------------------------------------------------


def decoded_folders() -> list[Path]:
    return sorted(decoded_root().glob("toy-*"))


def test_a_split_is_decoded_alone(tmp_path: Path) -> None:
    """A corrupt training image does not matter to who reads the test images."""
    written = write_toy(tmp_path)
    corrupt(tmp_path / "toy/train/cat/0.png", "empty")
    expected = [array for path, array in written.items() if path.startswith("test")]
    data = load(spec(), "test", tmp_path)
    np.testing.assert_array_equal(data.images, np.stack(expected).transpose(0, 3, 1, 2))
    (only,) = decoded_folders()
    assert sorted(path.name for path in only.iterdir()) == [
        *("decoded.json", "sources.sha256", "test-labels.npy", "test.npy")
    ]


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path)
    first = load(spec(), "test", tmp_path)
    monkeypatch.setattr("oodbench.data.split_decoder.decode_image", None)  # would raise
    assert load(spec(), "test", tmp_path).fingerprint() == first.fingerprint()
    assert len(decoded_folders()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write_image(root / "toy/train/cat/0.png", 77),
        lambda root: os.utime(root / "toy/train/cat/0.png", (1, 1)),
        lambda root: (root / "toy/train/cat/0.png").rename(root / "toy/train/cat/00.png"),
    ],
)
def test_a_changed_folder_is_decoded_again(tmp_path: Path, change: Any) -> None:
    written = write_toy(tmp_path)
    load(spec(), "train", tmp_path)
    change(tmp_path)
    data = load(spec(), "train", tmp_path)
    path = next(iter(sorted((tmp_path / "toy/train/cat").iterdir())))
    np.testing.assert_array_equal(data.images[0], np.asarray(Image.open(path)).transpose(2, 0, 1))
    assert len(written) == 12
    assert len(decoded_folders()) == 2


@pytest.mark.parametrize(
    "update",
    [
        {"resize": {}},
        {"shape": [1, SIDE, SIDE]},
        {"corrupt_images": "skip"},
        {"paths": {"train": "./train", "test": "test"}},
        VALIDATION,
    ],
)
def test_the_address_depends_on_what_decides_the_pixels(update: dict[str, Any]) -> None:
    now = decoded_folder(spec(), "train", "x")
    assert now == decoded_folder(spec(title="Other", license="MIT"), "train", "x")
    assert now != decoded_folder(spec(), "train", "y")
    assert now != decoded_folder(spec(), "test", "x")
    assert now != decoded_folder(spec(**update), "train", "x")


@pytest.mark.parametrize("file", ["test.npy", "test-labels.npy", "decoded.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage", "open bracket"])
def test_a_damaged_cache_is_decoded_again(tmp_path: Path, file: str, damage: str) -> None:
    write_toy(tmp_path)
    before = load(spec(), "test", tmp_path).fingerprint()
    path = decoded_folders()[0] / file
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        damaged = {"cut": content[:-9], "open bracket": content.replace(b"}", b" ", 1)}
        path.write_bytes(damaged.get(damage, b"garbage"))
    with pytest.warns(UserWarning, match="data set 'toy': the decoded images in .* are damaged: "):
        assert load(spec(), "test", tmp_path).fingerprint() == before
    assert load(spec(), "test", tmp_path).fingerprint() == before


@pytest.mark.parametrize("file", ["test.npy", "test-labels.npy"])
def test_a_flipped_byte_is_found_by_the_store(tmp_path: Path, file: str) -> None:
    write_toy(tmp_path)
    before = load(spec(), "test", tmp_path).fingerprint()
    path = decoded_folders()[0] / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    store = LoadedSplits({"toy": spec()}, tmp_path)
    with pytest.warns(UserWarning, match="split 'test' has changed since it was written"):
        assert store.get("toy", "test").fingerprint() == before
    assert store.fingerprint("toy", "test") == before
    assert store.num_classes("toy") == 2


def test_a_half_made_data_set_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("oodbench.data.store.image_cache.write_checksummed", killed)
        with pytest.raises(KeyboardInterrupt):
            load(spec(), "test", tmp_path)
    assert decoded_folders() == []
    # A killed process cannot tidy up: its folder has another name, and goes when the same data set
    # is decoded next; those of other data sets may be under way, and go after a day.
    target = StoredDataset(spec(), tmp_path, Silent()).folder("test")
    leftovers = [decoded_root() / f".writing-{name}-x" for name in (target.name, "toy-0", "toy-1")]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "test.npy").write_bytes(b"half")
    os.utime(leftovers[1], (1, 1))
    load(spec(), "test", tmp_path)
    assert [leftover.exists() for leftover in leftovers] == [False, False, True]


def test_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    write_toy(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        with pytest.raises(UserError, match="No space left on the disk") as caught:
            load(spec(), "test", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "OODBENCH_CACHE" in caught.value.hint
    assert decoded_folders() == []
    assert len(load(spec(), "test", tmp_path)) == 4


def test_the_record(tmp_path: Path) -> None:
    write_toy(tmp_path)
    data = load(spec(), "test", tmp_path)
    record = json.loads((decoded_folders()[0] / "decoded.json").read_text())
    about = {key: record[key] for key in ("count", "labeled", "fingerprint", "skipped", "lost")}
    assert about == {
        "count": 4,
        "labeled": True,
        "fingerprint": data.fingerprint(),
        "skipped": [],
        "lost": {},
    }
    assert record["classes"] == ["cat", "dog"]
    assert sorted(record["files"]) == sorted(["test.npy", "test-labels.npy", "sources.sha256"])
    checksums = (decoded_folders()[0] / "sources.sha256").read_text().splitlines()
    assert len(checksums) == 4
    assert checksums == sorted(checksums, key=lambda line: line[66:])


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    """More blocks than threads: timing decides nothing."""
    count = 700
    (tmp_path / "toy/test").mkdir(parents=True)
    for index in range(count):
        Image.new("L", (2, 2), index % 256).save(tmp_path / f"toy/test/{index:04d}.png")
    manifest = spec(**{**UNLABELLED, "splits": {"test": count}}, shape=[1, 2, 2])
    data = load(manifest, "test", tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == [index % 256 for index in range(count)]
    assert max(Counter(data.images[:, 0, 0, 0].tolist()).values()) == 3
