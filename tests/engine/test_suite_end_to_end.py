"""The whole suite `dismax-paper` on stand-ins: their archives are unpacked, read, trained on,
attacked, scored, and laid out beside the published tables.

The networks are the real ones with fewer and narrower layers; the real ones would take an hour.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.standins import use_standins, write_standins

from oodbench import api
from oodbench.engine import model_evaluation
from oodbench.engine.tuning_data import TuningData
from oodbench.models import registry
from oodbench.specs import TuningSpec

SUITE = """\
extends: dismax-paper
name: on-standins
summary: The suite on stand-ins
training: {epochs: 12, batch_size: 20, learning_rate: 0.1, schedule: one_cycle, precision: float32}
suffix: small
"""
PAPER = ["SoftMax+MaxProb", "SoftMax+Entropy", "DisMax+Entropy", "SoftMax+ODIN"]
PAPER += ["SoftMax+Mahalanobis"]
OOD = {"cifar10": "svhn", "cifar100": "svhn", "svhn": "cifar10"}
"""ID set -> the OOD set besides the two resized ones."""


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = dict(registry.NETWORKS)
    densenet = networks["densenet_bc100"]
    networks["densenet_bc100"] = replace(densenet, options={"depth": 10, "growth": 6})
    networks["resnet34"] = networks["resnet8"]
    monkeypatch.setattr("oodbench.models.NETWORKS", networks)


@pytest.fixture
def strong_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins' classes are far apart: the attack of the benchmarks would fool too few."""
    original = model_evaluation.adversarial_data

    def stronger(runner: Any, data: Any, spec: TuningSpec, seed: int, *, name: str) -> TuningData:
        changed = spec.model_copy(update={"fgsm_step": 0.3, "min_adversarial": 12})
        return original(runner, data, changed, seed, name=name)

    monkeypatch.setattr(model_evaluation, "adversarial_data", stronger)


@pytest.mark.full
@pytest.mark.usefixtures("small_networks", "strong_attack")
def test_every_table_is_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_standins(write_standins(tmp_path / "standins", train=120, validation=80), monkeypatch)
    suite = tmp_path / "on-standins.yaml"
    suite.write_text(SUITE)
    run = api.run_suite(suite, out=tmp_path / "run", methods=PAPER, seeds=1)
    assert run.complete, run.failures

    folders = {folder.name for folder in run.folder.iterdir() if (folder / "run.json").exists()}
    nets, sets = ("densenet", "resnet"), ("cifar10", "cifar100", "svhn")
    assert folders == {f"dismax-{net}-{each}-small" for net in nets for each in sets}
    for name, member in run.members.items():
        id_set = name.split("-")[2]
        records = [record for record in member.records if record.metric == "auroc"]
        assert {record.status for record in records} == {"ok"}
        assert {record.method for record in records} == set(PAPER)
        assert {record.ood_dataset for record in records} == {
            "tin_resize",
            "lsun_resize",
            OOD[id_set],
        }
        assert {record.n_ood for record in records} == {40}
        assert {(t.model, t.seed, t.epoch) for t in member.training} == {
            (model, seed, epoch)
            for model in ("SoftMax", "DisMax")
            for seed in (0,)
            for epoch in range(1, 13)
        }

    tables = {table.name: table for table in run.comparison().tables}
    sizes = {name: len(table.cells) for name, table in tables.items()}
    # Rows x measures x columns of the paper.
    assert sizes["table-2"] == 18 * 3 * 3
    assert sizes["table-3"] == 18 * 2 * 3
    assert sizes["table-4"] == 6 * 4 * 2
    for table in tables.values():
        for place, cell in table.cells.items():
            assert cell.measured is not None, (table.name, place)
            assert cell.measured.seeds == 1
    for file in ("md", "csv", "json", "html"):
        text = (run.folder / f"comparison.{file}").read_text()
        for title in ("Table 2", "Table 3", "Table 4"):
            assert file in ("csv", "json") or title in text, (file, title)
    assert (run.folder / "figures").is_dir()
    again = api.run_suite(suite, out=tmp_path / "run", methods=PAPER, seeds=1, resume=True)
    assert again.complete
