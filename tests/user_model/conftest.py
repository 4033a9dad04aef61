"""A trained network, and evaluation without what other tests cover."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from helpers.user_network import Net, made, normalized
from torch.nn import functional as F

from oodbench.engine import costs
from oodbench.plugins.catalog import Catalog
from oodbench.specs import EvaluationSpec
from oodbench.user_model import assembly, evaluate_function


@cache
def _shipped() -> Catalog:
    return Catalog()


def _catalog(plugins: Any = ()) -> Catalog:
    return Catalog(plugins) if plugins else _shipped()


@pytest.fixture
def quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bootstrap resamples, one catalog, times measured once: tested elsewhere, slow here."""
    monkeypatch.setitem(costs.measure.__kwdefaults__, "rounds", 1)
    monkeypatch.setattr(assembly, "EvaluationSpec", lambda: EvaluationSpec(resamples=100))
    monkeypatch.setattr(evaluate_function, "Catalog", _catalog)


@pytest.fixture(scope="module")
def trained() -> Net:
    """A network that knows the classes; do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        images, labels = made(256, 0)
        for _ in range(40):  # by hand: torch's optimizers take seconds to import
            loss = F.cross_entropy(model(normalized(images)), labels)
            gradients = torch.autograd.grad(loss, [*model.parameters()])
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
    return model
