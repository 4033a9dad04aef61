"""The temperature found on validation data, against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.metrics.calibration import ece
from oodbench.numerics.likelihood.temperature import HIGHEST, LOWEST, calibrate


def problem(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels drawn from softmax(z): these logits are right at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator).squeeze(1)
    return logits, labels


def loss(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return F.cross_entropy(logits / temperature, labels).item()


@pytest.mark.parametrize("classes", [2, 10])
def test_no_temperature_of_a_fine_grid_is_better(classes: int) -> None:
    logits, labels = problem(500, classes)
    found = calibrate(logits, labels)
    grid = np.geomspace(LOWEST, HIGHEST, 5001)
    best = min(grid, key=lambda temperature: loss(logits, labels, temperature))
    assert found == pytest.approx(best, rel=3e-3)
    assert loss(logits, labels, found) <= loss(logits, labels, best) + 1e-12


@pytest.mark.parametrize("scale", [0.02, 0.5, 1.0, 20.0])
def test_temperature_undoes_a_scale(scale: float) -> None:
    logits, labels = problem(20_000, 5)
    found = calibrate(scale * logits, labels)
    assert found == pytest.approx(scale, rel=0.05), "labels were drawn at temperature 1"
    assert found == pytest.approx(scale * calibrate(logits, labels), rel=1e-5)


def test_two_classes_in_closed_form() -> None:
    """Three of four right at one margin: 1 / (1 + exp(-m/T)) = 3/4, so T = m / ln 3."""
    logits = torch.tensor([[0.7, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    assert calibrate(logits, labels) == pytest.approx(0.7 / math.log(3), rel=1e-5)


def test_shifts_of_an_image_s_logits_change_nothing() -> None:
    logits, labels = problem(300, 4)
    shifts = 1e3 * torch.arange(300, dtype=torch.float64)[:, None]
    assert calibrate(logits + shifts, labels) == pytest.approx(calibrate(logits, labels), rel=1e-6)


def test_ends_of_the_range() -> None:
    logits = torch.eye(4) + 1e-4 * torch.arange(4)
    assert calibrate(0.01 * logits, torch.arange(4)) == pytest.approx(LOWEST, rel=1e-12)
    assert calibrate(logits, torch.tensor([1, 2, 3, 0])) == pytest.approx(HIGHEST, rel=1e-12)
    assert LOWEST <= calibrate(1e6 * logits, torch.arange(4)) <= HIGHEST, "nothing overflows"


def test_same_data_same_temperature() -> None:
    logits, labels = problem(100, 3)
    copies = logits.clone(), labels.clone()
    assert calibrate(logits, labels) == calibrate(*copies)
    torch.testing.assert_close((logits, labels), copies, rtol=0, atol=0)
    assert calibrate(logits.float(), labels) == pytest.approx(calibrate(logits, labels), rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "no images"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "expected"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "expected"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "between 0 and 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "between 0 and 2"),
        (torch.full((2, 3), math.nan), torch.tensor([0, 1]), "finite"),
    ],
)
def test_what_cannot_be_calibrated_is_an_error(
    logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(logits, labels)


def test_calibration_lowers_the_calibration_error() -> None:
    logits, labels = problem(20_000, 5)

    def error(temperature: float) -> float:
        confidence, predicted = F.softmax(5 * logits / temperature, dim=1).max(dim=1)
        return ece(confidence.numpy(), (predicted == labels).numpy())

    before, after = error(1.0), error(calibrate(5 * logits, labels))
    assert before > 0.1
    assert after < 0.02
