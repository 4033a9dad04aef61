"""A network and data as users of `oodbench.evaluate` have them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import oodbench
from oodbench import EvaluationResult, UserError

CLASSES = 4
MEAN, STD = (0.4, 0.5), (0.2, 0.25)


class Net(nn.Module):
    """Two stages and a head, with everything that a user's network may have in it."""

    def __init__(self, head: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)  # runs twice
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.fc = head(8, CLASSES)

    def forward(self, images: Tensor) -> Any:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(self.dropout(x.mean(dim=(2, 3))))


def made(count: int, seed: int, *, kind: str = "id") -> tuple[Tensor, Tensor]:
    """Images in [0, 1], of which those of one class resemble each other, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(CLASSES, 2, 6, 6, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.rand(count, 2, 6, 6, generator=generator)
    images = noise if kind == "noise" else 0.3 * centers[labels] + 0.7 * noise
    return (1 - images if kind == "inverted" else images), labels


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(2, 1, 1)) / torch.tensor(STD).view(2, 1, 1)


def pairs(count: int, seed: int, kind: str = "id") -> TensorDataset:
    return TensorDataset(*made(count, seed, kind=kind))


def plainly(data: TensorDataset) -> TensorDataset:
    """The same, normalized by the user."""
    return TensorDataset(normalized(data.tensors[0]), *data.tensors[1:])


def arguments(**others: Any) -> dict[str, Any]:
    """Data in [0, 1] for all that there is; with normalization."""
    given: dict[str, Any] = {
        "id_data": pairs(60, 1),
        "ood_data": {"noise": pairs(50, 2, "noise"), "inverted": pairs(40, 3, "inverted")},
        "fit_data": pairs(256, 0),
        "validation_data": pairs(120, 4),
        "normalization": (MEAN, STD),
        "device": "cpu",  # with a GPU, "auto" is not where `trained` is
    }
    return given | others


def evaluated(model: nn.Module, detectors: Any, **others: Any) -> EvaluationResult:
    return oodbench.evaluate(model, detectors, **arguments(**others))


def refused(model: Any, detectors: Any = ("baseline",), **others: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        evaluated(model, detectors, **others)
    assert "\n" not in caught.value.message
    return caught.value


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a user could notice."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "identity": {name: id(tensor) for name, tensor in tensors.items()},
        "storage": {name: tensor.data_ptr() for name, tensor in tensors.items()},
        "strides": {name: tensor.stride() for name, tensor in tensors.items()},
        "version": {name: tensor._version for name, tensor in tensors.items()},
        "values": {name: tensor.detach().clone().tolist() for name, tensor in tensors.items()},
        "order": [*model.state_dict()],
        "training": {name: part.training for name, part in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(part, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            ]
            for name, part in model.named_modules()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {
            name: None if p.grad is None else id(p.grad) for name, p in model.named_parameters()
        },
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
    }


def users(trained: Net) -> Net:
    """A network in the middle of its training: with gradients, half of it frozen, evaluating."""
    model = copy.deepcopy(trained).train()
    F.cross_entropy(model(made(8, 0)[0]), made(8, 0)[1]).backward()
    model.bn2.eval()
    model.conv1.requires_grad_(False)
    model.fc.register_forward_hook(lambda module, inputs, output: None)
    return model


ALL = ["baseline", "odin", "mahalanobis"]
