"""The manifests of OpenOOD v1.5 against the published lists, and against each other."""

from __future__ import annotations

import re
import tarfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from oodbench.data.readers.published_lists import read_list
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec, FileSpec, ListSpec

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/openood-lists.tar.xz"

MANIFESTS = {
    name: Catalog().dataset(name)
    for name in Catalog().entries["dataset"]
    if Catalog().dataset(name).lists
}

COUNTS = {
    "openood-cifar10": {"train": 50_000, "validation": 1_000, "test": 9_000},
    "openood-cifar100": {"train": 50_000, "validation": 1_000, "test": 9_000},
    "openood-cifar100-ood": {"test": 9_000},
    "openood-cifar10-ood": {"test": 10_000},
    "openood-tin-cifar10": {"validation": 1_000, "test": 7_793},
    "openood-tin-cifar100": {"validation": 972, "test": 6_526},
    "openood-places365-cifar10": {"test": 35_195},
    "openood-places365-cifar100": {"test": 33_773},
    "openood-mnist": {"test": 70_000},
    "openood-svhn": {"test": 26_032},
    "openood-texture": {"test": 5_640},
    "openood-cifar10c": {"test": 10_000},
    "openood-imagenet200": {"train": 260_000, "validation": 1_000, "test": 9_000},
    "openood-imagenet": {"train": 1_281_167, "validation": 5_000, "test": 45_000},
    "openood-ssb-hard": {"test": 49_000},
    "openood-ninco": {"test": 5_879},
    "openood-inaturalist": {"test": 10_000},
    "openood-textures": {"test": 5_160},
    "openood-openimage-o": {"validation": 1_763, "test": 15_869},
    "openood-imagenet-v2": {"test": 10_000},
    "openood-imagenet-c": {"test": 10_000},
    "openood-imagenet-r": {"test": 30_000},
    "openood-imagenet200-v2": {"test": 2_000},
    "openood-imagenet200-c": {"test": 2_000},
    "openood-imagenet200-r": {"test": 30_000},
}
"""Images of each split, as the benchmark's authors publish them."""


def lists_of(spec: DatasetSpec) -> dict[str, ListSpec]:
    classes = {split: each.classes for split, each in spec.class_folders.items()}
    return {**spec.lists, **{split: each for split, each in classes.items() if each is not None}}


def files_of(spec: DatasetSpec) -> list[FileSpec]:
    return [file for place in spec.places for file in place.files]


@cache
def published() -> dict[str, bytes]:
    """Path of each published list, such as "cifar10/test_mnist.txt" -> its content."""
    if not ARCHIVE.is_file():
        pytest.skip(f"the published lists are not here: {ARCHIVE}")
    with tarfile.open(ARCHIVE) as archive:
        members = [each for each in archive.getmembers() if each.name.endswith(".txt")]
        return {
            "/".join(each.name.split("/")[-2:]): archive.extractfile(each).read()
            for each in members
        }


def test_all_counts_are_those_of_the_benchmark() -> None:
    assert {name: dict(spec.splits) for name, spec in MANIFESTS.items()} == COUNTS


@pytest.mark.parametrize("name", MANIFESTS)
def test_lists_are_the_published_ones(name: str, tmp_path: Path) -> None:
    """Count, checksum, labels in range; nothing is missing between two splits."""
    spec = MANIFESTS[name]
    seen: set[str] = set()
    for split, listing in lists_of(spec).items():
        content = published()[listing.path.removeprefix("benchmark_imglist/")]
        assert (sha256(content).hexdigest(), len(content)) == (listing.sha256, listing.size)
        path = tmp_path / listing.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entries = read_list(spec, listing, tmp_path)
        if split in spec.lists:
            assert len(entries) == spec.splits[split]
            paths = {entry.path for entry in entries}
            assert len(paths) == len(entries)
            assert not paths & seen, "an image is in two splits"
            seen |= paths
        labels = {entry.label for entry in entries}
        if spec.num_classes is None:
            assert labels == {-1}
        else:  # ImageNet-R has 200 of the 1,000 classes
            assert len(labels) == (200 if name == "openood-imagenet-r" else spec.num_classes)


def test_every_published_list_is_used() -> None:
    """All but the auxiliary training images; equal lists of two benchmarks are one."""
    checksums = {each.sha256 for spec in MANIFESTS.values() for each in lists_of(spec).values()}
    unused = {p for p, text in published().items() if sha256(text).hexdigest() not in checksums}
    assert unused == {"cifar10/train_tin597.txt", "cifar100/train_tin597.txt"}


@pytest.mark.parametrize("spec", MANIFESTS.values(), ids=MANIFESTS)
def test_preprocessing_is_the_original_one(spec: DatasetSpec) -> None:
    if re.search(r"imagenet(200)?-c$", spec.name):
        assert (spec.resize, spec.shape) == (None, (3, 224, 224))
        return
    assert spec.resize is not None
    assert (spec.resize.filter, spec.resize.crop) == ("bilinear", "center")
    assert (spec.resize.short_side, spec.shape) in ((32, (3, 32, 32)), (256, (3, 224, 224)))


@pytest.mark.parametrize("spec", MANIFESTS.values(), ids=MANIFESTS)
def test_lists_and_images_have_sources(spec: DatasetSpec) -> None:
    assert spec.license
    assert len(spec.citation) > 30
    assert spec.url
    for listing in lists_of(spec).values():
        assert listing.urls
        for url in listing.urls:
            assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", url)
            assert url.endswith(listing.path.rpartition("/")[2])
    assert spec.list_archive is not None
    assert "drive.google.com/uc?id=" in spec.list_archive.urls[0]
    assert any("drive.google.com" in url for file in files_of(spec) for url in file.urls)
    assert spec.places[0].folder.startswith("images_"), "OpenOOD's own folder comes first"


def test_files_of_one_name_and_folder_are_one() -> None:
    files: dict[tuple[str, str], FileSpec] = {}
    for spec in MANIFESTS.values():
        for place in spec.places:
            for file in place.files:
                assert files.setdefault((place.folder, file.name), file) == file


def test_files_of_other_manifests_are_shared() -> None:
    """The same archive is downloaded into the same folder, and unpacked there, once."""
    for name, other in (("cifar10", "openood-cifar10"), ("cifar100", "openood-cifar100")):
        ours = Catalog().dataset(name)
        assert [ours.files] == [p.files for p in MANIFESTS[other].places if p.folder == name]
    textures = Catalog().dataset("textures")
    assert textures.files in [place.files for place in MANIFESTS["openood-texture"].places]
