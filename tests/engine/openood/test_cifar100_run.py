"""The CIFAR-100 benchmark in torchvision's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.openood_runs import CIFAR, check, checkpoints, small, standins

import oodbench

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

SETS = ("cifar100", "cifar10-ood", "tin-cifar100", "places365-cifar100", *CIFAR)


def test_cifar100_in_the_files_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins(tmp_path, SETS, monkeypatch, torchvision=True)
    assert not (root / "images_classic/cifar100").exists()
    checkpoints("cifar100", root, zipped=False)
    run = oodbench.run(small(tmp_path, "cifar100"), out=tmp_path / "run", seeds=1, device="cpu")
    check(run, "cifar100")
