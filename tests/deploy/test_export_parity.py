"""Exported graphs in onnxruntime give the scores of their detectors, on a CNN and on a ViT."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.exported_graphs import (
    TOLERANCE,
    differences,
    fit_all,
    onnx_of,
    own_scores,
    program_of,
)
from torch import nn

from oodbench import load_detector
from oodbench.data import ImageArray
from oodbench.deploy.export import export_obstacle
from oodbench.deploy.graph.onnx_file import OnnxGraph, write_onnx
from oodbench.deploy.graph.scored_network import ScoredNetwork, scoring_runner, traced
from oodbench.detector import Detector
from oodbench.models import adapt
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog
from oodbench.testing.small_network import CLASSES, SmallEnsemble, small_classifier, small_images

pytestmark = pytest.mark.usefixtures("one_thread")

NOT_EXPORTED = ("adascale_a", "adascale_l", "iodin", "nac_ue", "odin")
"""Detectors that cannot be exported with their default parameters."""


def test_which_detectors_cannot_be_exported() -> None:
    detectors = {name: load_detector(name) for name in Catalog().detectors}
    found = sorted(name for name, each in detectors.items() if export_obstacle(each))
    assert found == [*NOT_EXPORTED]


def test_a_detector_without_a_step_can_be_exported() -> None:
    assert export_obstacle(load_detector("odin", epsilon=0.0)) is None
    assert export_obstacle(load_detector("mahalanobis", epsilon=0.01)) is not None


def test_cnn(tmp_path: Path) -> None:
    names = ("baseline", "knn", "openmax", "react", "relation", "relative_mahalanobis", "vim")
    detectors = {name: load_detector(name) for name in names}
    detectors["gram"] = load_detector("gram", powers=3)
    classifier = small_classifier("linear")
    fit_all(classifier, detectors, small_images(600, 1), small_images(100, 2), CLASSES)
    check(classifier, detectors, torch.from_numpy(small_images(7, seed=4).images), tmp_path)


@pytest.mark.full
def test_units_that_are_drawn(tmp_path: Path) -> None:
    images = torch.from_numpy(small_images(7, seed=4).images)
    check(small_classifier("linear"), {"mcd": load_detector("mcd", samples=8)}, images, tmp_path)


def test_members_of_an_ensemble(tmp_path: Path) -> None:
    networks = [copy.deepcopy(small_classifier("linear").network) for _ in range(2)]
    for parameter in networks[1].parameters():
        parameter.data.mul_(1.1)
    classifier = Classifier(SmallEnsemble(*networks), (0.5, 0.5), (0.25, 0.25)).eval()
    images = torch.from_numpy(small_images(7, seed=4).images)
    check(classifier, {"ensemble": load_detector("ensemble")}, images, tmp_path)


def test_order_of_equal_values(tmp_path: Path) -> None:
    class Ranks(nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            down = images.argsort(dim=1, descending=True, stable=True)
            return [down, images.sort(dim=1, stable=True).indices]

    values = torch.randint(3, (4, 50), generator=torch.Generator().manual_seed(0)).double()
    program = traced(Ranks(), values)
    write_onnx(program, tmp_path / "ranks.onnx", ["images"], ["down", "up"], {})
    down, up = OnnxGraph(tmp_path / "ranks.onnx")(values)
    np.testing.assert_array_equal(down, np.argsort(-values.numpy(), axis=1, kind="stable"))
    np.testing.assert_array_equal(up, np.argsort(values.numpy(), axis=1, kind="stable"))


def test_distance_head(tmp_path: Path) -> None:
    detectors = {name: load_detector(name) for name in ("min_distance", "mmles")}
    images = torch.from_numpy(small_images(7, seed=4).images)
    check(small_classifier("dismax"), detectors, images, tmp_path)


def test_vision_transformer(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_classes=3
        )
    classifier = Classifier(adapt(module.eval()), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()
    detectors: dict[str, Detector] = {name: load_detector(name) for name in ("baseline", "knn")}
    fit_all(classifier, detectors, colored(100, 1), colored(60, 2), 3)
    check(classifier, detectors, torch.from_numpy(colored(7, 3).images), tmp_path)


def check(
    classifier: Classifier, detectors: dict[str, Detector], images: torch.Tensor, folder: Path
) -> None:
    """Compare in batches of 1, 2 and 7, for which the graph is not traced."""
    expected = own_scores(classifier, detectors, images)
    graph = onnx_of(program_of(classifier, detectors, images[:3]), detectors, folder)
    found = differences(graph, expected, images)
    largest = {name: max(each.values()) for name, each in found.items()}
    assert {name: each for name, each in largest.items() if not each < TOLERANCE} == {}


def colored(count: int, seed: int) -> ImageArray:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.uniform(0, 0.6, (count, 3, 16, 16))
    images[np.arange(count), labels] += 0.4
    return ImageArray(images.astype(np.float32), labels)


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_detectors_that_are_not_exported_could_not_be(name: str) -> None:
    step = {"epsilon": 0.1} if name.endswith("odin") else {}  # its own is nothing on this network
    detector = load_detector(name, **step)
    classifier = small_classifier("linear")
    fit_all(classifier, {name: detector}, small_images(60, 1), small_images(60, 2), CLASSES)
    images = torch.from_numpy(small_images(7, seed=4).images)
    expected = own_scores(classifier, {name: detector}, images)[name]
    runner = scoring_runner(classifier, {name: detector}, images)
    try:
        with runner.attached():
            graph = traced(ScoredNetwork(runner, {name: detector}), images[:3]).module()
    except Exception:
        return
    with torch.no_grad():
        found = graph(images)[1].numpy()
    assert np.abs(found - expected).max() > TOLERANCE * np.abs(expected).max()
