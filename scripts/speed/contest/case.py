"""Images and a trained network, which both sides get."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import oodbench
from oodbench.data import ImageArray
from oodbench.models.classifier import Classifier
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train

CLASSES = 10
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
VALIDATION = 5
"""One in so many of the images to fit on is a validation image, not trained on."""


@dataclass(frozen=True)
class Case:
    """What both sides get.

    Attributes:
        classifier: trained, in channels_last order, as training gives it.
        splits: "train", "validation", "id", "ood" -> images as bytes.
        batch: images in a batch.
    """

    classifier: Classifier
    splits: Mapping[str, ImageArray]
    batch: int

    @property
    def count(self) -> int:
        """Images in all splits."""
        return sum(map(len, self.splits.values()))


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write images and a trained network to a folder."""
    counts = {
        "train": options.fit - options.fit // VALIDATION,
        "validation": options.fit // VALIDATION,
    }
    counts["id"] = options.test
    if options.images is None:
        images, labels = stripes(sum(counts.values()), seed=0)
    else:
        images, labels = photographs(options.images, sum(counts.values()))
    start = 0
    for split, count in counts.items():
        np.save(folder / f"{split}.npy", images[start : start + count])
        np.save(folder / f"{split}_labels.npy", labels[start : start + count])
        start += count
    np.save(folder / "ood.npy", stripes(options.test, seed=1)[0])
    recipe = TrainingSpec(epochs=3, batch_size=64, learning_rate=0.05, weight_decay=5e-4)
    spec = ModelSpec(network="resnet20", head="softmax", training=recipe)
    data = ImageArray(images[:3000], labels[:3000])
    classifier, history = train(spec, CLASSES, data, seed=0, device=torch.device("cpu"))
    accuracy = f"{100 * history[-1].accuracy:.0f} %"
    print(f"trained for {len(history)} epochs: training accuracy {accuracy}", flush=True)
    torch.save(classifier.state_dict(), folder / "weights.pt")


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32] and labels: a class has a color and a pattern, under noise."""
    looks, generator = np.random.default_rng([7, seed]), np.random.default_rng(seed)
    colors = looks.uniform(60, 195, (CLASSES, 3))
    waves = looks.uniform(-0.9, 0.9, (CLASSES, 2))
    rows, columns = np.mgrid[:32, :32]
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for index, label in enumerate(labels):
        angle = waves[label, 0] * rows + waves[label, 1] * columns + generator.uniform(0, 6)
        noise = generator.normal(0, 30, (3, 32, 32))
        image = colors[label][:, None, None] + 40 * np.sin(angle) + noise
        images[index] = image.clip(0, 255)
    return images, labels


def photographs(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each folder in a folder, made 32x32, in turns, and their labels."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())[:CLASSES]
    if len(classes) < CLASSES:
        sys.exit(f"{folder}: expected {CLASSES} folders of images, found {len(classes)}")
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
    files = [
        sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
        for place in classes
    ]
    chosen = [(number % CLASSES, number // CLASSES) for number in range(count)]
    if min(map(len, files)) <= chosen[-1][1]:
        sys.exit(f"{folder}: needs {chosen[-1][1] + 1} images of each class for {count} in all")
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for row, (label, index) in enumerate(chosen):
        with Image.open(files[label][index]) as image:
            images[row] = np.asarray(image.convert("RGB").resize((32, 32))).transpose(2, 0, 1)
    return images, np.array([label for label, _ in chosen])


def load(folder: Path, batch: int) -> Case:
    """What `prepare` wrote."""
    classifier = Classifier(oodbench.models.create("resnet20", num_classes=CLASSES), MEAN, STD)
    classifier.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    splits = {
        split: ImageArray(
            np.load(folder / f"{split}.npy"),
            np.load(folder / f"{split}_labels.npy") if split != "ood" else None,
        )
        for split in ("train", "validation", "id", "ood")
    }
    return Case(classifier.eval().to(memory_format=torch.channels_last), splits, batch)
