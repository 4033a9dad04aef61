"""Runs of OpenOOD's benchmarks on stand-ins of its lists and folders, and its checkpoints.

Benchmarks are the built-in ones but for the dimensions of ViM: the networks are narrower; the real
ones would take minutes.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.openood_standins import write_openood
from helpers.standins import use_standins
from oodbench.data import load_split
from oodbench.data.image_array import ImageArray
from oodbench.plugins.catalog import Catalog
from oodbench.results import Run
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train
from oodbench.verification.run_verification import verify_run

CIFAR = ("mnist", "svhn", "texture")
OF_OTHER_MODELS = {"dismax_head", "dropout_logits", "language", "member_logits", "rotations"}
"""Needs of detectors that do not run on OpenOOD's checkpoints."""
SIZES = {"train": 100, "validation": 30, "test": 30}


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
    recipe = TrainingSpec(epochs=30, batch_size=20, learning_rate=0.03)
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
    known = Catalog().detectors
    infos = [status.info for status in known.values() if status.info is not None]
    of_other_models = {info.name for info in infos if info.needs & OF_OTHER_MODELS}
    found = {record.detector for record in run.records if record.status == "ok"}
    assert found == known.keys() - of_other_models
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
