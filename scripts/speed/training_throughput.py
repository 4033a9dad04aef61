"""Training: images per second of oodbench's loop and of the loop a user would write.

    python scripts/speed/training_throughput.py [--network resnet20] [--batch 128] [--seconds 20]

Both train the same network on the same 32x32 images with crops and flips, by SGD with Nesterov
momentum. The plain loop: a torchvision-style data set of PIL images with torchvision's transforms,
a shuffling DataLoader (with and without two workers), float32, default memory layout. Ours: images
resident, augmented as a batch, channels_last, bfloat16 autocast. Loops take turns, in short
stretches, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import argparse

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from oodbench import models
from oodbench.data import ImageArray
from oodbench.specs import ModelSpec
from oodbench.training.distributed import Group
from oodbench.training.loop import Training

IMAGES = 5000


class Photographs(Dataset):
    """As torchvision's CIFAR10: bytes in memory, a PIL image and a label for each index."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images.transpose(0, 2, 3, 1).copy(), labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(image), int(self.labels[index])


def plain(data: ImageArray, network: str, batch: int, workers: int) -> Iterator[int]:
    """The usual loop; gives the number of images of each step."""
    model = models.create(network, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loader = DataLoader(
        Photographs(data.images, data.labels),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    model.train()
    while True:
        for images, labels in loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # a user prints it
            yield len(labels)


def ours(data: ImageArray, network: str, batch: int, precision: str) -> Iterator[int]:
    """oodbench's steps, as `oodbench.training.loop.train` makes them."""
    spec = ModelSpec.model_validate(
        {
            "network": network,
            "head": "softmax",
            "training": {"recipe": "quick", "batch_size": batch, "precision": precision},
        }
    )
    training = Training(spec, 10, data, 0, torch.device("cpu"), Group())
    training.network.train()
    right = torch.zeros(2, dtype=torch.float64)
    while True:
        order = torch.randperm(len(data), generator=training.generator)
        for rows in order.split(batch)[: len(data) // batch]:
            loss = training.step(rows, right)
            assert torch.isfinite(loss)
            yield len(rows)


def rates(loops: dict[str, Callable[[], Iterator[int]]], seconds: float) -> dict[str, list[float]]:
    """Images per second of each loop, in several stretches, in turns."""
    running = {name: loop() for name, loop in loops.items()}
    for loop in running.values():
        for _ in itertools.islice(loop, 3):  # warm up
            pass
    measured: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(5):
        for name, loop in running.items():
            started, images = time.perf_counter(), 0
            while time.perf_counter() - started < seconds / 5:
                images += next(loop)
            measured[name].append(images / (time.perf_counter() - started))
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each loop")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    data = ImageArray(
        generator.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8),
        generator.integers(0, 10, IMAGES),
    )
    name, batch = options.network, options.batch
    loops: dict[str, Callable[[], Iterator[int]]] = {
        "plain loop, no workers": lambda: plain(data, name, batch, 0),
        "plain loop, 2 workers": lambda: plain(data, name, batch, 2),
        "oodbench, float32": lambda: ours(data, name, batch, "float32"),
        "oodbench, bfloat16": lambda: ours(data, name, batch, "bfloat16"),
    }
    measured = rates(loops, options.seconds)
    medians = {loop: statistics.median(values) for loop, values in measured.items()}
    best = max(rate for loop, rate in medians.items() if loop.startswith("plain"))
    print(f"{name}, batch {batch}, {torch.get_num_threads()} threads; median of 5 stretches")
    for loop, rate in medians.items():
        low, high = min(measured[loop]), max(measured[loop])
        print(
            f"{loop:24} {rate:7.0f} images/s ({low:.0f} to {high:.0f})"
            f"   {rate / best:5.2f} x the better plain loop"
        )


if __name__ == "__main__":
    main()
