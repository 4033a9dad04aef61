"""A small network that the engine runs, with images of three classes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.data import ImageArray
from oodbench.losses import DisMax2022Head, SoftMaxHead
from oodbench.models.classifier import Classifier, Network
from oodbench.testing.planted import Kind

CLASSES = 3


class SmallNetwork(Network):
    """Two convolutions with a tap after each, mean over space, head; images of 2 channels.

    Args:
        kind: of the head.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.head: nn.Module
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 24, 3, padding=1, stride=2), nn.ReLU())
        self.tap_names = ("first", "second")
        self.head = {"linear": SoftMaxHead, "dismax": DisMax2022Head}[kind](24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


def small_images(count: int, seed: int) -> ImageArray:
    """Images [N, 2, 8, 8] of three classes; those of one class resemble each other."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).uniform(0.1, 0.9, (CLASSES, 2, 8, 8))
    labels = np.arange(count) % CLASSES
    images = centers[labels] + generator.normal(0, 0.1, (count, 2, 8, 8))
    return ImageArray(images.clip(0, 1).astype(np.float32), labels)


@functools.cache
def small_classifier(kind: Kind) -> Classifier:
    """A network of random convolutions whose last layer tells the classes of `small_images`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallNetwork(kind)
    classifier = Classifier(network, mean=(0.5, 0.5), std=(0.25, 0.25)).eval()
    data = small_images(300, seed=0)
    with torch.no_grad():
        images = classifier.normalized(torch.from_numpy(data.images))
        features = network.second(network.first(images)).mean(dim=(2, 3))
        labels = torch.from_numpy(data.labels)
        means = torch.stack([features[labels == c].mean(dim=0) for c in range(CLASSES)])
        if kind == "dismax":
            network.head.get_parameter("prototypes").copy_(means)
        else:  # the linear rule for classes with these means and one covariance
            centered = features - means[labels]
            covariance = centered.T @ centered / len(centered) + 1e-4 * torch.eye(24)
            weight = 0.2 * torch.linalg.solve(covariance, means.T).T
            network.head.get_parameter("weight").copy_(weight)
            network.head.get_parameter("bias").copy_(-0.5 * (weight * means).sum(dim=1))
    return classifier


def state_of(module: nn.Module) -> dict[str, Any]:
    """Weights, buffers and their addresses, modes, frozen parameters, gradients and hooks."""
    state: dict[str, Any] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state[name] = tensor.detach().clone()
        state[f"the address of {name}"] = tensor.data_ptr()
        state[f"requires_grad of {name}"] = tensor.requires_grad
        state[f"whether there is a gradient of {name}"] = tensor.grad is not None
    for name, part in module.named_modules():
        state[f"the mode of {name}"] = part.training
        state[f"the class of {name}"] = type(part)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            state[f"{hooks} of {name}"] = len(getattr(part, hooks))
    return state
