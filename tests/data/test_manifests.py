"""The shipped manifests of data sets that are downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oodbench.data.readers.torchvision_sets import READERS
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec

MANIFESTS = {
    name: Catalog().dataset(name)
    for name in Catalog().entries["dataset"]
    if Catalog().dataset(name).kind != "builtin" and not Catalog().dataset(name).lists
}
"""Those with published lists are in `test_openood_manifests.py`."""


def by_name() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", MANIFESTS.values(), ids=MANIFESTS)


def test_those_of_the_paper_are_there() -> None:
    assert {"cifar10", "cifar100", "svhn", "tin_resize", "lsun_resize", "isun"} <= set(MANIFESTS)
    assert {"mnist", "fashion_mnist", "kmnist", "textures", "places365", "tiny_imagenet"} <= set(
        MANIFESTS
    )


@by_name()
def test_every_file_can_be_got_and_bounded(spec: DatasetSpec) -> None:
    assert spec.files
    for file in spec.files:
        assert file.urls
        assert len(set(file.urls)) == len(file.urls)
        if "dropbox.com" in file.urls[0]:
            assert file.urls[0].endswith("?dl=1"), "without it, Dropbox sends a web page"
        packed = file.name.endswith((".gz", ".tgz", ".tar", ".zip"))
        assert (file.unpacked_limit is not None) == packed
        if file.unpacked_limit is not None and file.size is not None:
            assert file.unpacked_limit >= file.size


@by_name()
def test_readers_and_licenses(spec: DatasetSpec) -> None:
    assert spec.builder is None or spec.builder in READERS
    assert spec.license
    assert len(spec.citation) > 30
    assert spec.url


def test_checksums_are_not_copied_from_one_to_another() -> None:
    files = [file for spec in MANIFESTS.values() for file in spec.files]
    checksums = [file.sha256 or file.md5 for file in files]
    assert len(set(checksums)) == len(checksums)
    assert len({url for file in files for url in file.urls}) == sum(len(f.urls) for f in files)


@by_name()
def test_counts(spec: DatasetSpec) -> None:
    """As published, whatever was set apart."""
    published = {
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "svhn": (73_257, 26_032),
        "mnist": (60_000, 10_000),
        "fashion_mnist": (60_000, 10_000),
        "kmnist": (60_000, 10_000),
        "tiny_imagenet": (100_000, 10_000),
        "tin_resize": (0, 10_000),
        "lsun_resize": (0, 10_000),
        "isun": (0, 8_925),
        "textures": (0, 5_640),
        "places365": (0, 36_500),
    }
    train = spec.splits.get("train", 0) + spec.splits.get("validation", 0)
    assert (train, spec.splits["test"]) == published[spec.name]


def test_md5s_are_those_of_torchvision() -> None:
    """Where a manifest's comment gives torchvision's md5 of a file, it is the installed one's."""
    from torchvision.datasets import CIFAR10, CIFAR100, DTD, Places365

    for name, md5 in (
        ("cifar10", CIFAR10.tgz_md5),
        ("cifar100", CIFAR100.tgz_md5),
        ("textures", DTD._MD5),
        ("places365", Places365._IMAGES_META["val", True][1]),
    ):
        assert md5 in Path(Catalog().entry("dataset", name).path).read_text(encoding="utf-8")


def test_addresses_are_those_of_torchvision() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, DTD, KMNIST, MNIST, SVHN, FashionMNIST

    urls = {url for spec in MANIFESTS.values() for file in spec.files for url in file.urls}
    assert {CIFAR10.url, CIFAR100.url, DTD._URL} <= urls
    assert {SVHN.split_list[split][0] for split in ("train", "test")} <= urls
    for cls in (MNIST, FashionMNIST, KMNIST):
        assert {f"{cls.mirrors[0]}{file}" for file, _ in cls.resources} <= urls
    assert not any(re.search(r"\s", url) for url in urls)
