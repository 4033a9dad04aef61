"""Make what the tutorial "Your model and folders" begins with: class folders and a checkpoint.

python examples/own_images/make_images.py FOLDER

The images are the 8x8 digits of scikit-learn. The network is trained on the digits 0 to 7; the
digits 8 and 9 are near-OOD images, noise is far-OOD. With images and a checkpoint of your own, you
do not need this script.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import oodbench

MEAN, STD = 0.3, 0.38  # of the training images, in [0, 1]
KNOWN = 8


def write_images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write all folders; return training images [N, 3, 8, 8] in [0, 1] and their labels [N]."""
    digits = load_digits()
    training, labels = [], []
    for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels = (values * 255 / 16).astype(np.uint8)
        split = "train" if number % 10 < 5 else "validation" if number % 10 < 7 else "test"
        known = label < KNOWN
        save(folder / split / str(label) if known else folder / "new-digits", number, pixels)
        if known and split == "train":
            training.append(pixels)
            labels.append(label)
    generator = np.random.default_rng(0)
    for number in range(200):
        save(folder / "noise", number, generator.integers(0, 256, (8, 8), dtype=np.uint8))
    gray = torch.from_numpy(np.stack(training)).float()[:, None] / 255
    return gray.expand(-1, 3, -1, -1), torch.tensor(np.array(labels))


def save(folder: Path, number: int, pixels: np.ndarray) -> None:
    """Write one gray image."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:04}.png")


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A small network, trained for some seconds."""
    torch.manual_seed(0)
    network = oodbench.models.create("resnet8", num_classes=KNOWN)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(10):
        for chosen in torch.randperm(len(images)).split(64):
            logits = network((images[chosen] - MEAN) / STD)
            loss = nn.functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def main() -> None:
    """Write the folders and `weights.safetensors`."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    network = train(*write_images(folder))
    save_file(network.state_dict(), folder / "weights.safetensors")
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    main()
