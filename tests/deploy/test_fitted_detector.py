"""A fitted detector in use: what it takes, what it warns of, what it refuses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deploy.conftest import data, fitted_on
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench import FittedDetector, UserError, models
from oodbench.deploy.deployed_model import Preparation
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Classifier
from oodbench.models.structure.analysis import analyze
from oodbench.specs import ModelSpec


def test_tensors_arrays_data_sets_and_loaders() -> None:
    detector, given = fitted_on("cnn").detectors["energy"], data(40, 4)
    images = given.tensors[0]
    expected = detector.score(given)
    for same in (images, images.numpy(), DataLoader(given, batch_size=40, shuffle=True)):
        assert np.array_equal(detector.score(same), expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(2, 8, 8), r"not one image \[2, 8, 8\].*\n.*images\[None\]"),
        (torch.rand(4, 3, 8, 8), r"shape \[3, 8, 8\], and the detector was fitted .* \[2, 8, 8\]"),
        (torch.rand(0, 2, 8, 8), "images is empty"),
        (torch.rand(4, 2, 8, 8) * 255, r"\[0, 1\]"),
        ("folder", "not known"),
        ([Path("a.png")], "not known"),
        (None, "images: expected"),
    ],
    ids=["one", "channels", "none", "range", "folder", "files", "nothing"],
)
def test_other_images_are_refused(images: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fitted_on("cnn").detectors["energy"].score(images)


def test_no_decision_without_a_threshold() -> None:
    model = fitted_on("cnn").model
    detector = oodbench.fit(model, "energy", fit_data=data(30, 1), device="cpu", progress=False)
    with pytest.raises(UserError, match=r"no threshold.*\n.*calibrate\("):
        detector.predict(torch.rand(3, 2, 8, 8))
    with pytest.raises(UserError, match="accept: expected a share"):
        detector.calibrate(data(30, 5), accept=95)
    with pytest.warns(UserWarning, match="3 validation images are too few"):
        detector.calibrate(data(3, 5))
    assert detector.predict(torch.rand(3, 2, 8, 8)).accepted.all()


def test_a_threshold_on_the_images_of_the_fit_is_warned_of() -> None:
    fitted = fitted_on("cnn").detectors
    with pytest.warns(UserWarning, match="60 of 60 images .* 'temperature_scaling' was fitted"):
        fitted["temperature_scaling"].calibrate(data(60, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted["temperature_scaling"].calibrate(data(60, 7))
        fitted["energy"].calibrate(data(60, 2))


def test_fit_says_why_a_detector_cannot_run() -> None:
    model = fitted_on("cnn").model
    with pytest.raises(UserError, match=r"fit_data is missing"):
        oodbench.fit(model, "energy")
    with pytest.raises(UserError, match="'min_distance' cannot run: needs a DisMax head"):
        oodbench.fit(model, "min_distance", fit_data=data(30, 1), progress=False)
    with pytest.raises(UserError, match=r"'mahalanobis' cannot run: .* validation_data"):
        oodbench.fit(model, "mahalanobis", fit_data=data(30, 1), progress=False)


def test_code_of_a_users_network_runs_only_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{tmp_path / 'net.py'}:build"
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 3))\n"
    )
    spec = ModelSpec.model_validate({"network": name, "head": "softmax", "weights": "own"})
    from oodbench.models import callables

    module = callables.built(name, {}).eval()
    network: AdaptedNetwork = analyze(module, torch.rand(2, 3, 8, 8)).network
    detector = FittedDetector.of_classifier(
        "energy",
        oodbench.load_detector("energy"),
        Classifier(network, (0.5,) * 3, (0.2,) * 3).eval(),
        spec,
        Preparation((3, 8, 8), None),
        num_classes=3,
    )
    folder, images = detector.save(tmp_path / "a"), torch.rand(4, 3, 8, 8)
    monkeypatch.setattr(models, "create", lambda *given, **named: pytest.fail("it ran"))
    with pytest.raises(UserError, match=r"code of your own.*\n.*network="):
        oodbench.load_fitted(folder)
    loaded = oodbench.load_fitted(folder, network=name)
    assert np.array_equal(loaded.score(images), detector.score(images))


def test_the_result_of_an_evaluation_has_them() -> None:
    inside, outside = data(40, 4), TensorDataset(1 - data(40, 5).tensors[0])
    result = oodbench.evaluate(
        fitted_on("cnn").model,
        ["energy", "knn"],
        id_data=inside,
        ood_data={"inverted": outside},
        fit_data=data(200, 1),
        device="cpu",
        progress=False,
    )
    assert [*result.fitted] == ["energy", "knn"]
    for name, detector in result.fitted.items():
        assert np.array_equal(detector.score(inside), result.scores[name]["id"])
        assert result.detectors[name] is detector.detector
