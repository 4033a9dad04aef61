"""`oodbench export`: from a saved detector to a graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.commands import Command

import oodbench
from oodbench import models
from oodbench.deploy.deployed_model import Preparation
from oodbench.models.classifier import Classifier
from oodbench.specs import ModelSpec

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted() -> oodbench.FittedDetector:
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    spec = {"network": "resnet8", "head": "dismax2022", "training": recipe}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.create("resnet8", 3, "dismax2022")
    return oodbench.FittedDetector.of_classifier(
        "DisMax+MMLES",
        oodbench.load_detector("mmles"),
        Classifier(network, (0.5,) * 3, (0.25,) * 3).eval(),
        ModelSpec.model_validate(spec),
        Preparation((3, 16, 16), None),
        num_classes=3,
        classes=("a", "b", "c"),
    )


def test_artifact_to_onnx(
    tmp_path: Path, command: Command, fitted: oodbench.FittedDetector
) -> None:
    fitted.calibrate(IMAGES, accept=0.8)
    decisions = fitted.predict(IMAGES)
    folder, file = fitted.save(tmp_path / "artifact"), tmp_path / "model.onnx"
    result = command("export", str(folder), "--out", str(file))
    assert result.code == 0, result.err
    assert f"Wrote {file}: logits, score, accepted" in result.out
    session = onnxruntime.InferenceSession(file)
    logits, score, accepted = session.run(None, {"images": IMAGES.numpy()})
    assert np.array_equal(logits.argmax(axis=1), decisions.predictions)
    assert np.abs(score - decisions.scores).max() <= 1e-5 * np.abs(decisions.scores).max()
    assert np.array_equal(accepted, score >= fitted.threshold.value)
    known = session.get_modelmeta().custom_metadata_map
    digest = hashlib.sha256((folder / "artifact.json").read_bytes()).hexdigest()
    assert known["oodbench.artifact"] == digest
    assert known["oodbench.detector"] == "mmles"
    assert known["oodbench.classes"] == '["a", "b", "c"]'
    assert '"shape": [3, 16, 16]' in known["oodbench.preparation"]


def test_wrong_uses(tmp_path: Path, command: Command, fitted: oodbench.FittedDetector) -> None:
    folder = fitted.save(tmp_path / "artifact")
    for arguments, words in (
        ([str(folder), "--out", str(tmp_path / "model.txt")], ".onnx"),
        ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "model.pt2")], "nowhere"),
        ([str(folder)], "--out"),
    ):
        result = command("export", *arguments)
        assert result.code == 2
        assert words in result.err
        assert "Traceback" not in result.err
