"""Sharded = unsharded, for every detector: scores from a file of the fitted state, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oodbench
from oodbench.data import ImageArray
from oodbench.engine.cells.fitted_file import read_fitted, write_fitted
from oodbench.engine.method_results import MethodResult
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import EvaluationData, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.set_scoring import Scores
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.planning.shards import VALIDATION, Shard
from oodbench.plugins.catalog import Catalog
from oodbench.specs import TuningSpec
from oodbench.testing.small_network import SmallEnsemble, small_classifier, small_images

BATCH, SHARD = 16, 32
KINDS = ("linear", "dismax", "ensemble")
pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def classifier(kind: Any) -> Classifier:
    if kind != "ensemble":
        return small_classifier(kind)
    networks: list[Any] = [small_classifier("linear").network, small_classifier("dismax").network]
    return Classifier(SmallEnsemble(*networks), (0.5, 0.5), (0.25, 0.25)).eval()


def source(name: str, data: ImageArray) -> SplitImages:
    return SplitImages(name, lambda: data)


def prepared(kind: str, names: Iterable[str]) -> ModelEvaluation:
    """Detectors on a network; two are tuned on each OOD set."""
    detectors = {name: oodbench.load_detector(name) for name in names}
    methods = [
        Method(
            name,
            "m",
            each.info,
            tuned_on="ood_oracle" if name in ("odin", "mahalanobis") else "none",
            grid={"epsilon": (0.0, 0.01)} if name in ("odin", "mahalanobis") else None,
        ).with_layers(("train", "validation"))
        for name, each in detectors.items()
    ]
    noise = np.random.default_rng(0).random((43, 2, 8, 8)).astype(np.float32)
    images = small_images(45, seed=4)
    validation = source("validation", small_images(60, seed=2))
    data = EvaluationData(
        test={
            "id": source("test", images),
            "flipped": source(
                "flipped", ImageArray(images.images[:, :, ::-1].copy(), images.labels)
            ),
            "noise": source("noise", ImageArray(noise)),
            "inverted": source("inverted", ImageArray(1 - images.images)),
        },
        fitted_on={"train": source("train", small_images(200, seed=1)), "validation": validation},
        tuning=validation,
        ood_tuning={
            "noise": source("noise", ImageArray(noise[::-1].copy())),
            "inverted": source("inverted", ImageArray(1 - small_images(40, seed=5).images)),
        },
        csid=("flipped",),
        validation=validation,
    )
    evaluation = ModelEvaluation(
        NetworkRunner(classifier(kind), batch_size=BATCH),
        methods,
        detectors,
        data,
        3,
        tuning=TuningSpec(),
        seed=0,
        report=lambda text: None,
    )
    evaluation.prepare()
    return evaluation


@cache
def whole_and_sharded(kind: str, folder: Path) -> tuple[ModelEvaluation, ModelEvaluation]:
    """Evaluations that have scored, the second with what the first has fitted, from a file.

    On the linear network all detectors, on the others those that cannot run there.
    """
    names = list(Catalog().detectors)
    if kind != "linear":
        alive = {method.name for method in whole_and_sharded("linear", folder)[0].scoring.alive}
        names = [name for name in names if name not in alive]
    whole = prepared(kind, names)
    whole.run(score=False)
    write_fitted("fitted/it.safetensors", whole, "trained", "weights", {})
    with whole.runner.attached():
        whole.scoring.score_all()
    sharded, stored = prepared(kind, names), read_fitted("fitted/it.safetensors")
    assert stored is not None
    stored.restore(sharded)
    parts: dict[str, list[Scores]] = {}
    for name, images in (
        ("id", 45),
        (VALIDATION, 60),
        ("flipped", 45),
        ("noise", 43),
        ("inverted", 45),
    ):
        for start in range(0, images, SHARD):
            with sharded.runner.attached():
                part = sharded.scoring.scores_of(name, Shard(name, start, start + SHARD))
            parts.setdefault(name, []).append(part)
    sharded.scoring.take_parts(parts)
    return whole, sharded


@pytest.fixture(params=KINDS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelEvaluation, ModelEvaluation]:
    folder = tmp_path_factory.getbasetemp() / "fitted-cells"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder))
        return whole_and_sharded(request.param, folder)


def reason(result: MethodResult) -> str:
    return "" if result.error is None else reason_of(result.error)


def test_scores_are_equal_bit_for_bit(both: tuple[ModelEvaluation, ModelEvaluation]) -> None:
    whole, sharded = both
    different = []
    for name, result in whole.results.items():
        again = sharded.results[name]
        assert (reason(again), again.notes) == (reason(result), result.notes)
        if result.error is None:
            assert len(result.scores["noise"]) == 43
            assert result.scores.keys() == again.scores.keys()
            assert result.validation.keys() == again.validation.keys() != set()
            pairs = [(result.scores[key], again.scores[key]) for key in result.scores]
            pairs += [(result.validation[key], again.validation[key]) for key in result.validation]
            different += [name] * (not all(np.array_equal(*pair) for pair in pairs))
    assert different == []
    assert sharded.warnings == whole.warnings
    assert sharded.scoring.negative_features == whole.scoring.negative_features
    for name, found in whole.scoring.predictions.items():
        other = sharded.scoring.predictions[name]
        assert np.array_equal(found.correct, other.correct)
        assert np.array_equal(found.confidence, other.confidence)
        assert np.array_equal(found.labels, other.labels)


def test_every_detector_is_among_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fitted-cells"
    scored = {
        name
        for kind in KINDS
        for name, result in whole_and_sharded(kind, folder)[0].results.items()
        if result.error is None
    }
    assert scored == {*Catalog().detectors}
