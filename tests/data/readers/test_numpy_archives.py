"""NumPy archives: what is read, and what is refused."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reader_sets import COUNT, error_of, spec, toy

from oodbench.data import load_split
from oodbench.specs import DatasetSpec


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


def test_labels_are_not_refused_for_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a file declares, only the type and the shape are known before it is read."""
    images, labels = toy()
    write_npz(tmp_path, images=images.transpose(0, 2, 3, 1), labels=labels.astype(np.uint64))
    empty = np.empty

    def unlucky(shape: Any, dtype: Any = float, **options: Any) -> Any:
        found = empty(shape, dtype, **options)
        if shape == ():
            found[...] = np.array(2**64 - 1, np.uint64).astype(dtype)
        return found

    monkeypatch.setattr(np, "empty", unlucky)
    assert load_split(npz_spec(), "test", tmp_path).labels.tolist() == labels.tolist()


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
            "array 'images' has images of 9x9, the manifest says 32x32",
        ),
        ({"images": np.array([object()])}, "array 'images' is object of shape [1]"),
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


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((10**7, 32, 32, 3), "the manifest says 20 images, found 10000000"),
        ((20, 10**7, 10**7), "is float64 of shape [20, 10000000, 10000000]"),
        ((20, 10**12, 10**12, 3), "cannot read array 'images'"),
        ((20, 10**5, 10**5, 3), "has images of 100000x100000, the manifest says 32x32"),
    ],
)
def test_sizes_that_a_header_says(tmp_path: Path, shape: tuple[int, ...], said: str) -> None:
    """No memory is taken for arrays that do not fit."""
    write_npz(tmp_path)
    text = {"descr": "<f8" if len(shape) == 3 else "|u1", "fortran_order": False, "shape": shape}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, text)
    with zipfile.ZipFile(tmp_path / "toy/data.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    tracemalloc.start()
    try:
        assert said in error_of(npz_spec(), tmp_path).message
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
