"""The built-in data sets: their manifests and their images."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from oodbench.data import ImageArray, load_split
from oodbench.specs import DatasetSpec

MANIFESTS = Path(__file__).parents[2] / "data_manifests"
DIGITS = ("digits", "digits-known", "digits-unknown")
DRAWN = ("letters", "photo-patches", "uniform-noise", "gaussian-noise")
COUNTS = {"validation": 200, "test": 600}


def manifest(name: str) -> DatasetSpec:
    text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    return DatasetSpec.model_validate(yaml.safe_load(text))


@functools.cache
def load(name: str, split: str) -> ImageArray:
    """A split of a built-in set, built once for all tests that only read it."""
    return load_split(manifest(name), split)


def changed(name: str, **update: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({**manifest(name).model_dump(), **update})


def images_as_bytes(data: ImageArray) -> list[bytes]:
    return [image.tobytes() for image in data.images]


def all_splits() -> list[tuple[str, str]]:
    return [(name, split) for name in DIGITS + DRAWN for split in manifest(name).splits]
