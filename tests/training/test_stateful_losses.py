"""Losses with state, auxiliary images or a second head, through training, runs and the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import oodbench
from oodbench.data import ImageArray
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.errors import UserError
from oodbench.planning.needed_files import needed_files
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.specs import AugmentSpec, AuxiliarySpec, ModelSpec, TrainingSpec
from oodbench.training.augmentation import Draws, augment
from oodbench.training.auxiliary_images import AuxiliaryImages
from oodbench.training.checkpoints import CheckpointKey
from oodbench.training.loop import train
from oodbench.training.state import TrainingState
from oodbench.training.trained_models import ModelStore
from tests.helpers.commands import Command

Make = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))


# --- training ------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "oe": {"auxiliary": AuxiliarySpec(dataset="others")},
    "vos": {"loss_options": {"queue": 5, "start": 0.25, "samples": 100}},
    "rotpred": {},
}


def model(head: str, **changes: Any) -> ModelSpec:
    values = {"epochs": 4, "batch_size": 64, "learning_rate": 0.1, "augment": {"crop_padding": 1}}
    recipe = TrainingSpec.model_validate({**values, **changes})
    spec = ModelSpec(network="resnet8", head=head, training=recipe)
    return spec.model_copy(update=CHANGES.get(head, {}))


class StoppedError(Exception):
    """Raised where a training is stopped."""


@pytest.mark.parametrize(
    ("head", "precision"), [*((h, "float32") for h in CHANGES), ("vos", "bfloat16")]
)
def test_stopped_in_an_epoch_and_taken_up_ends_with_the_same_weights(
    digits: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, precision: str
) -> None:
    data, others = digits("train", 120), digits("test", 50)
    spec = model(head, precision=precision, batch_size=30)
    undisturbed, history = train(spec, 10, data, seed=0, device=CPU, auxiliary=others)

    def state() -> TrainingState:
        return TrainingState(tmp_path / "x.training", "address", interval=0)

    steps = 0

    def stopping(images: Tensor, spec: AugmentSpec, draws: Draws) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 11:  # in the middle of the third epoch of four steps
            raise StoppedError
        return augment(images, spec, draws)

    with monkeypatch.context() as patch:
        patch.setattr("oodbench.training.loop.augment", stopping)
        with pytest.raises(StoppedError):
            train(spec, 10, data, seed=0, device=CPU, state=state(), auxiliary=others)
    resumed, whole = train(spec, 10, data, seed=0, device=CPU, state=state(), auxiliary=others)
    assert whole == history
    torch.testing.assert_close(
        dict(resumed.state_dict()), dict(undisturbed.state_dict()), rtol=0, atol=0
    )


def test_the_state_of_a_training_has_queues_and_energy_weights(
    digits: Make, tmp_path: Path
) -> None:
    state = TrainingState(tmp_path / "x.training", "address", interval=0)
    train(model("vos", epochs=2), 10, digits("train", 120), seed=0, device=CPU, state=state)
    with safe_open(state.path, framework="pt") as file:
        seen = file.get_tensor("loss_weights.seen")
        queues = file.get_tensor("loss_weights.queues")
        momentum = file.get_tensor("loss_momentum.class_weights")
    assert int(seen.sum()) == 240
    assert queues.shape == (10, 5, 64)
    assert queues.abs().sum(dim=2).min() > 0
    assert momentum.abs().min() > 0


def test_the_second_term_of_vos_changes_the_weights(digits: Make) -> None:
    data, weights = digits("train", 120), []
    for start in (0.25, 0.75, 0.9):
        spec = model("vos").model_copy(update={"loss_options": {"queue": 5, "start": start}})
        classifier, _ = train(spec, 10, data, seed=0, device=CPU)
        weights.append(classifier.network.head.weight)
    plain, _ = train(model("softmax"), 10, data, seed=0, device=CPU)
    assert plain.network.head is not None
    assert torch.equal(weights[2], plain.network.head.weight), "never begun: cross-entropy"
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[1], weights[2])


def test_heads_see_the_same_order_of_images(digits: Make) -> None:
    """With a weight of zero for its further terms, a loss trains what cross-entropy trains."""
    data = digits("train", 200)
    trained = []
    for head in ("softmax", "vos"):
        options = {"weight": 0.0, "queue": 5, "start": 0.0} if head == "vos" else {}
        spec = model(head, epochs=2, weight_decay=0).model_copy(update={"loss_options": options})
        classifier, _ = train(spec, 10, data, seed=0, device=CPU)
        trained.append(dict(classifier.state_dict()))
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)


def test_outlier_exposure_makes_auxiliary_images_uniform(digits: Make) -> None:
    data, noise = digits("train", 300), np.random.default_rng(0).random((100, 1, 8, 8))
    others = ImageArray(noise.astype(np.float32), None)
    largest = []
    for head in ("softmax", "oe"):
        spec = model(head, batch_size=32)
        classifier, _ = train(spec, 10, data, seed=0, device=CPU, auxiliary=others)
        with torch.no_grad():
            p = classifier(torch.from_numpy(others.images)).softmax(dim=1)
        largest.append(p.amax(dim=1).mean().item())
    assert largest[1] < largest[0] - 0.1


def test_auxiliary_images_are_needed_and_of_one_shape(digits: Make) -> None:
    data = digits("train", 70)
    with pytest.raises(UserError, match="head 'oe' needs auxiliary images"):
        train(model("oe"), 10, data, seed=0, device=CPU)
    wide = ImageArray(np.zeros((5, 1, 8, 9), dtype=np.uint8), None)
    with pytest.raises(UserError, match=r"'others'\) have shape 1x8x9, the training images 1x8x8"):
        train(model("oe"), 10, data, seed=0, device=CPU, auxiliary=wide)


def test_auxiliary_batches_are_seeded_and_shared_among_processes() -> None:
    images = torch.arange(7.0).reshape(7, 1, 1, 1)
    spec = AugmentSpec()

    def drawn(mine: slice, seed: int = 0, epoch: int = 1) -> list[float]:
        source = AuxiliaryImages(images, 2, seed)
        source.begin_epoch(epoch)
        return [v for _ in range(3) for v in source.batch(5, mine, spec).flatten().tolist()]

    whole = drawn(slice(0, 5))
    assert len(whole) == 30
    assert sorted(whole[:7]) == sorted(whole[7:14]) == [*range(7)], "each once before one again"
    assert whole == drawn(slice(0, 5))
    assert whole != drawn(slice(0, 5), seed=1)
    assert whole != drawn(slice(0, 5), epoch=2)
    first, second = drawn(slice(0, 3)), drawn(slice(3, 5))
    joined = [first[6 * i : 6 * i + 6] + second[4 * i : 4 * i + 4] for i in range(3)]
    assert [value for part in joined for value in part] == whole


# --- benchmarks ----------------------------------------------------------------------------------

TRAINED = """\
schema_version: 1
name: trained
version: 1
title: Networks trained for OOD detection
summary: Losses of the literature
id: digits
ood: {near: [letters], far: [gaussian-noise]}
models:
  LogitNorm: &model
    network: resnet8
    head: logitnorm
    training: {epochs: 1, batch_size: 32, learning_rate: 0.02}
  T2FNorm: {<<: *model, head: t2fnorm}
  OE: {<<: *model, head: oe, auxiliary: {dataset: photo-patches, split: validation}}
  VOS: {<<: *model, head: vos, loss_options: {queue: 10, start: 0}}
  RotPred: {<<: *model, head: rotpred}
methods:
  LogitNorm+MSP: {model: LogitNorm, detector: baseline}
  T2FNorm+MSP: {model: T2FNorm, detector: baseline}
  OE+MSP: {model: OE, detector: baseline}
  VOS+Energy: {model: VOS, detector: energy}
  RotPred+RotPred: {model: RotPred, detector: rotpred}
reference: OE+MSP
tuning: {protocol: none}
evaluation: {resamples: 100}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "trained.yaml"
    path.write_text(text)
    return str(path)


def test_every_loss_by_one_line_of_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, TRAINED)
    run = oodbench.run(path, out=tmp_path / "run", seeds=1, device="cpu", limit=200)
    assert {record.status for record in run.records} == {"ok"}
    accuracy = {r.model: r.value for r in run.records if r.metric == "id_accuracy"}
    assert len(accuracy) == 5
    passes = {cost.method: cost.forwards_per_image for cost in run.costs}
    assert passes["RotPred+RotPred"] == pytest.approx(4, rel=1e-3)
    assert passes["OE+MSP"] == 1
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    auxiliary = described["benchmark"]["models"]["OE"]["auxiliary"]
    assert auxiliary == {"dataset": "photo-patches", "split": "validation", "per_image": 2}
    assert len(described["checksums"]["data"]["photo-patches"]["validation"]) == 64
    assert "auxiliary" not in described["benchmark"]["models"]["VOS"]
    again = oodbench.run(path, out=tmp_path / "run", seeds=1, device="cpu", limit=200, resume=True)
    assert [record.value for record in again.records] == [record.value for record in run.records]


def test_a_plan_shows_auxiliary_images_and_rotations(tmp_path: Path, command: Command) -> None:
    text = TRAINED + "matrix: {models: [OE], detectors: [rotpred]}\n"
    plan = command("run", write(tmp_path, text), "--dry-run")
    assert plan.code == 0
    assert "auxiliary" in plan.out
    assert "photo-patches" in plan.out
    assert "3 of rotated" in plan.out
    assert "needs a second head for rotations" in plan.out


def test_auxiliary_images_are_data_of_the_benchmark(tmp_path: Path) -> None:
    text = TRAINED.replace("photo-patches, split: validation", "svhn")
    needed = needed_files(Catalog(), write(tmp_path, text))
    assert [spec.name for spec in needed.datasets] == [
        "digits",
        "letters",
        "gaussian-noise",
        "svhn",
    ]
    assert any(file.owners == ("data set 'svhn'",) for file in needed.missing(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dataset: letters", "'letters' is tested as 'letters'"),
        ("dataset: digits", "'digits' is the in-distribution data set"),
        ("dataset: nothing", "there is no dataset 'nothing'"),
        (
            "dataset: photo-patches, split: train",
            "needs the train split of 'photo-patches' for aux",
        ),
        ("dataset: photo-patches, per_image: 0", "per_image"),
        ("split: validation", "dataset"),
    ],
)
def test_auxiliary_images_that_cannot_be_used(
    tmp_path: Path, command: Command, change: str, said: str
) -> None:
    text = TRAINED.replace("dataset: photo-patches, split: validation", change)
    refused = command("run", write(tmp_path, text), "--dry-run")
    assert refused.code == 2
    assert said.lower() in " ".join(refused.err.lower().split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("{<<: *model, head: oe, ", "{<<: *model, head: vos, "), "takes no auxiliary images"),
        (
            (", auxiliary: {dataset: photo-patches, split: validation}", ""),
            "needs auxiliary images, and none are named",
        ),
    ],
)
def test_auxiliary_images_belong_to_the_loss(
    tmp_path: Path, command: Command, change: tuple[str, str], said: str
) -> None:
    path = write(tmp_path, TRAINED.replace(*change))
    for arguments in (["run", path, "--dry-run"], ["train", path]):
        refused = command(*arguments)
        assert refused.code == 2
        assert said in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("way", "tested"), [("run", "letters"), ("train", "letters"), ("run", "digits")]
)
def test_test_images_among_the_auxiliary_images_are_refused(
    tmp_path: Path, command: Command, way: str, tested: str
) -> None:
    manifests = tmp_path / "data_manifests"
    manifests.mkdir()
    shipped = Catalog().entry("dataset", tested).path.read_text()
    (manifests / "again.yaml").write_text(shipped.replace(f"name: {tested}\n", "name: again\n"))
    text = TRAINED.replace("photo-patches, split: validation", "again, split: test")
    refused = command(way, write(tmp_path, text), "--plugins", str(tmp_path))
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert "600 of the 600 auxiliary images ('again', test) are also test" in said
    assert f"images of '{tested}'" in said
    assert not (tmp_path / "cache" / "checkpoints").exists()


def test_a_loss_without_effect_warns(tmp_path: Path) -> None:
    text = TRAINED.replace("queue: 10, ", "")
    run = oodbench.run(
        write(tmp_path, text),
        out=tmp_path / "run",
        methods=["VOS+Energy"],
        seeds=1,
        device="cpu",
        limit=100,
    )
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    (warning,) = described["warnings"]["training of VOS"]
    assert "draws no virtual outliers" in warning
    assert warning in run.leaderboard().to_markdown().replace("\\", "")


def test_the_address_of_a_checkpoint_has_the_auxiliary_images(tmp_path: Path) -> None:
    catalog, paths = Catalog(), set()
    changes = ("validation", "test", "validation, per_image: 1")
    for change in changes:
        text = TRAINED.replace("split: validation", f"split: {change}")
        benchmark = catalog.benchmark(write(tmp_path, text))
        names = (benchmark.id, "photo-patches")
        data = LoadedSplits({name: catalog.dataset(name) for name in names})
        paths.add(ModelStore(benchmark, data, CPU, Silent()).key("OE", 0).path)
    assert len(paths) == len(changes)


def test_addresses_without_auxiliary_images_are_those_of_older_versions() -> None:
    recipe = TrainingSpec(epochs=3, batch_size=64, learning_rate=0.1)
    spec = ModelSpec(network="resnet8", head="dismax", training=recipe)
    address = CheckpointKey(spec, "d", 10, 0, "v", "t").address
    assert address == "6d8db11e84fd42d1f66e24d4d70e95b2229d62e38702a2f60f7b50addaa1f734"
