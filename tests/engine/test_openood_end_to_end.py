"""The benchmarks of OpenOOD on stand-ins: its lists and folders, torchvision's files, checkpoints.

Benchmarks are the built-in ones but for the dimensions of ViM: the networks are narrower; the real
ones would take minutes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.openood_standins import write_openood
from helpers.standins import use_standins

import oodbench
from oodbench import models
from oodbench.data import load_split
from oodbench.data.image_array import ImageArray
from oodbench.plugins.catalog import Catalog
from oodbench.results import Run
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

CIFAR = ("mnist", "svhn", "texture")
CIFAR10 = ("cifar10", "cifar10c", "cifar100-ood", "tin-cifar10", "places365-cifar10", *CIFAR)
CIFAR100 = ("cifar100", "cifar10-ood", "tin-cifar100", "places365-cifar100", *CIFAR)
LARGE = ("ssb-hard", "ninco", "inaturalist", "textures", "openimage-o")
IMAGENET200 = ("imagenet200", "imagenet200-v2", "imagenet200-c", "imagenet200-r", *LARGE)
OF_OTHER_MODELS = {"dismax_entropy", "min_distance", "mmles", "mcm", "gl_mcm", "neglabel"}
SIZES = {"train": 100, "validation": 30, "test": 30}


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    networks = dict(models.NETWORKS)
    wide = networks["resnet18_32x32"]
    networks["resnet18_32x32"] = replace(wide, options={**wide.options, "widths": (8, 16, 16, 32)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oodbench.models.NETWORKS", networks)
        yield


def standins(
    folder: Path, names: tuple[str, ...], patch: pytest.MonkeyPatch, *, torchvision: bool = False
) -> Path:
    """Stand-ins for these manifests, in the place of the built-in ones; the data root."""
    write_openood(folder, [f"openood-{name}" for name in names], torchvision=torchvision, **SIZES)
    use_standins(folder, patch)
    patch.setenv("OODBENCH_OFFLINE", "1")
    patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
    return folder / "data"


def trained_weights(published: ModelSpec, data: ImageArray) -> bytes:
    """A file as OpenOOD's: a plain state dict of a network that knows the classes."""
    recipe = TrainingSpec(epochs=15, batch_size=20, learning_rate=0.1)
    spec = published.model_copy(update={"training": recipe, "checkpoint": ()})
    classifier, _ = train(spec, 10, data, seed=0, device=torch.device("cpu"))
    return state_dict(classifier.network)


def state_dict(network: torch.nn.Module) -> bytes:
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    return content.getvalue()


def checkpoints(id_set: str, root: Path, *, zipped: bool) -> None:
    """The three checkpoints of a benchmark, in OpenOOD's archive or unpacked."""
    model = Catalog().benchmark(f"openood-{id_set}").models["ResNet18"]
    data = load_split(Catalog().dataset(f"openood-{id_set}"), "train")
    weights, spec = trained_weights(model, data), model.checkpoint
    paths = [str(each.path) for each in spec]
    assert len(paths) == 3
    if zipped:
        with zipfile.ZipFile(root / spec[0].files[0].name, "w") as archive:
            for path in paths:
                archive.writestr(path, weights)
        return
    for path in paths:
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(weights)


def small(folder: Path, id_set: str) -> Path:
    """The built-in benchmark with a principal space for ViM that is smaller than 32 features."""
    name = f"small-{id_set}"
    vim = "parameters: {vim: {dim: 16}}\ntuning: {grids: {vim: {dim: [8, 16]}}}\n"
    path = folder / f"{name}.yaml"
    path.write_text(f"extends: openood-{id_set}\nname: {name}\n{vim}")
    return path


def check(run: Run, id_set: str) -> None:
    """Every detector has values on every OOD set, or says why it has none."""
    assert run.complete, run.failures
    spec = Catalog().benchmark(f"openood-{id_set}")
    detectors = set(Catalog().detectors)
    found = {record.detector for record in run.records if record.status == "ok"}
    assert found == detectors - OF_OTHER_MODELS
    ok = [record for record in run.records if record.status == "ok"]
    assert {r.ood_dataset for r in ok if r.ood_dataset} == set(spec.ood_groups)
    assert {r.id_dataset for r in ok} == {id_set}
    assert {r.weights for r in ok} == {"published checkpoint"}
    assert {r.n_ood for r in ok if r.ood_dataset} == {SIZES["test"]}
    (accuracy,) = {r.value for r in ok if r.metric == "id_accuracy"}
    assert accuracy is not None
    assert accuracy > 0.5, "preprocessing, labels and weights fit together"
    board = run.leaderboard().published
    assert board is not None
    beside = {row.detector: row for row in board.rows if row.method and row.published}
    assert {"baseline", "odin", "knn", "vim", "gram"} <= beside.keys()
    tuned = {r.detector for r in ok if r.tuned_on == "ood_validation"}
    assert tuned == set(spec.tuning.detectors)
    for row in beside.values():
        assert {"near_auroc", "far_auroc", "id_accuracy"} <= row.measured.keys() & row.published
    assert beside["gram"].contested
    assert "published" in (run.folder / "published.md").read_text()
    assert not verify_run(run.folder).discrepancies


def test_cifar10_in_the_folders_of_openood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = standins(tmp_path, CIFAR10, monkeypatch)
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


def test_cifar100_in_the_files_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins(tmp_path, CIFAR100, monkeypatch, torchvision=True)
    assert not (root / "images_classic/cifar100").exists()
    checkpoints("cifar100", root, zipped=False)
    run = oodbench.run(small(tmp_path, "cifar100"), out=tmp_path / "run", seeds=1, device="cpu")
    check(run, "cifar100")


def test_imagenet200_without_its_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins(tmp_path, IMAGENET200, monkeypatch)
    (root / "images_largescale/imagenet_1k/train").rename(tmp_path / "elsewhere")
    for path in [each.path for each in _models("openood-imagenet200")["ResNet18"].checkpoint]:
        (root / str(path)).parent.mkdir(parents=True)
        network = models.create("torchvision:resnet18", 10, "softmax", 3)
        (root / str(path)).write_bytes(state_dict(network.module))
    run = oodbench.run(
        "openood-imagenet200-fs",
        out=tmp_path / "run",
        seeds=1,
        limit=10,
        methods=["msp", "kl_matching", "knn"],
        device="cpu",
    )
    assert not run.failures
    assert not run.complete, "knn was asked for by name"
    reasons = {r.detector: r.reason for r in run.records if r.status == "skipped"}
    assert reasons == {
        "knn": "no training images: "
        "the data root has no folder 'images_largescale/imagenet_1k/train'"
    }
    ok = [r for r in run.records if r.status == "ok"]
    assert {r.detector for r in ok} == {"baseline", "kl_matching"}
    assert {r.n_id for r in ok} == {40}, "ID, V2, C and R"
    checksums = json.loads((run.folder / "run.json").read_text())["checksums"]["data"]
    assert set(checksums["imagenet200"]) == {"validation", "test"}


def _models(benchmark: str) -> dict[str, ModelSpec]:
    return Catalog().benchmark(benchmark).models
