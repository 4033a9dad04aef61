"""Wrong uses of `oodbench.fit` and of fitted detectors: one message each, as for `evaluate`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.user_network import MEAN, STD, Net, evaluated, made, pairs
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import FittedDetector, UserError

pytestmark = pytest.mark.usefixtures("quick_evaluation")

IMAGES, LABELS = made(40, 5)


def fit(net: nn.Module, detector: Any = "knn", **others: Any) -> FittedDetector:
    given = {"fit_data": pairs(80, 0), "normalization": (MEAN, STD), "device": "cpu"} | others
    return oodbench.fit(net, detector, **given)


@pytest.fixture(scope="module")
def fitted(trained: Net) -> FittedDetector:
    return fit(copy.deepcopy(trained))


def scaled(fitted: FittedDetector, by: float = 1.5) -> None:
    with torch.no_grad():
        fitted.model.module.get_parameter("fc.weight").mul_(by)


def changed(fitted: FittedDetector, use: Callable[[], Any]) -> None:
    scaled(fitted, 2.0)
    try:
        use()
    finally:
        scaled(fitted, 0.5)  # exactly as before


def saved(fitted: FittedDetector, folder: Path) -> Path:
    return fitted.save(folder / "artifact")


Act = Callable[[FittedDetector, Net, Path], Any]
FITTED: dict[str, tuple[Act, str, str]] = {
    "predict without a threshold": (
        lambda fitted, net, folder: fitted.predict(IMAGES),
        "Detector 'knn' has no threshold",
        "calibrate(validation",
    ),
    "percent for a share": (
        lambda fitted, net, folder: fitted.calibrate(IMAGES, accept=95),
        "accept: expected a share above 0 and below 1, not 95",
        "Of 95 % the share is 0.95",
    ),
    "one image without the axis of a batch": (
        lambda fitted, net, folder: fitted.score(IMAGES[0]),
        "not one image [2, 6, 6]",
        "images[None]",
    ),
    "images of another shape": (
        lambda fitted, net, folder: fitted.score(torch.rand(4, 3, 6, 6)),
        "shape [3, 6, 6], and the detector was fitted on images of [2, 6, 6]",
        "Prepare them",
    ),
    "images from 0 to 255 to score": (
        lambda fitted, net, folder: fitted.score(IMAGES * 255),
        "with normalization given, images are in [0, 1]",
        "by 255",
    ),
    "files for a model whose preprocessing is not known": (
        lambda fitted, net, folder: fitted.score(str(folder)),
        "how image files are prepared for this model is not known",
        "Dataset",
    ),
    "another model": (
        lambda fitted, net, folder: oodbench.load_fitted(saved(fitted, folder), Net().eval()),
        "The model is not the one that the detector was fitted on: it has other weights",
        "Fit the detector again",
    ),
    "the model in another type": (
        lambda fitted, net, folder: oodbench.load_fitted(
            saved(fitted, folder), copy.deepcopy(net).double()
        ),
        "The model is not the one that the detector was fitted on",
        "Fit the detector again",
    ),
    "no model where one is needed": (
        lambda fitted, net, folder: oodbench.load_fitted(saved(fitted, folder)),
        "holds a detector without its model, Net",
        "load_fitted(folder, model)",
    ),
    "a folder without a detector": (
        lambda fitted, net, folder: oodbench.load_fitted(folder / "nothing", net),
        "is no saved detector",
        "FittedDetector.save",
    ),
    "scores of a model that has changed": (
        lambda fitted, net, folder: changed(fitted, lambda: fitted.score(IMAGES)),
        "The model has changed since 'knn' was fitted on it: it has other weights: 1 of",
        "Fit the detector again",
    ),
    "a model that has changed is saved": (
        lambda fitted, net, folder: changed(fitted, lambda: saved(fitted, folder)),
        "The model has changed since 'knn' was fitted on it",
        "Fit the detector again",
    ),
    "several detectors to fit": (
        lambda fitted, net, folder: fit(net, ["knn", "energy"]),
        "detector: expected a name or an instance",
        "oodbench.evaluate takes several",
    ),
    "a fitted detector to fit": (
        lambda fitted, net, folder: fit(net, fitted),
        "detector: expected a name or an instance, not FittedDetector('knn' on Net",
        "Its `detector` is an instance",
    ),
    "a fitted detector to evaluate": (
        lambda fitted, net, folder: evaluated(net, [fitted]),
        "instances of oodbench.Detector, not a FittedDetector",
        "Its `detector` is an instance",
    ),
    "nothing to fit on": (
        lambda fitted, net, folder: fit(net, fit_data=None),
        "fit_data is missing",
        "images that the model was trained on",
    ),
    "a class without images to fit on": (
        lambda fitted, net, folder: fit(
            net, "mahalanobis_single", fit_data=TensorDataset(IMAGES, torch.zeros_like(LABELS))
        ),
        "no training image of class 1, 2, 3",
        "",
    ),
}


@pytest.mark.filterwarnings("ignore:The labels of fit_data agree")
@pytest.mark.parametrize("use", FITTED)
def test_an_error_of_a_fitted_detector(
    fitted: FittedDetector, trained: Net, tmp_path: Path, use: str
) -> None:
    act, message, hint = FITTED[use]
    with pytest.raises(UserError) as caught:
        act(fitted, trained, tmp_path)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert len(fitted.score(IMAGES)) == len(IMAGES), "it is as it was"


def test_a_threshold_of_few_images_warns(trained: Net) -> None:
    with pytest.warns(UserWarning, match="5 validation images are too few .* At least 19 are"):
        fit(trained).calibrate(IMAGES[:5])


def test_weights_are_compared_only_if_they_may_have_changed(
    fitted: FittedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted.score(IMAGES)
    compared = []
    identified = type(fitted.model).identified
    monkeypatch.setattr(
        type(fitted.model), "identified", lambda self: compared.append(1) or identified(self)
    )
    fitted.score(IMAGES)
    assert not compared
    scaled(fitted, 2.0)
    scaled(fitted, 0.5)
    assert (fitted.score(IMAGES) == expected).all()
    assert len(compared) == 1
