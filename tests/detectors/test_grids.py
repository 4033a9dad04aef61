"""Each value of each grid has an effect, or a note says that it has none.

The grids are those that the detectors declare and those of OpenOOD v1.5
(configs/postprocessors/*.yml; percentages there are fractions here). Its ViM chose between two
dimensions that were never set, until pull request 298.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiers import by_default
from numpy.typing import NDArray
from torch import nn

from oodbench.data import ImageArray
from oodbench.engine.method_results import MethodResult
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import EvaluationData, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.tuning_data import ValidationImages
from oodbench.metrics import auroc
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import TuningSpec
from oodbench.testing.declaration_checks import search_effect
from oodbench.testing.small_network import SmallNetwork, small_classifier, small_images
from oodbench.testing.subject import Subject

CATALOG = Catalog()
INFOS = {name: status.info for name, status in CATALOG.detectors.items() if status.info}
OPENOOD: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "ash": {"percentile": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)},
    "energy": {"temperature": (1.0, 10.0, 100.0, 1000.0)},
    "gen": {
        "gamma": (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
        "top_m": (10, 50, 100, 200, 500, 1000),
    },
    "knn": {"k": (50, 100, 200, 500, 1000)},
    "nci": {"alpha": (0.0001, 0.001, 0.01, 0.1)},
    "odin": {"temperature": (1.0, 10.0, 100.0, 1000.0), "epsilon": (0.0014, 0.0028)},
    "react": {"percentile": (0.85, 0.9, 0.95, 0.99)},
    "scale": {"percentile": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)},
    "vra": {
        "upper_percentile": (0.85, 0.9, 0.95, 0.99),
        "lower_percentile": (0.01, 0.05, 0.1, 0.15),
    },
}
VIM = {"dim": (256, 1000)}
"""OpenOOD's grid for ViM: it needs a network with many features."""
SET: Mapping[str, Mapping[str, Any]] = {"ash": {"variant": "b"}}
"""Arguments that OpenOOD's detectors have beside their grids."""

GRIDS = [
    pytest.param(name, grid, {} if grid is info.search_space else SET.get(name, {}), id=label)
    for name, info in INFOS.items()
    for label, grid in (
        (name, info.search_space),
        (f"{name}, OpenOOD", OPENOOD.get(name, {})),
    )
    if grid
]


@pytest.mark.parametrize(("name", "grid", "fixed"), GRIDS)
def test_every_value_changes_the_scores_of_some_model(
    name: str, grid: Mapping[str, tuple[Any, ...]], fixed: Mapping[str, Any]
) -> None:
    subject = Subject(CATALOG.entry("detector", name).load(), fixed)
    subject.search_space = grid
    search_effect(subject)


def outside(count: int) -> ImageArray:
    """Images between two classes, half noise."""
    noise = np.random.default_rng(7).random((count, 2, 8, 8))
    mixed = (small_images(count, seed=5).images + small_images(count + 1, seed=6).images[1:]) / 2
    return ImageArray((0.6 * mixed + 0.4 * noise).astype(np.float32))


def evaluated(
    classifier: Classifier, *methods: Method, fitting: int = 600
) -> dict[str, MethodResult]:
    """Results on validation images, which stand for test images, too."""
    inside, other = small_images(90, seed=3), outside(70)

    def source(name: str, data: ImageArray) -> SplitImages:
        return SplitImages(name, lambda: data)

    evaluation = ModelEvaluation(
        NetworkRunner(classifier, batch_size=50),
        methods,
        {m.name: CATALOG.load_detector(m.detector.name, m.arguments) for m in methods},
        EvaluationData(
            test={"id": source("inside", inside), "outside": source("outside", other)},
            fitted_on={
                "train": source("train", small_images(fitting, seed=1)),
                "validation": source("validation", small_images(600, seed=2)),
            },
            tuning=source("inside", inside),
            ood_tuning={"outside": source("outside", other)},
        ),
        3,
        tuning=TuningSpec(protocol="ood_validation", ood="outside"),
        seed=0,
        report=lambda text: None,
    )
    evaluation.prepare()
    evaluation.run()
    return evaluation.results


def tuned_on(method: Method, grid: Mapping[str, tuple[Any, ...]]) -> Method:
    return Method(
        method.name,
        "model",
        method.detector,
        tuned_on="ood_validation",
        defaults=method.defaults,
        grid=grid,
        tuning_ood="outside",
    )


def selecting(size: int, other: int) -> list[NDArray[np.bool_]]:
    """The half of ID and of OOD images that a detector with a model of its own is selected on."""
    sides = [SplitImages(str(n), lambda n=n: small_images(n, 0)) for n in (size, other)]
    images = ValidationImages.of(*sides, TuningSpec(), seed=0, oracle=False)
    return [~fits for fits in images.fits]


@pytest.mark.parametrize(
    ("name", "grid", "fixed"),
    by_default(["ash, OpenOOD", "gen", "knn", "mahalanobis", "odin", "openmax"], GRIDS),
)
def test_the_choice_is_that_of_a_loop_over_stored_scores(
    name: str, grid: Mapping[str, tuple[Any, ...]], fixed: Mapping[str, Any]
) -> None:
    """And what has no effect, or cannot be used, is counted in a note."""
    info = INFOS[name]
    classifier = copy.deepcopy(small_classifier("linear")).double()
    # As in OpenOOD: the first parameter is fastest.
    settings = [
        dict(zip(grid, reversed(values), strict=True))
        for values in itertools.product(*reversed([*grid.values()]))
    ]
    calibrates = "calibration" in info.needs
    one_by_one = []
    for index, setting in enumerate(settings):
        method = Method(str(index), "model", info, defaults={**fixed, **setting})
        fixed_grid = {key: (value,) for key, value in setting.items()}
        one_by_one.append(tuned_on(method, fixed_grid) if calibrates else method)
    stored = evaluated(classifier, *one_by_one)
    values: dict[int, float] = {}
    different = set()
    rows: list[Any] = selecting(90, 70) if calibrates else [slice(None), slice(None)]
    for index in range(len(settings)):
        result = stored[str(index)]
        if result.error is None:
            sides = [
                result.scores[key][mine] for key, mine in zip(("id", "outside"), rows, strict=True)
            ]
            values[index] = auroc(*sides)
            different.add(b"".join(side.tobytes() for side in sides))
    method = tuned_on(Method("tuned", "model", info, defaults=fixed), grid)
    found = evaluated(classifier, method)["tuned"]
    assert found.error is None
    best = settings[max(values, key=values.__getitem__)]
    chosen = {key: found.detectors["outside"].parameters[key] for key in grid}
    assert chosen == best, values
    failed, equal = len(settings) - len(values), len(values) - len(different)
    notes = " ".join(found.notes)
    for count, why in ((failed, "failed"), (equal, "score the tuning images as others do")):
        said = f"tuned without {count} of {len(settings)} settings, which {why}"
        assert (said in notes) if count else (why not in notes), notes


@pytest.mark.parametrize("features", [512, 1100])
def test_dimensions_of_vim(features: int) -> None:
    """1000 is left out with a note where features have 512 dimensions; it has an effect at 1100."""
    network = SmallNetwork("linear")
    torch.manual_seed(0)
    network.second = nn.Sequential(nn.Conv2d(6, features, 3, padding=1, stride=2), nn.ReLU())
    network.head = type(network.head)(features, 3)
    nn.init.normal_(network.head.get_parameter("weight"), std=0.5)
    classifier = Classifier(network, mean=(0.5, 0.5), std=(0.25, 0.25)).double().eval()
    fixed = [Method(str(n), "model", INFOS["vim"], defaults={"dim": n}) for n in (256, 1000)]
    tuned = tuned_on(Method("tuned", "model", INFOS["vim"]), VIM)
    results = evaluated(classifier, *fixed, tuned, fitting=1200)
    small, large, found = results.values()
    assert small.error is None
    assert found.error is None
    if features == 512:
        assert "leaves no residual of features that have 512 dimensions" in str(large.error)
        assert "tuned without 1 of 2 settings, which failed" in found.notes[0]
        assert found.detectors["outside"].parameters["dim"] == 256
    else:
        assert large.error is None
        assert not np.array_equal(small.scores["outside"], large.scores["outside"])
        assert not found.notes
