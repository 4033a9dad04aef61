"""The built-in data sets as their manifests say; seeds, and images that are nowhere twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.built_in_sets import (
    COUNTS,
    DIGITS,
    DRAWN,
    all_splits,
    changed,
    images_as_bytes,
    load,
    manifest,
)

from oodbench.data import load_split
from oodbench.data.builtin.digits import DIGITS_SPLITS


@pytest.mark.parametrize(("name", "split"), all_splits())
def test_manifest_matches_what_is_built(name: str, split: str) -> None:
    spec = manifest(name)
    assert spec.name == name
    data = load_split(spec, split)
    assert data.images.dtype == np.float32
    assert data.images.std() > 0.2, "a data set of nearly constant images"
    again = load_split(spec, split)
    assert again.fingerprint() == data.fingerprint()
    assert not np.shares_memory(again.images, data.images)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_have_a_fingerprint_for_every_split(name: str) -> None:
    spec = manifest(name)
    assert set(spec.sha256) == set(spec.splits)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_ignore_numpys_global_state(name: str) -> None:
    state = np.random.get_state()  # noqa: NPY002 - that state is what this test is about
    try:
        prints = set()
        for seed in (0, 1):
            np.random.seed(seed)  # noqa: NPY002
            prints.add(load_split(manifest(name), "test").fingerprint())
    finally:
        np.random.set_state(state)  # noqa: NPY002
    assert len(prints) == 1


@pytest.mark.parametrize("name", DRAWN)
def test_seed_changes_drawn_sets(name: str) -> None:
    spec = manifest(name)
    other = changed(name, options={**spec.options, "seed": 1})
    assert load(name, "test").fingerprint() != load_split(other, "test").fingerprint()


@pytest.mark.parametrize("name", DIGITS + DRAWN)
def test_no_image_occurs_twice_in_a_data_set(name: str) -> None:
    spec = manifest(name)
    images = [b for split in spec.splits for b in images_as_bytes(load(name, split))]
    assert len(set(images)) == len(images) == sum(spec.splits.values())


@pytest.mark.parametrize("name", DRAWN)
def test_no_ood_image_is_a_digit(name: str) -> None:
    digits = {image for split in DIGITS_SPLITS for image in images_as_bytes(load("digits", split))}
    for split in COUNTS:
        assert not digits.intersection(images_as_bytes(load(name, split)))


def test_building_is_lazy_and_needs_neither_sklearn_nor_torch() -> None:
    program = (
        "import sys, oodbench.data.builtin as b\n"
        "loaded = lambda: sorted({'PIL', 'sklearn', 'torch'} & set(sys.modules))\n"
        "print(loaded()); b.sklearn_digits('test'); print(loaded())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert answer.stdout.split("\n")[:2] == ["[]", "[]"]
