"""A toy data set of any kind, and the error of reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.standins import images_with_classes
from oodbench.data import load_split
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

COUNT = 20


def spec(kind: str, **update: Any) -> DatasetSpec:
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": kind,
        "shape": [3, 32, 32],
        "num_classes": 10,
        "splits": {"test": COUNT},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


def toy(count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    return images_with_classes(0, count, np.random.default_rng(0))


def error_of(manifest: DatasetSpec, root: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        load_split(manifest, "test", root)
    assert caught.value.message.startswith("data set 'toy'")
    return caught.value
