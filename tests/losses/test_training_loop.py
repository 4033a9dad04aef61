"""The training loop of `Loss` with every head, and `oodbench.models.create`."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import oodbench
from oodbench import models
from oodbench.models.registry import HEADS
from oodbench.testing.small_network import small_images

OPTIONS: dict[str, dict[str, float]] = {"vos": {"queue": 8, "start": 0.5, "samples": 100}}


@pytest.mark.parametrize("head", HEADS)
def test_a_loop_for_every_loss(head: str) -> None:
    data = small_images(48, seed=0)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    others = torch.rand(24, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.create("resnet8", 3, head, in_channels=2)
        criterion = models.create_loss(head, model.head, **OPTIONS.get(head, {}))
    generator, epochs = torch.Generator().manual_seed(0), 4
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.02)
    losses = []
    for epoch in range(epochs):
        criterion.begin_epoch(epoch / epochs, generator)
        for rows in torch.randperm(48, generator=generator).split(24):
            auxiliary = others if criterion.auxiliary else None
            batch, targets = criterion.mix(images[rows], labels[rows], generator, auxiliary)
            loss = criterion(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] > losses[3], "before VOS has its second term"
    assert all(parameter.grad is not None for parameter in criterion.parameters())
    with torch.no_grad():
        logits = model.eval()(images)
        assert logits.shape == (48, 3)
        assert criterion(logits, labels).isfinite()


def test_the_loop_that_the_guide_shows() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "losses.md"
    text = page.read_text(encoding="utf-8")
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "begin_epoch" in block
    )
    model = nn.Sequential(OrderedDict(body=nn.Flatten(), wide=nn.Linear(128, 512)))
    model.add_module("fc", nn.Identity())
    data = small_images(40, seed=0)
    loader = [(torch.from_numpy(data.images), torch.from_numpy(data.labels))]
    names = {"oodbench": oodbench, "torch": torch, "model": model, "loader": loader, "epochs": 2}
    names["generator"] = torch.Generator()
    exec(compile(code, "losses.md", "exec"), names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    assert loss.isfinite()
    assert type(model.get_submodule("fc")) is oodbench.losses.VOSHead
