"""`oodbench.evaluate` with OOD images to tune on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench.errors import UserError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 12),
    )


def images(count: int, seed: int, low: float = 0.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 12
    return TensorDataset(low + (1 - low) * torch.rand(count, 3, 8, 8, generator=generator), labels)


def evaluated(model: nn.Module, detectors: Any, **changes: Any) -> oodbench.EvaluationResult:
    arguments: dict[str, Any] = {
        "id_data": images(60, 0),
        "ood_data": {"bright": images(50, 1, 0.5)},
        "fit_data": images(120, 2),
        "validation_data": images(60, 3),
        "ood_validation_data": images(40, 4, 0.4),
        "tune": "all",
        "errors": "raise",
        "progress": False,
    }
    return oodbench.evaluate(model, detectors, **arguments | changes)


def test_the_largest_auroc_is_chosen(model: nn.Module) -> None:
    """By a loop over the values of GEN's gamma and top_m, with default parameters for the rest."""
    space = oodbench.load_detector("gen").info.search_space
    best, chosen = -1.0, {}
    for top_m in space["top_m"]:
        for gamma in space["gamma"]:
            detector = oodbench.load_detector("gen", gamma=gamma, top_m=top_m)
            found = evaluated(
                model,
                detector,
                id_data=images(60, 3),
                ood_data={"it": images(40, 4, 0.4)},
                tune="none",
                ood_validation_data=None,
            )
            scores = found.scores["gen"]
            value = oodbench.metrics.auroc(scores["id"], scores["it"])
            if value > best:
                best, chosen = value, {"gamma": gamma, "top_m": top_m}
    result = evaluated(model, "gen")
    assert result.detectors["gen"].parameters == chosen
    (record, *_) = result.records
    assert (record.tuned_on, record.tuning_ood) == ("ood_validation", "ood_validation_data")
    assert any("which score the tuning images as others do" in note for note in result.notes)
    for text in (result.to_text(), result.to_markdown(), result._repr_html_()):
        assert "OOD validation (ood_validation_data)" in " ".join(text.replace("\\", "").split())
        assert "Tuned on FGSM" not in text


def test_mahalanobis_is_calibrated_without_normalization(model: nn.Module) -> None:
    """Nothing is attacked, and images need not be in [0, 1]."""
    result = evaluated(model, "mahalanobis", taps=["0", "2"], tune="none")
    assert result.detectors["mahalanobis"].regression is not None
    attacked = {"taps": ["0", "2"], "tune": "none", "ood_validation_data": None, "errors": "skip"}
    skipped = evaluated(model, ["baseline", "mahalanobis"], **attacked).skipped
    assert "needs images in [0, 1]" in skipped["mahalanobis"]


def test_loaders_and_datasets_give_the_same(model: nn.Module) -> None:
    both = [
        evaluated(model, ["knn", "mahalanobis"], taps=["0", "2"], ood_validation_data=data)
        for data in (
            images(40, 4, 0.4),
            DataLoader(images(40, 4, 0.4), batch_size=7),
        )
    ]
    for label in ("knn", "mahalanobis"):
        first, second = (result.scores[label]["bright"] for result in both)
        np.testing.assert_allclose(first, second, rtol=1e-5)
        assert both[0].detectors[label].parameters == both[1].detectors[label].parameters
    assert {record.tuned_on for record in both[0].records} == {"ood_validation"}


@pytest.mark.parametrize("tune", ["none", []])
def test_images_without_use_are_refused(model: nn.Module, tune: Any) -> None:
    with pytest.raises(UserError) as raised:
        evaluated(model, ["knn"], tune=tune)
    assert raised.value.message.startswith("ood_validation_data: no detector is tuned")
    assert "tune='all'" in raised.value.hint


def test_validation_images_are_needed_too(model: nn.Module) -> None:
    result = evaluated(model, ["baseline", "knn"], validation_data=None, errors="skip")
    assert "ood_validation_data: also needs validation_data" in result.skipped["knn"]


def test_shared_images_are_a_sign_of_a_mistake(model: nn.Module) -> None:
    result = evaluated(model, ["knn"], ood_validation_data=images(50, 1, 0.5))
    assert any("ood_validation_data" in warning for warning in result.warnings), result.warnings
