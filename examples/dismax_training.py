"""Train with the DisMax loss in a loop of your own, and see what it changes for OOD detection.

python examples/dismax_training.py

The images are the 8x8 digits of scikit-learn: 0 to 7 are in-distribution, 8 and 9 are not. Two
networks are trained, one with cross-entropy and one with the DisMax head and loss; nothing else
differs. Takes some seconds on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodbench

KNOWN = 8


def data() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Training images, ID test images, and images of unknown digits; all in [0, 1]."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    known, even = labels < KNOWN, torch.arange(len(labels)) % 2 == 0
    return (
        TensorDataset(images[known & even], labels[known & even]),
        TensorDataset(images[known & ~even], labels[known & ~even]),
        TensorDataset(images[~known]),
    )


def network() -> nn.Sequential:
    """A small convolutional network that ends in the linear layer `fc`."""
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(
                *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
                *(nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            ),
            fc=nn.Linear(64, KNOWN),
        )
    )


def train(model: nn.Module, criterion: nn.Module, images: TensorDataset) -> nn.Module:
    """The usual loop: it does not know which loss it has."""
    loader = DataLoader(
        images, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(15):
        for batch, labels in loader:
            loss = criterion(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train both networks and put them on one leaderboard."""
    training, test, unknown = data()
    torch.manual_seed(0)
    softmax = train(network(), nn.CrossEntropyLoss(), training)

    torch.manual_seed(0)
    model = network()
    model.fc, criterion = oodbench.losses.DisMaxHead(64, KNOWN), oodbench.losses.DisMaxLoss()
    dismax = train(model, criterion, training)

    result = oodbench.evaluate(
        {"SoftMax": softmax, "DisMax": dismax},
        ["msp", "entropy"],
        id_data=test,
        ood_data={"digits 8 and 9": unknown},
        fit_data=training,
        progress=False,
    )
    print(result)


if __name__ == "__main__":
    main()
