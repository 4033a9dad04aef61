"""Published lists: all manifests of OpenOOD v1.5 on stand-ins, in every layout."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.openood_standins import write_openood
from helpers.tiers import by_default
from PIL import Image

from oodbench.data import load_split
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.readers.by_kind import open_split
from oodbench.data.streamed_split import StreamedSplit
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec, SplitName
from oodbench.specs.yaml_file import read_spec

NAMES = [name for name in Catalog().entries["dataset"] if name.startswith("openood-")]
CLASSIC = ["openood-cifar10", "openood-cifar100-ood", "openood-svhn", "openood-mnist"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_openood(tmp_path_factory.mktemp("openood"), train=20, validation=10, test=20)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_openood(
        tmp_path_factory.mktemp("torchvision"),
        CLASSIC,
        train=20,
        validation=10,
        test=20,
        torchvision=True,
    )


def manifest(folder: Path, name: str) -> DatasetSpec:
    return read_spec(DatasetSpec, folder / "data_manifests" / f"{name}.yaml")


@pytest.mark.parametrize(
    "name",
    by_default(
        ["openood-cifar10", "openood-imagenet200-c", "openood-svhn", "openood-ninco"], NAMES
    ),
)
def test_worker_processes_read_the_same_images(
    folders: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", 0)
    monkeypatch.setenv("OODBENCH_WORKERS", "1")
    spec = manifest(folders, name)
    for split in spec.splits:
        store = LoadedSplits(
            {name: spec}, folders / "data", Notes(), reads={(name, split): 1}, batch_size=8
        )
        images = store.images(name, split)
        assert isinstance(images, StreamedSplit)
        batches = list(images.batches())
        expected = load_split(spec, split, folders / "data")
        assert images.fingerprint == expected.fingerprint()
        assert sum(len(batch) for batch, _ in batches) == len(expected)


def test_all_manifests_are_here() -> None:
    assert len(NAMES) == 25


@pytest.mark.parametrize("name", NAMES)
def test_images_are_read_in_the_order_of_the_list(folders: Path, name: str) -> None:
    spec = manifest(folders, name)
    for split in spec.splits:
        data = load_split(spec, split, folders / "data")
        assert data.images.shape == (spec.splits[split], *spec.shape)
        if spec.num_classes is None:
            assert data.labels is None
        elif split in spec.lists:
            lines = (folders / "data" / spec.lists[split].path).read_text().splitlines()
            assert data.labels.tolist() == [int(line.split()[1]) for line in lines]
        else:
            assert data.labels.tolist() == sorted(np.arange(20) % 10)


@pytest.mark.parametrize("name", CLASSIC)
def test_arrays_of_torchvision_are_mapped(folders: Path, arrays: Path, name: str) -> None:
    """The same pixels as the files, but those that OpenOOD stores as JPEG."""
    for split in manifest(arrays, name).splits:
        notes = Notes()
        mapped = load_split(manifest(arrays, name), split, arrays / "data", notes)
        listed = load_split(manifest(folders, name), split, folders / "data")
        assert str(mapped.labels) == str(listed.labels)
        if "cifar" in name:
            np.testing.assert_array_equal(mapped.images, listed.images)
            assert notes.warnings == []
        else:
            difference = mapped.images.astype(int) - listed.images
            assert abs(difference).mean() < (60 if "svhn" in name else 80)
            (note,) = notes.warnings
            assert f"data set '{name}', split 'test': read from the original arrays" in note


# --- layouts that users have --------------------------------------------------------------------


def small(root: Path, paths: list[str], *, label: int | None = None, **update: Any) -> DatasetSpec:
    """A manifest with one list of images; images are 8x8, gray by their index."""
    lines = [f"{path} {-1 if label is None else label}" for path in paths]
    return of_text(root, "\n".join([*lines, ""]), count=len(paths), **update)


def of_text(root: Path, text: str, count: int = 1, **update: Any) -> DatasetSpec:
    content = text.encode()
    path = root / "benchmark_imglist/toy/test_toy.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    checksum = sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": "list",
        "folder": ".",
        "lists": {"test": {"path": "benchmark_imglist/toy/test_toy.txt", "sha256": checksum}},
        "places": [{"folder": "images_classic"}],
        "shape": [3, 8, 8],
        "splits": {"test": count},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def put(root: Path, paths: list[str]) -> None:
    for value, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(value))


def zipped(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for value, name in enumerate(names):
            file.writestr(name, png(value))


def tarred(path: Path, names: list[str], mode: Any = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for value, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(value))
            file.addfile(info, io.BytesIO(png(value)))


def about(path: Path, **update: Any) -> dict[str, Any]:
    return {"name": path.name, "sha256": sha256(path.read_bytes()).hexdigest(), **update}


def grays(spec: DatasetSpec, root: Path) -> list[int]:
    """The gray value of each image: its number among those that were written."""
    return load_split(spec, "test", root).images[:, 0, 0, 0].tolist()


PATHS = ["toy/val/b/x_2.png", "toy/val/a/x_1.png", "toy/val/a/x_0.png"]
INNER = ["a/x_0.png", "a/x_1.png", "b/x_2.png"]


@pytest.mark.parametrize("base", ["", "data/"])
def test_folders_of_openood(tmp_path: Path, base: str) -> None:
    put(tmp_path, [f"{base}images_classic/toy/val/{path}" for path in INNER])
    spec = small(tmp_path, PATHS)
    if base:
        (tmp_path / "data/benchmark_imglist").parent.mkdir(exist_ok=True)
        (tmp_path / "benchmark_imglist").rename(tmp_path / "data/benchmark_imglist")
    assert grays(spec, tmp_path) == [2, 1, 0]


@pytest.mark.parametrize("names", [["x_0.png", "x_1.png", "x_2.png"], INNER])
def test_a_folder_is_searched_by_name(tmp_path: Path, names: list[str]) -> None:
    """A flat folder and one with a sub-folder per class, as users have ImageNet's images."""
    put(tmp_path, [f"imagenet/val/{name}" for name in names])
    places = [{"folder": "images_large"}, {"folder": "imagenet/val", "match": "name"}]
    assert grays(small(tmp_path, PATHS, places=places), tmp_path) == [2, 1, 0]


@pytest.mark.parametrize("top", by_default(["some/folder/"], ["", "some/folder/"]))
@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("match", ["tail", "name"])
def test_archives_are_read_as_they_are(tmp_path: Path, top: str, suffix: str, match: str) -> None:
    names = [f"{top}val/{name}" for name in INNER]
    archive = tmp_path / f"own/toy.{suffix}"
    (zipped if suffix == "zip" else tarred)(archive, [*names, f"{top}readme.txt", "._x_1.png"])
    place = {"folder": "own", "path": archive.name, "match": match, "files": [about(archive)]}
    spec = small(tmp_path, PATHS, places=[place])
    assert grays(spec, tmp_path) == [2, 1, 0]
    assert [path.name for path in archive.parent.iterdir() if path.name != ".lock"] == [
        archive.name
    ]
    source = open_split(spec, "test", tmp_path)
    copy = pickle.loads(pickle.dumps(source.content))
    assert [copy(index) for index in range(3)] == [png(2), png(1), png(0)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.content, range(3)) == [png(2), png(1), png(0)]
    assert source.files == [spec.lists["test"].path, f"own/{archive.name}"]


def test_a_compressed_archive_is_unpacked(tmp_path: Path) -> None:
    """Names that have blanks in place of underscores are found."""
    archive = tmp_path / "own/toy.tar.gz"
    tarred(archive, [f"in/val/{name.replace('_', ' ')}" for name in INNER], "w:gz")
    files = [about(archive, unpacked_limit=10**6)]
    place = {"folder": "own", "path": "in", "match": "tail", "files": files}
    assert grays(small(tmp_path, PATHS, places=[place]), tmp_path) == [2, 1, 0]


def test_an_archive_in_the_data_root_is_used(tmp_path: Path) -> None:
    tarred(tmp_path / "toy.tar", [f"val/{name}" for name in INNER])
    files = [about(tmp_path / "toy.tar")]
    place = {"folder": "own", "path": "toy.tar", "match": "tail", "files": files}
    assert grays(small(tmp_path, PATHS, places=[place]), tmp_path) == [2, 1, 0]


def test_the_first_place_with_all_images_is_used(tmp_path: Path) -> None:
    put(tmp_path, [f"images_classic/toy/val/{path}" for path in INNER[:2]])
    put(tmp_path, [f"mine/val/{path}" for path in reversed(INNER)])
    places = [{"folder": "images_classic"}, {"folder": "mine", "match": "tail"}]
    assert grays(small(tmp_path, PATHS, places=places), tmp_path) == [0, 1, 2]


def test_an_upper_bound_of_training_images(folders: Path) -> None:
    """ImageNet-200: the number of training images is not published."""
    spec = manifest(folders, "openood-imagenet200")
    bounded = {"train": spec.class_folders["train"].model_copy(update={"at_most": True})}
    for count, message in ((25, ""), (19, "the manifest says 19 images, found 20")):
        update = {"class_folders": bounded, "splits": {**spec.splits, "train": count}}
        changed = spec.model_copy(update=update)
        if message:
            with pytest.raises(UserError, match=message):
                load_split(changed, "train", folders / "data")
        else:
            assert len(load_split(changed, "train", folders / "data")) == 20


# --- bad input ----------------------------------------------------------------------------------


def error_of(spec: DatasetSpec, root: Path, split: SplitName = "test") -> UserError:
    with pytest.raises(UserError) as caught:
        load_split(spec, split, root)
    assert caught.value.message.startswith("data set 'toy', split 'test': ")
    assert "\n" not in caught.value.message
    return caught.value


def test_missing_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    paths = [f"toy/{number}.png" for number in range(9)]
    put(tmp_path, ["images_classic/toy/3.png"])
    error = error_of(small(tmp_path, paths), tmp_path)
    assert "images_classic lacks 8 of the list's 9 images: toy/0.png" in error.message
    assert "toy/1.png, toy/2.png, toy/4.png, toy/5.png and 3 more." in error.message
    assert "toy/6.png" not in error.message


def test_images_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    file = {"name": "toy.zip", "urls": ["https://example.org/toy.zip"], "sha256": "0" * 64}
    places = [
        {"folder": "images_classic"},
        {"folder": "own", "path": "toy.zip", "files": [file]},
    ]
    error = error_of(small(tmp_path, PATHS, places=places), tmp_path)
    assert f"the images of its list are not in {tmp_path}, and cannot be fetched" in error.message
    assert "OODBENCH_OFFLINE forbids downloads" in error.message
    assert error.hint == f"Put one of these into {tmp_path}: images_classic, own/toy.zip."


def test_a_wrong_count(tmp_path: Path) -> None:
    put(tmp_path, [f"images_classic/toy/val/{path}" for path in INNER])
    spec = small(tmp_path, PATHS).model_copy(update={"splits": {"test": 4}})
    message = error_of(spec, tmp_path).message
    assert message == "data set 'toy', split 'test': the manifest says 4 images, found 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 2", "line 2: the label 2 is not a class: the manifest says 2 classes"),
        ("a.png -1", "line 2: the label -1 is not a class"),
        ("a.png", "line 2: 'a.png' does not end with a label"),
        ("a.png cat", "line 2: 'a.png cat' does not end with a label"),
        ("/etc/a.png 0", "line 2: the path '/etc/a.png' is not inside the folder"),
        ("a/../../b.png 0", "line 2: the path 'a/../../b.png' is not inside the folder"),
        ("C:/a.png 0", "line 2: the path 'C:/a.png' is not inside the folder"),
        ("..\\a.png 0", r"line 2: the path '..\\a.png' is not inside the folder"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    spec = of_text(tmp_path, f"good.png 1\n{line}\n", 2, num_classes=2)
    error = error_of(spec, tmp_path)
    assert message in error.message
    assert str(tmp_path / spec.lists["test"].path) in error.message


@pytest.mark.parametrize("end", ["\r\n", " \t\r\n", "\n\n", "   \n"])
def test_line_ends_and_blanks_do_not_matter(tmp_path: Path, end: str) -> None:
    put(tmp_path, [f"images_classic/{name}" for name in ("a b.png", "c.png")])
    text = f"\N{ZERO WIDTH NO-BREAK SPACE} c.png 1{end}a b.png  0{end}"
    spec = of_text(tmp_path, text, 2, num_classes=2)
    assert grays(spec, tmp_path) == [1, 0]
    assert load_split(spec, "test", tmp_path).labels.tolist() == [1, 0]


def test_a_list_with_another_checksum(tmp_path: Path) -> None:
    spec = small(tmp_path, PATHS)
    (tmp_path / spec.lists["test"].path).write_text("toy/1.png -1\n")
    error = error_of(spec, tmp_path)
    assert f"instead of {spec.lists['test'].sha256}" in error.message
    assert "another version" in error.hint


def test_a_damaged_archive(tmp_path: Path) -> None:
    for name in ("toy.zip", "toy.tar"):
        archive = tmp_path / name
        archive.write_bytes(b"no archive" * 100)
        place = {"folder": "own", "path": name, "match": "tail", "files": [about(archive)]}
        error = error_of(small(tmp_path, PATHS, places=[place]), tmp_path)
        assert f"cannot read {archive}: " in error.message
        assert "damaged" in error.hint


def refused_archive(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / "own").mkdir(exist_ok=True)
    (tmp_path / "own" / name).write_bytes(content)
    place = {"folder": "own", "path": name, "match": "tail"}
    return error_of(small(tmp_path, PATHS, places=[place]), tmp_path).message


def test_a_bomb_in_an_archive(tmp_path: Path) -> None:
    """Its directory says ten bytes: no more are unpacked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner in INNER:
            archive.writestr(f"val/{inner}", bytes(20_000_000))
    content = stream.getvalue()
    start = content.index(b"PK\x01\x02")
    entries = content[start:].replace(struct.pack("<I", 20_000_000), struct.pack("<I", 10))
    tracemalloc.start()
    try:
        said = refused_archive(tmp_path, "toy.zip", content[:start] + entries)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "its CRC-32 is wrong" in said
    assert most < 10_000_000


def test_hostile_headers_in_an_archive(tmp_path: Path) -> None:
    """Sizes beyond 64 bits and beyond a gigabyte; a sparse file, whose size is not that of data."""
    for size in (1 << 70, 1 << 40):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            info = tarfile.TarInfo(f"val/{INNER[0]}")
            info.size = size
            stream.write(info.tobuf())
        assert "cannot read" in refused_archive(tmp_path, "toy.tar", stream.getvalue())
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo(f"val/{INNER[0]}")
        info.pax_headers = {"GNU.sparse.size": "9", "GNU.sparse.map": "0,1"}
        tar.addfile(info)
    assert "the images of its list are not in" in refused_archive(
        tmp_path, "toy.tar", stream.getvalue()
    )
    info = tarfile.TarInfo("x" * 2_000_000)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(info)
    assert "longer than names and links need" in refused_archive(
        tmp_path, "toy.tar", stream.getvalue()
    )


@pytest.mark.parametrize("name", ["toy.zip", "toy.tar"])
def test_a_damaged_image_in_an_archive(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "own" / name
    if name == "toy.zip":
        zipped(archive, [f"val/{inner}" for inner in INNER])
    else:
        tarred(archive, [f"val/{inner}" for inner in INNER])
    content = bytearray(archive.read_bytes())
    content[80 if name == "toy.zip" else 540] ^= 255
    archive.write_bytes(content)
    place = {"folder": "own", "path": name, "match": "tail", "files": [about(archive)]}
    error = error_of(small(tmp_path, PATHS, places=[place]), tmp_path)
    assert f"image {name}: val/a/x_0.png cannot be " in error.message


def test_arrays_that_do_not_fit_the_list(arrays: Path) -> None:
    root = arrays / "data"
    good = manifest(arrays, "openood-svhn")
    (place,) = (place for place in good.places if place.builder)
    for line, problem in (
        ("svhn/test/000002_0.jpg -1", "the label of image 1 is 1"),
        ("svhn/test/999999_0.jpg -1", "there are 50 images of this kind"),
        ("svhn/test/x.jpg -1", "which tells no index"),
    ):
        spec = of_text(root, f"{line}\n", shape=[3, 32, 32], places=[place.model_dump()])
        assert problem in error_of(spec, root).message


def test_classes_of_the_list_that_arrays_lack(arrays: Path) -> None:
    root = arrays / "data"
    (place,) = (place for place in manifest(arrays, "openood-cifar10").places if place.builder)
    for line, problem in (
        ("cifar10/test/plane/0001.png 0", "has the class 'plane', which the files"),
        ("cifar10/test/bird/0009.png 2", "there are 50 images of this kind"),
        ("cifar10/test/bird/0001.png 3", "the label of image 2 is 2"),
    ):
        spec = of_text(
            root, f"{line}\n", shape=[3, 32, 32], places=[place.model_dump()], num_classes=10
        )
        assert problem in error_of(spec, root).message
