"""The detectors of `examples/` and of the documents: conformance, a benchmark, `evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.prepared import shown_detectors
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.importing import load_class
from oodbench.testing import check_detector

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples" / "detectors").glob("[a-z]*.py"))
KINDS = {  # the needs that each kind of detector has an example for
    "collision": set(),
    "class_cosine": {"features", "fit", "labels"},
    "moved_energy": {"input_gradient"},
    "input_slope": {"input_gradients"},
    "map_norm": {"feature_map"},
    "calibrated_pair": {"features", "calibration"},
}


DOCUMENTED = shown_detectors()


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, type[Detector]]:
    """Every example, and every detector of a document, written to a plug-in folder."""
    folder = tmp_path_factory.mktemp("documents") / "detectors"
    folder.mkdir()
    for name, text in DOCUMENTED.items():
        (folder / f"{name}.py").write_text(text)
    catalog = Catalog([ROOT / "examples", folder.parent])
    names = (*EXAMPLES, *DOCUMENTED)
    assert {catalog.detectors[name].error for name in names} == {None}
    return {name: load_class(catalog.entry("detector", name).path) for name in names}


def test_every_kind_of_detector_has_an_example(classes: dict[str, type[Detector]]) -> None:
    assert {name: set(classes[name].info.needs) for name in EXAMPLES} == KINDS
    assert {"margin", "nearest_mean"} <= DOCUMENTED.keys()


@pytest.mark.parametrize("name", [*EXAMPLES, *DOCUMENTED])
def test_conformance(classes: dict[str, type[Detector]], name: str) -> None:
    check_detector(classes[name])


def test_the_examples_run_in_a_benchmark(tmp_path: Path) -> None:
    benchmark = tmp_path / "all-tuned.yaml"
    benchmark.write_text("extends: digits\nname: all-tuned\ntuning: {detectors: all}\n")
    run = oodbench.run(
        benchmark,
        out=tmp_path / "run",
        methods=[f"SoftMax+{name}" for name in EXAMPLES],
        seeds=1,
        epochs=2,
        device="cpu",
        plugins=[ROOT / "examples"],
    )
    assert run.complete, run.failures
    costs = {c.detector: (c.forwards_per_image, c.backwards_per_image) for c in run.costs}
    assert costs.keys() == set(EXAMPLES)
    assert costs.pop("input_slope") == (1.0, 1.0)
    assert costs.pop("moved_energy") in {(1.0, 0.0), (2.0, 1.0)}, "a step of 0 costs nothing"
    assert set(costs.values()) == {(1.0, 0.0)}
    assert {record.status for record in run.records} == {"ok"}


def test_the_examples_run_on_a_model_of_the_user(classes: dict[str, type[Detector]]) -> None:
    torch.manual_seed(0)
    centers = torch.rand(3, 3, 8, 8)

    def images(count: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        return TensorDataset(
            (centers[labels] + 0.1 * torch.randn(count, 3, 8, 8)).clamp(0, 1), labels
        )

    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1)  # one example needs dropout
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *pooled, nn.Linear(8, 3))
    train, optimizer = images(120), torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model((train.tensors[0] - 0.5) / 0.25), train.tensors[1]
        ).backward()
        optimizer.step()
    result = oodbench.evaluate(
        model,
        [classes[name]() for name in (*EXAMPLES, *DOCUMENTED)],
        id_data=images(40),
        ood_data={"other": TensorDataset(torch.rand(30, 3, 8, 8))},
        fit_data=train,
        validation_data=images(120),
        normalization=(0.5, 0.25),
    )
    assert result.failed == result.skipped == {}
    for name in (*EXAMPLES, *DOCUMENTED):
        assert len(result.scores[name]["id"]) == 40
        assert np.isfinite(result.scores[name]["other"]).all()
