"""The CIFAR-10 benchmark in OpenOOD's folders, and with covariate shift."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.openood_runs import CIFAR, SIZES, check, checkpoints, small, standins

import oodbench

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

SETS = ("cifar10", "cifar10c", "cifar100-ood", "tin-cifar10", "places365-cifar10", *CIFAR)


def test_cifar10_in_the_folders_of_openood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = standins(tmp_path, SETS, monkeypatch)
    checkpoints("cifar10", root, zipped=True)
    run = oodbench.run(small(tmp_path, "cifar10"), out=tmp_path / "run", seeds=1, device="cpu")
    check(run, "cifar10")
    assert {r.n_id for r in run.records if r.status == "ok"} == {SIZES["test"]}

    full = oodbench.run(
        "openood-cifar10-fs", out=tmp_path / "fs", seeds=2, methods=["msp", "knn"], device="cpu"
    )
    assert full.complete, full.failures
    assert {tuple(r.csid or ()) for r in full.records} == {("cifar10c",)}
    assert {r.n_id for r in full.records} == {2 * SIZES["test"]}
    assert {r.seed for r in full.records} == {0, 1}
