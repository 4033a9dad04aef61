"""Detectors on classifiers of benchmarks: their artifacts need no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import oodbench
from oodbench import UserError, models
from oodbench.deploy.artifact.described_model import check_storable
from oodbench.deploy.deployed_model import Preparation
from oodbench.models.classifier import Classifier
from oodbench.specs import ModelSpec

_TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}


def fitted(head: str = "softmax", detector: str = "energy") -> oodbench.FittedDetector:
    spec = ModelSpec.model_validate({"network": "resnet8", "head": head, "training": _TRAINING})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.create("resnet8", 3, head)
    classifier = Classifier(network, (0.5,) * 3, (0.25,) * 3).eval()
    return oodbench.FittedDetector.of_classifier(
        f"SoftMax+{detector}",
        oodbench.load_detector(detector),
        classifier.to(memory_format=torch.channels_last),
        spec,
        Preparation((3, 16, 16), None),
        num_classes=3,
        classes=("a", "b", "c"),
    )


def images(count: int = 30) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", ["softmax", "dismax2022"])
def test_without_a_model_scores_and_decisions_are_the_same(tmp_path: Path, head: str) -> None:
    before = fitted(head)
    before.calibrate(images(), accept=0.8)
    decisions = before.predict(images())
    loaded = oodbench.load_fitted(before.save(tmp_path / "artifact"))
    again = loaded.predict(images())
    assert np.array_equal(again.scores, decisions.scores)
    assert np.array_equal(again.accepted, decisions.scores >= before.threshold.value)
    assert np.array_equal(again.predictions, decisions.predictions)
    assert loaded.threshold == before.threshold
    assert loaded.model.classes == ("a", "b", "c")
    assert loaded.model.preparation == Preparation((3, 16, 16), None)
    assert sorted(each.name for each in (tmp_path / "artifact").iterdir()) == [
        "artifact.json",
        "detector.safetensors",
        "model.safetensors",
    ]


def test_weights_keep_their_strides(tmp_path: Path) -> None:
    """A kernel of one pixel has two strides for one order, and gradients differ between them."""
    before = fitted(detector="odin")
    for weight in before.model.classifier.parameters():
        if weight.ndim == 4:
            _, channels, height, width = weight.shape
            strides = (channels * height * width, 1, width * channels, channels)
            weight.data = torch.empty_strided(weight.shape, strides).copy_(weight.data)
    loaded = oodbench.load_fitted(before.save(tmp_path / "artifact"), device="cpu")
    found = loaded.model.classifier.state_dict()
    for name, weight in before.model.classifier.state_dict().items():
        assert (name, found[name].stride()) == (name, weight.stride())
    assert np.array_equal(loaded.score(images()), before.score(images()))


def test_a_loaded_detector_is_saved_again(tmp_path: Path) -> None:
    first = fitted().save(tmp_path / "first")
    second = oodbench.load_fitted(first).save(tmp_path / "second")
    for each in first.iterdir():
        assert each.read_bytes() == (second / each.name).read_bytes()


def test_a_stream_gives_decisions_batch_by_batch() -> None:
    detector = fitted()
    whole = detector.score(images())

    class Source:
        name, size = "the camera", None

        def first(self):
            return images()[:10], None

        def batches(self):
            for start in (0, 10, 20):
                yield images()[start : start + 10], None

    parts = list(detector.stream(Source()))
    assert [len(part) for part in parts] == [10, 10, 10]
    np.testing.assert_allclose(np.concatenate([p.scores for p in parts]), whole, rtol=1e-6)
    assert all(part.accepted.all() for part in parts)  # no threshold is set


def test_a_vision_language_model_is_refused() -> None:
    given = {"network": "open_clip:ViT-B-32/openai", "head": "clip", "weights": "pretrained"}
    with pytest.raises(UserError, match="its text encoder") as refused:
        check_storable(ModelSpec.model_validate(given))
    assert "VisionLanguageClassifier" in refused.value.hint
    check_storable(fitted().model.description.spec)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = fitted().save(tmp_path / "artifact")
    other = fitted("dismax2022").save(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors.*checksum"):
        oodbench.load_fitted(folder)
