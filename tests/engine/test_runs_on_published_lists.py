"""A run on stand-ins for OpenOOD's data, as torchvision's files and as OpenOOD's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.openood_standins import write_openood
from helpers.standins import use_standins
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench.storage.run_directory import RunDirectory

SETS = ("openood-cifar10", "openood-cifar100-ood", "openood-svhn")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *, torchvision: bool) -> oodbench.Run:
    write_openood(folder, SETS, train=60, validation=20, test=20, torchvision=torchvision)
    use_standins(folder, monkeypatch)
    monkeypatch.setenv("OODBENCH_CACHE", str(folder / "cache"))
    ood = "{near: [openood-cifar100-ood], far: [openood-svhn]}"
    training = "{epochs: 6, batch_size: 20, learning_rate: 0.1}"
    methods = {"MSP": "baseline", "KNN": "knn"}
    text = tiny_benchmark(methods, ood=ood, training=training, tuning="{protocol: none}")
    path = folder / "tiny.yaml"
    path.write_text(text.replace("id: digits", "id: openood-cifar10"))
    return oodbench.run(path, out=folder / "run", seeds=1, device="cpu")


@pytest.mark.filterwarnings("ignore:data set 'openood-svhn', split 'test'. read from the original")
def test_original_arrays_give_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of CIFAR; OpenOOD's JPEG files of SVHN are other images, and the run says so."""
    values = {}
    for torchvision in (False, True):
        folder = tmp_path / str(torchvision)
        with monkeypatch.context() as patch:
            found = run(folder, patch, torchvision=torchvision)
        values[torchvision] = {
            (record.method, record.ood_dataset): record.value
            for record in found.records
            if record.metric in ("auroc", "id_accuracy")
        }
        notes = RunDirectory(folder / "run").read_description().data_notes
        assert list(notes) == (["openood-svhn"] if torchvision else [])
        board = found.leaderboard().to_markdown()
        assert ("read from the original arrays; OpenOOD stored" in board) == torchvision
    assert values[False]["MSP", None] > 0.5, "classes are mixed up"
    assert values[True].keys() == values[False].keys()
    for key, value in values[True].items():
        assert (key[1] == "openood-svhn") or value == values[False][key]
