"""One engine: splits of a benchmark and a user's data give the same results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import oodbench
from oodbench.data import ImageArray
from oodbench.deploy.checked_runner import CheckedRunner
from oodbench.engine.costs import Reference
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.image_sources import EvaluationData, ImageSource, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.tuning_data import in_memory
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.specs import TuningSpec
from oodbench.user_data.dataloader import LoadedImages

NAMES = ("baseline", "odin", "mahalanobis", "knn")
TUNED = ("odin", "mahalanobis")

Source = Callable[[str, ImageArray], ImageSource]


def split_images(name: str, data: ImageArray) -> ImageSource:
    return SplitImages(name, lambda: data)


def loaded_images(name: str, data: ImageArray) -> ImageSource:
    images = torch.from_numpy(data.images)
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    labels = torch.zeros(len(data)) if data.labels is None else torch.from_numpy(data.labels)
    return LoadedImages(TensorDataset(images, labels), name, labeled=data.labels is not None)


def evaluated(
    runner: NetworkRunner, source: Source, digits: Callable[..., ImageArray]
) -> ModelEvaluation:
    """An evaluation that has run; "odin" and "mahalanobis" are tuned."""
    detectors = {name: oodbench.load_detector(name) for name in NAMES}
    inverted = ImageArray(1 - digits("test", 60).images.astype(np.float32))
    validation = source("validation", digits("validation", 80))
    evaluation = ModelEvaluation(
        runner,
        [
            Method(name, "model", each.info, tuned_on="fgsm" if name in TUNED else "none")
            for name, each in detectors.items()
        ],
        detectors,
        EvaluationData(
            test={"id": source("test", digits("test", 100)), "inverted": source("ood", inverted)},
            fitted_on={"train": source("train", digits("train", 200)), "validation": validation},
            tuning=validation,
        ),
        10,
        tuning=TuningSpec(fgsm_step=0.3, min_adversarial=8),
        seed=0,
        report=lambda text: None,
    )
    evaluation.prepare()
    evaluation.run()
    return evaluation


def test_both_kinds_of_source_give_the_same_scores(
    trained: Classifier, digits: Callable[..., ImageArray]
) -> None:
    runners = NetworkRunner(trained, batch_size=64), CheckedRunner(trained, batch_size=64)
    split, loaded = (
        evaluated(runner, source, digits)
        for runner, source in zip(runners, (split_images, loaded_images), strict=True)
    )
    assert split.warnings == loaded.warnings
    assert list(split.scoring.predictions) == list(loaded.scoring.predictions) == ["id"]
    for what in ("correct", "confidence"):
        one, other = (getattr(each.scoring.predictions["id"], what) for each in (split, loaded))
        np.testing.assert_array_equal(one, other)
    for name in NAMES:
        first, second = split.results[name], loaded.results[name]
        assert first.error is None, (name, first.error)
        assert list(first.scores) == ["id", "inverted"]
        for key, scores in first.scores.items():
            np.testing.assert_array_equal(scores, second.scores[key], err_msg=f"{name} {key}")
        assert (first.tune_seconds > 0) == (name in TUNED)
    assert split.measure(Reference("baseline", trained, oodbench.load_detector("baseline"))) == {}
    assert all(result.cost is not None for result in split.results.values())


def test_images_in_memory(digits: Callable[..., ImageArray]) -> None:
    data = digits("test", 100)
    assert in_memory(split_images("test", data)).images is data.images, "not copied"
    loaded = in_memory(loaded_images("test", data))
    np.testing.assert_array_equal(loaded.labels, data.labels)
    assert loaded.images.dtype == np.float32


def test_images_of_several_sizes_are_not_tuned_on() -> None:
    class Sizes:
        name, size = "sizes", 2

        def first(self) -> tuple[torch.Tensor, None]:
            return torch.zeros(1, 3, 4, 4), None

        def batches(self):  # type: ignore[no-untyped-def]
            yield self.first()
            yield torch.zeros(1, 3, 5, 5), None

    with pytest.raises(TuningError, match="images of sizes have several sizes"):
        in_memory(Sizes())
