"""A sequence of layers as a user's classifier, with data for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import EvaluationResult

CLASSES = 6


def body(width: int = 12) -> nn.Sequential:
    """Maps images [B, 3, 8, 8] to maps [B, width, 6, 6]."""
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())


def pooling() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(body(), pooling(), nn.Linear(12, CLASSES)).eval()


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def data(**others: Any) -> dict[str, Any]:
    labels = torch.arange(48) % CLASSES
    given: dict[str, Any] = {
        "id_data": TensorDataset(images(48, 0), labels),
        "ood_data": {"far": TensorDataset(images(20, 1).square())},
        "fit_data": TensorDataset(images(60, 2), torch.arange(60) % CLASSES),
        "device": "cpu",
    }
    return given | others


def evaluated(model: Any, detectors: Any, **others: Any) -> EvaluationResult:
    return oodbench.evaluate(model, detectors, **data(**others))


def assert_same_scores(found: EvaluationResult, expected: EvaluationResult) -> None:
    assert found.failed == {} == expected.failed
    assert found.scores.keys() == expected.scores.keys()
    for label, sets in expected.scores.items():
        for name, scores in sets.items():
            np.testing.assert_allclose(found.scores[label][name], scores, rtol=2e-3, atol=2e-4)


class Holding(nn.Module):
    """A module of the user's around a part of another make."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


class Returning(nn.Module):
    """Makes something of the logits, features and maps of a classifier."""

    def __init__(self, make: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net = classifier()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        maps = self.net[0](x)
        features = self.net[1](maps)
        return self.make(self.net[2](features), features, maps)


class Raising(nn.Module):
    """A classifier that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = classifier(), error

    def forward(self, x: Tensor) -> Any:
        raise self.error
