"""A run, artifacts of its methods, and image files, which the tests of these commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.commands import captured
from helpers.tiny_benchmark import tiny_benchmark
from helpers.tiny_content import content
from PIL import Image

from oodbench.data.splits import load_split
from oodbench.plugins.catalog import Catalog

METHODS = {
    "SoftMax+ODIN": "{model: SoftMax, detector: odin, parameters: {temperature: 1000.0}}",
    "SoftMax+Oracle": "{model: SoftMax, detector: odin, parameters: {temperature: 1.0}, "
    "tuning: ood_oracle}",
    "SoftMax+Mahalanobis": "mahalanobis",
    "SoftMax+KNN": "knn",
    "SoftMax+DisMaxEntropy": "dismax_entropy",
}
"""Tuned; tuned on each OOD set; tuned and calibrated; fitted; skipped."""


@pytest.fixture(scope="session")
def run_of_methods(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A run directory."""
    folder = tmp_path_factory.mktemp("methods")
    text = tiny_benchmark(METHODS, tuning="{fgsm_step: 0.3, detectors: [odin, mahalanobis]}")
    done = captured(
        *("run", "tiny", "--plugins", content(folder / "content", text), "--seeds", "1"),
        *("--device", "cpu", "--out", folder / "run"),
        OODBENCH_CACHE=str(shared_cache),
    )
    assert done.code == 3, f"one method is skipped\n{done.out}\n{done.err}"
    return folder / "run"


@pytest.fixture(scope="session")
def artifact(
    tmp_path_factory: pytest.TempPathFactory, run_of_methods: Path, shared_cache: Path
) -> Path:
    """The folder of SoftMax+KNN, saved."""
    folder = tmp_path_factory.mktemp("artifact") / "knn"
    done = captured(
        *("fit", run_of_methods, "SoftMax+KNN", "--out", folder, "--device", "cpu"),
        OODBENCH_CACHE=str(shared_cache),
    )
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `digits`, with 40 test images in folders named after their classes, and `letters`."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("digits", "letters"):
        spec = Catalog().dataset(name)
        data = load_split(spec, "test")
        for index in range(40):
            label = "all" if data.labels is None else spec.classes[data.labels[index]]
            path = folder / name / label / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(255 * data.images[index, 0]).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return folder
