"""The training loop of `Loss` with every head, and `oodbench.models.create`."""

from __future__ import annotations

import pytest
import torch

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
