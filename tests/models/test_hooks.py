"""Hooks on the modules of a network: calls are recorded, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.models.hooks import watched


class Scaled(nn.Module):
    """Multiplies by a number that it may be given by name."""

    def forward(self, x: Tensor, *, by: Tensor) -> Tensor:
        return x * by


class Net(nn.Module):
    """A layer that runs twice, one with a named input, and one of TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scaled = nn.Linear(2, 2), Scaled()
        self.scripted = torch.jit.script(nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.scripted(self.scaled(self.layer(self.layer(x)), by=torch.tensor(2.0)))


def test_calls_are_recorded_in_their_order_with_named_inputs() -> None:
    net, seen = Net(), []

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.append((name, len(inputs)))
        assert module is net.get_submodule(name)
        assert output.shape == (3, 2)

    with watched(net, record, lambda name, module: bool(name)):
        net(torch.rand(3, 2))
    assert seen == [("layer", 1), ("layer", 1), ("scaled", 2)]


def test_hooks_are_removed_also_after_an_error() -> None:
    net = Net()
    with pytest.raises(RuntimeError), watched(net, lambda *_: None, lambda name, module: True):
        net(torch.rand(3, 5))
    assert not any(part._forward_hooks for part in net.modules())
