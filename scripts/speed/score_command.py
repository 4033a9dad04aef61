"""What `oodbench score` costs beside a forward pass: `python scripts/speed/score_command.py`.

Writes JPEG files, fits a detector on a network with random weights (speed does not depend on them),
and scores the files in turns in two ways, in one run: with the command, in this process, lines
written to a file; and with a bare loop over a DataLoader with as many workers, whose Dataset opens,
resizes and crops as the command does, and which keeps the largest logit. Prints images per second
and the ratio. The command decodes, normalizes, scores, decides and writes. Its start, which is
loading and checking the artifact and does not grow with the number of images, is timed with a
single image; the ratio is given with it and without it. Starting Python counts for neither.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from oodbench import models
from oodbench.cli.main import app
from oodbench.data.decoding_workers import worker_count
from oodbench.deploy.deployed_model import Preparation
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.engine.device import find_device, full_precision
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog
from oodbench.process import prepare_process
from oodbench.specs import ModelSpec, ResizeSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000


class Files(Dataset[Tensor]):
    """Image files as the command prepares them, uint8."""

    def __init__(self, paths: list[Path], side: int) -> None:
        self._paths = paths
        self._transform = Compose([Resize(side * 8 // 7), CenterCrop(side), PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            pixels: Tensor = self._transform(image.convert("RGB"))
        return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--network", default="torchvision:resnet18")
    parser.add_argument("--detector", default="energy", help="one without fit")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=worker_count())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    prepare_process()
    device = find_device(given.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = written(folder / "images", given.images)
        classifier = network(given.network, given.side).to(device).eval()
        save(classifier, given, folder)

        def command(*places: Path) -> None:
            arguments = ["score", str(folder / "artifact"), *map(str, places)]
            arguments += ["--out", str(folder / "scores.csv"), "--device", given.device]
            arguments += ["--batch-size", str(given.batch_size), "--workers", str(given.workers)]
            code = app(args=arguments, standalone_mode=False, prog_name="oodbench")
            wanted = sum(len(paths) if place.is_dir() else 1 for place in places)
            lines = (folder / "scores.csv").read_text().count("\n") - 1
            if code or lines != wanted:
                sys.exit(f"oodbench score: exit code {code}, {lines} of {wanted} images")

        def bare() -> None:
            loader = DataLoader(
                Files(paths, given.side), given.batch_size, num_workers=given.workers
            )
            kept = []
            with torch.inference_mode(), full_precision(device):
                for images in loader:
                    logits = classifier(images.to(device).div(255))
                    kept.append(logits.amax(dim=1).cpu())
            assert len(torch.cat(kept)) == len(paths)

        ways = {
            "bare loop": bare,
            "oodbench score": lambda: command(folder / "images"),
            "its start": lambda: command(paths[0]),
        }
        report(given, device, ways)


def report(
    given: argparse.Namespace, device: torch.device, ways: dict[str, Callable[[], None]]
) -> None:
    """Take turns, and print the rates."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - started)
    bare, command, start = times.values()
    print(
        f"{given.images} JPEG files of 500x375, {given.network} at {given.side}, {given.detector}, "
        f"batches of {given.batch_size}, {given.workers} workers, {device}; medians of "
        f"{given.rounds} rounds in turns"
    )
    for name, seconds in (("bare loop", bare), ("oodbench score", command)):
        rates = sorted(given.images / each for each in seconds)
        print(
            f"{name:>18}: {statistics.median(rates):8.1f} images/s "
            f"({rates[0]:.1f} to {rates[-1]:.1f})"
        )
    print(f"{'its start':>18}: {statistics.median(start):8.2f} s")
    for name, less in (("ratio", [0.0] * len(start)), ("ratio, no start", start)):
        ratios = [b / (c - s) for b, c, s in zip(bare, command, less, strict=True)]
        shown = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{name:>18}: {shown[0]:8.2f} ({shown[1]:.2f} to {shown[2]:.2f})")


def network(name: str, side: int) -> Classifier:
    """A classifier with random weights."""
    torch.manual_seed(0)
    made = models.create(name, CLASSES, "softmax", 3)
    classifier = Classifier(made, MEAN, STD).eval()
    with torch.inference_mode():
        classifier(torch.zeros(1, 3, side, side))
    return classifier


def save(classifier: Classifier, given: argparse.Namespace, folder: Path) -> None:
    """The artifact, with a threshold of noise."""
    spec = ModelSpec.model_validate(
        {
            "network": given.network,
            "head": "softmax",
            "training": {"epochs": 1, "batch_size": 1, "learning_rate": 0.1},
        }
    )
    shape = (3, given.side, given.side)
    fitted = FittedDetector.of_classifier(
        given.detector,
        Catalog().load_detector(given.detector),
        classifier,
        spec,
        Preparation(shape, ResizeSpec(short_side=given.side * 8 // 7)),
        num_classes=CLASSES,
    )
    fitted.calibrate(torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)))
    fitted.save(folder / "artifact")


def written(folder: Path, count: int) -> list[Path]:
    """JPEG files of the usual size of ImageNet's, of smooth noise."""
    folder.mkdir()
    generator, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        paths.append(folder / f"{number:06}.jpg")
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


if __name__ == "__main__":
    main()
