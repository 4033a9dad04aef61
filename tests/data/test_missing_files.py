"""What published lists, their images and checkpoints still need, by what is in the data root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.openood_standins import write_openood

from oodbench.data.listed_files import images_folder
from oodbench.data.missing_files import MissingFile, NeededFiles
from oodbench.data.store.checkpoint_files import Weights
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec
from oodbench.specs.yaml_file import read_spec

NAMES = ("openood-svhn", "openood-imagenet200")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_openood(tmp_path, NAMES, train=10, validation=10, test=10)


def needed(folder: Path, *names: str) -> NeededFiles:
    return NeededFiles(
        tuple(
            read_spec(DatasetSpec, folder / f"data_manifests/{name}.yaml")
            for name in names or NAMES
        )
    )


def names_of(files: list[MissingFile]) -> list[str]:
    return [file.target.name for file in files]


def test_nothing_is_missing_where_openood_s_folders_are(folder: Path) -> None:
    assert needed(folder).missing(folder / "data") == []
    # The folder of OpenOOD itself as the data root.
    assert needed(folder).missing(folder) == []


def test_all_is_missing_from_an_empty_folder(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    lists = ["test_svhn.txt", "val_imagenet200.txt", "test_imagenet200.txt"]
    classes = "test_imagenet200_r.txt"
    found = NeededFiles(tuple(map(Catalog().dataset, NAMES))).missing(root)
    assert sorted(names_of(found)) == sorted(
        [*lists, classes, "svhn.zip", "imagenet_1k.zip", "train"]
    )
    by_name = {file.target.name: file for file in found}
    first = by_name["test_svhn.txt"]
    assert first.target == root / "benchmark_imglist/cifar10/test_svhn.txt"
    assert first.checksum.endswith(" with LF line ends")
    assert by_name["svhn.zip"].target == root / "openood/svhn.zip"
    assert "images_classic" in by_name["svhn.zip"].instead
    assert by_name["imagenet_1k.zip"].checksum == ""
    assert by_name["imagenet_1k.zip"].urls[0].startswith("https://drive.google.com/uc?id=")
    train = by_name["train"]
    assert train.urls == ()
    assert train.what == "the train images of ImageNet-200 (OpenOOD v1.5), one sub-folder per class"
    assert "imagenet/train" in train.instead


def test_by_hand_one_archive_has_all_lists(tmp_path: Path) -> None:
    specs = tuple(map(Catalog().dataset, NAMES))
    found = NeededFiles(specs).missing(tmp_path / "empty", by_hand=True)
    assert names_of(found) == ["benchmark_imglist.zip", "svhn.zip", "imagenet_1k.zip", "train"]
    assert found[0].owners == tuple(f"data set '{name}'" for name in NAMES)
    assert found[0].instead == ("benchmark_imglist",)


def test_lists_that_are_there(folder: Path) -> None:
    root = folder / "data"
    shutil.rmtree(root / "images_classic")
    (file,) = needed(folder).missing(root)  # the stand-ins have no addresses
    assert file.what == "the images of SVHN (OpenOOD v1.5)"
    assert "openood/svhn.zip" in file.instead
    (root / "svhn.zip").write_bytes(b"zip")
    assert needed(folder).missing(root) == []
    (root / "svhn.zip").unlink()
    (root / "svhn").mkdir()
    (root / "svhn/test_32x32.mat").write_bytes(b"mat")
    assert needed(folder).missing(root) == []


def test_images_that_are_there(folder: Path) -> None:
    root = folder / "data"
    shutil.rmtree(root / "benchmark_imglist")
    shutil.rmtree(root / "images_classic")
    (root / "openood").mkdir()
    (root / "openood/svhn.zip").write_bytes(b"zip")
    assert names_of(needed(folder, "openood-svhn").missing(root)) == ["test_svhn.txt"]
    (root / "benchmark_imglist.zip").write_bytes(b"zip")
    assert needed(folder, "openood-svhn").missing(root) == []


def test_weights_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = Weights("torchvision:x", "https://download.pytorch.org/models/x-0a1b2c3d.pth")
    (file,) = NeededFiles(weights=(weights,)).missing(tmp_path)
    assert file.target == tmp_path / "checkpoints/x-0a1b2c3d.pth"
    assert file.urls == (weights.url,)
    assert file.checksum == "sha256 0a1b2c3d..."
    assert file.owners == ("network 'torchvision:x'",)
    at = tmp_path / "torch/hub/checkpoints/x-0a1b2c3d.pth"
    at.parent.mkdir(parents=True)
    at.write_bytes(b"weights")
    assert NeededFiles(weights=(weights,)).missing(tmp_path) == []


def test_the_folder_of_the_images(folder: Path) -> None:
    root, spec = folder / "data", needed(folder, "openood-svhn").datasets[0]
    assert images_folder(spec, root) == root / "images_classic"
    assert images_folder(spec, folder) == root / "images_classic"
    shutil.rmtree(root / "images_classic")
    assert images_folder(Catalog().dataset("openood-svhn"), root) == root / "openood"
