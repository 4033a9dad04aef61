"""Published lists: all manifests of OpenOOD v1.5 on stand-ins, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.openood_standins import write_openood

from oodbench.data import load_split
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec
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
            assert f"data set '{name}', split 'test': images from " in note
            assert "OpenOOD stored them as JPEG" in note
