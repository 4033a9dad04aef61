"""Models in `oodbench.evaluate` that give no gradient for their input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.user_sequence import CLASSES, body, classifier, data, evaluated, images, pooling
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench

pytestmark = pytest.mark.usefixtures("quick_evaluation")


class Probe(nn.Module):
    """A linear layer on a backbone that is run in some way without gradients."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(body(), pooling())
        self.fc = nn.Linear(12, CLASSES)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.run(self.backbone, x))


def _in_inference_mode(backbone: nn.Module, x: Tensor) -> Any:
    with torch.inference_mode():
        return backbone(x)


def _in_numpy(backbone: nn.Module, x: Tensor) -> Tensor:
    return torch.from_numpy(backbone(x).detach().numpy())


WITHOUT_GRADIENTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "no_grad": torch.no_grad()(lambda backbone, x: backbone(x)),
    "inference mode": _in_inference_mode,
    "detached features": lambda backbone, x: backbone(x).detach(),
    "detached images": lambda backbone, x: backbone(x.detach()),
    "through numpy": _in_numpy,
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_without_gradients_only_what_needs_them_is_left_out(name: str) -> None:
    torch.manual_seed(0)
    model = Probe(WITHOUT_GRADIENTS[name])
    with torch.no_grad():
        labels = model(images(48, 3)).argmax(1)
    others = data(
        validation_data=TensorDataset(images(48, 3), labels),
        normalization=(0.5, 0.25),
    )
    names = ["energy", "knn", "vim", "gradnorm", "odin", "mahalanobis"]
    found = oodbench.evaluate(model, names, **others)
    assert list(found.scores) == ["energy", "knn", "vim", "gradnorm"]
    assert found.failed == {}
    for label in ("odin", "mahalanobis"):
        assert "gradient" in found.skipped[label]
        assert "requires_grad_(False)" in found.skipped[label], "what to do"


SLOPE = "the gradient of the logits with respect to the images is zero"


@pytest.mark.parametrize(
    "act",
    [
        lambda backbone, x: backbone((255 * x).round() / 255),
        lambda backbone, x: backbone((x > 0.5).float() + 0 * x),
        lambda backbone, x: backbone(x) * 0 + backbone(x).detach(),
    ],
    ids=["rounded", "steps", "times zero"],
)
def test_a_gradient_that_is_zero_for_noise_too_is_noted(act: Any) -> None:
    found = evaluated(Probe(act), ["odin", "energy"])
    assert list(found.scores) == ["odin", "energy"]
    assert [note.split(":")[0] for note in found.notes if SLOPE in note] == ["odin"]


class Paired(nn.Module):
    """Logits of two classes whose sum is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.fc = body(), pooling(), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(self.pool(self.body(x)))
        return torch.cat([-z, z], dim=1)


class Centered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = classifier()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inside(x)
        return logits - logits.mean(dim=1, keepdim=True)


def dead_at_black() -> nn.Module:
    """Its rectifiers are at zero for black images, where no logit has a slope."""
    model = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), nn.ReLU(), pooling())
    return nn.Sequential(*model, nn.Linear(12, CLASSES))


@pytest.mark.parametrize("make", [Paired, Centered, dead_at_black])
def test_a_gradient_whose_sum_or_first_images_are_zero_is_one(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    black = images(40, 3)
    black[:8] = 0
    with torch.no_grad():
        labels = model(images(48, 5)).argmax(1)
    found = oodbench.evaluate(
        model,
        ["odin", "mahalanobis", "energy"],
        id_data=TensorDataset(black),
        ood_data={"o": TensorDataset(images(20, 4))},
        fit_data=TensorDataset(images(48, 5), labels),
        validation_data=TensorDataset(images(48, 5), labels),
        normalization=(0.0, 1.0),
        costs=False,
    )
    assert found.skipped == {}
    assert "odin" in found.scores
    assert "gradient" not in found.failed.get("mahalanobis", "")
    assert not any(SLOPE in note for note in found.notes)


def test_a_forward_under_no_grad() -> None:
    class Decorated(Probe):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)

    found = evaluated(Decorated(lambda backbone, x: backbone(x)), ["odin", "energy"])
    assert list(found.scores) == ["energy"]
    assert "gradient" in found.skipped["odin"]
