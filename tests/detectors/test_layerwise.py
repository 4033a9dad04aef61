"""Detectors on several feature layers: each combination against its formula, one pass for all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import combine_pvalues

import oodbench
from oodbench import Detector, LayerwiseDetector, Outputs
from oodbench.data import ImageArray
from oodbench.detector import Batches
from oodbench.engine.fitting import fit_together
from oodbench.engine.kept_out import KEPT_OUT
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import EvaluationData, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.tuning_data import TuningSpec
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.testing import check_detector
from oodbench.testing.planted import PLANTED
from oodbench.testing.small_network import small_classifier, small_images

Array = NDArray[np.float64]

CATALOG = Catalog()
NAMES = [
    name for name, status in CATALOG.detectors.items() if status.info and status.info.layerwise
]
LAYERS = ("early", "features")


class Pass(Batches):
    """Planted images in batches of one size; counts its passes."""

    num_classes = PLANTED.classes

    def __init__(self, outputs: Outputs, size: int = 64) -> None:
        self.outputs, self.size, self.passes = outputs, size, 0

    def __iter__(self) -> Iterator[Outputs]:
        self.passes += 1
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


TRAINING, VALIDATION = PLANTED.outputs("fit"), PLANTED.outputs("validation")
SCORED = PLANTED.outputs("id")


def load(name: str, **parameters: Any) -> Any:
    return CATALOG.load_detector(name, parameters)


def fitted(name: str, **parameters: Any) -> Any:
    """By the engine, as in a run with validation images."""
    detector = load(name, **parameters)
    for need, outputs in (("fit", TRAINING), ("validation", VALIDATION)):
        if need in detector.info.needs:
            fits = fit_together({"M": detector}, lambda o=outputs: iter(Pass(o)), 5, needs=need)
            assert fits["M"].error is None
    return detector


def alone(name: str, layer: str, scored: Outputs, **parameters: Any) -> Array:
    """Scores of a plain detector, fitted on one layer as if it were the features."""

    def seen(outputs: Outputs) -> Outputs:
        return outputs.replaced(features=outputs.taps[layer]) if layer in outputs.taps else outputs

    detector = load(name, **parameters)
    detector.fit(Pass(seen(TRAINING)))
    scores: Array = detector.score(seen(scored)).numpy()
    return scores


def test_the_layerwise_detectors() -> None:
    assert set(NAMES) >= {
        *("mahalanobis_single", "relative_mahalanobis", "mahalanobis_plus", "knn", "cosine"),
        *("relative_mahalanobis_plus", "rcos", "ssd", "gmm"),
    }


# --- combinations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_mean(name: str) -> None:
    expected = np.mean([alone(name, layer, SCORED) for layer in LAYERS], axis=0)
    scores = fitted(name, layers=LAYERS).score(SCORED)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_standardized(name: str) -> None:
    parts = []
    for layer in LAYERS:
        reference = alone(name, layer, VALIDATION)
        parts.append((alone(name, layer, SCORED) - reference.mean()) / reference.std())
    scores = fitted(name, layers=LAYERS, combine="standardized").score(SCORED)
    np.testing.assert_allclose(scores.numpy(), np.mean(parts, axis=0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_fisher(name: str) -> None:
    p_values = []
    for layer in LAYERS:
        reference = alone(name, layer, VALIDATION)
        p_values.append(
            [
                (1 + sum(r <= s for r in reference)) / (1 + len(reference))
                for s in alone(name, layer, SCORED)
            ]
        )
    expected = [-combine_pvalues(each, "fisher").statistic for each in zip(*p_values, strict=True)]
    scores = fitted(name, layers=LAYERS, combine="fisher").score(SCORED)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_all_means_every_feature_layer_and_one_name_is_one_layer() -> None:
    by_name = fitted("knn", layers=["early", "late"]).score(SCORED)
    torch.testing.assert_close(fitted("knn", layers="all").score(SCORED), by_name)
    plain = fitted("knn").score(SCORED)
    torch.testing.assert_close(fitted("knn", layers="features").score(SCORED), plain)


def test_layers_that_say_nothing_are_an_error() -> None:
    constant = VALIDATION.replaced(taps={"early": torch.ones(200, 20), "late": torch.ones(200, 50)})
    detector = load("cosine", layers="all", combine="fisher")
    detector.fit(Pass(TRAINING))
    with pytest.raises(ValueError, match=r"layer 'early': its scores .* are all equal"):
        detector.fit_validation(Pass(constant))


def test_one_validation_image_is_too_few_to_combine_layers() -> None:
    detector = load("cosine", layers="all", combine="standardized")
    detector.fit(Pass(TRAINING))
    with pytest.raises(ValueError, match="at least two validation images"):
        detector.fit_validation(Pass(VALIDATION[:1]))


# --- what is declared ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "needs"),
    [
        ({}, {"features"}),
        ({"combine": "fisher"}, {"features"}),
        ({"layers": "features"}, {"features"}),
        ({"layers": "all"}, {"taps"}),
        ({"layers": ["early", "features"]}, {"taps", "features"}),
        ({"layers": ["early"], "combine": "fisher"}, {"taps", "validation"}),
    ],
)
def test_needs_follow_the_layers(parameters: dict[str, Any], needs: set[str]) -> None:
    declared = CATALOG.detectors["knn"].info
    assert declared is not None
    assert load("knn", **parameters).info.needs == needs | {"fit"}
    assert declared.given(parameters).needs == needs | {"fit"}
    assert load("knn").info.needs == {"features", "fit"}, "the class is as it was"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "at least one"),
        (("early", "early"), "once"),
    ],
)
def test_bad_layers(layers: Any, message: str) -> None:
    with pytest.raises(oodbench.UserError, match=message):
        load("cosine", layers=layers)


def test_an_unknown_combination_lists_those_that_there_are() -> None:
    with pytest.raises(oodbench.UserError, match="'mean', 'standardized' or 'fisher'"):
        load("cosine", layers="all", combine="product")


def test_an_unknown_layer_lists_those_that_there_are() -> None:
    detector = load("cosine", layers=("early", "stage9"))
    with pytest.raises(ValueError, match=r"no feature layer 'stage9'\. .*: early, late, features"):
        detector.fit(Pass(TRAINING))


def test_a_class_and_its_declaration_agree() -> None:
    with pytest.raises(oodbench.UserError, match="LayerwiseDetector"):

        @oodbench.register("mine", needs=("fit", "features"), layerwise=True)
        class Mine(Detector):
            def fit(self, batches: Batches) -> None: ...

            def score(self, outputs: Outputs) -> torch.Tensor: ...

    with pytest.raises(oodbench.UserError, match="has no method 'score_features'"):

        @oodbench.register("mine", needs=("fit", "features"), layerwise=True)
        class Other(LayerwiseDetector):
            def fit_features(self, batches: Batches) -> None: ...


@pytest.mark.parametrize(
    ("name", "combine"), [("relative_mahalanobis", "mean"), ("cosine", "fisher")]
)
def test_conformance(name: str, combine: str) -> None:
    check_detector(load(name, layers="all", combine=combine))


def test_the_guide_s_detector_works(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "how-to" / "writing-a-detector.md"
    (code,) = re.findall(
        r'```python\n("""Distance to the mean feature.*?)```', guide.read_text("utf-8"), re.DOTALL
    )
    path = tmp_path / "mean_distance.py"
    path.write_text(code, encoding="utf-8")
    check_detector(path)


# --- passes and shared statistics ----------------------------------------------------------------


def test_all_layers_of_all_detectors_are_fitted_in_one_pass() -> None:
    source = Pass(TRAINING)
    detectors = {name: load(name, layers="all") for name in NAMES}
    fits = fit_together(detectors, lambda: iter(source), PLANTED.classes)
    assert source.passes == 1
    assert all(fit.error is None for fit in fits.values())
    assert fits["relative_mahalanobis"].shared_seconds > 0, "with mahalanobis_single, by layer"
    for name, detector in detectors.items():
        expected = fitted(name, layers="all").score(SCORED)
        torch.testing.assert_close(detector.score(SCORED), expected, rtol=1e-9, atol=1e-9)


def test_the_penultimate_layer_is_shared_with_plain_detectors() -> None:
    detectors = {
        "plain": load("mahalanobis_single"),
        "layers": load("mahalanobis_single", layers="features"),
    }
    fits = fit_together(detectors, lambda: iter(Pass(TRAINING)), PLANTED.classes)
    assert fits["layers"].shared_seconds > 0


def test_an_error_names_its_layer_and_spares_the_others() -> None:
    constant = torch.ones(600, 3, dtype=torch.float64)
    training = TRAINING.replaced(taps={"early": constant, "late": TRAINING.taps["late"]})
    detectors = {"bad": load("ssd", layers="all"), "good": load("ssd", layers="late")}
    fits = fit_together(detectors, lambda: iter(Pass(training)), PLANTED.classes)
    assert "layer 'early': the training features do not vary" in str(fits["bad"].error)
    assert fits["good"].error is None


class Recording(Detector):
    """Keeps what it is fitted on."""

    info = load("knn").info

    def fit(self, batches: Batches) -> None:
        self.fitted_on = torch.cat([outputs.features for outputs in batches])

    def fit_validation(self, batches: Batches) -> None:
        self.kept_out = torch.cat([outputs.features for outputs in batches])


@pytest.mark.parametrize("size", [1, 64, 600])
def test_a_tenth_of_the_training_images_is_kept_out(size: int) -> None:
    number = torch.arange(600, dtype=torch.float64)[:, None]
    labels = torch.arange(600) % 300  # two images of each class
    training = TRAINING.replaced(features=number, labels=labels)
    detector = Recording()
    needs = {"M": ("fit", "validation")}
    fits = fit_together(
        {"M": detector}, lambda: iter(Pass(training, size)), 300, needs, keeping_out={"M"}
    )
    assert fits["M"].error is None
    both = torch.cat([detector.fitted_on, detector.kept_out]).flatten()
    assert both.sort().values.tolist() == number.flatten().tolist()
    assert 0.5 * KEPT_OUT / 2 < len(detector.kept_out) / 600 < 1.5 * KEPT_OUT
    assert len(labels[detector.fitted_on.flatten().long()].unique()) == 300
    expected = np.random.default_rng(0).random(600) < KEPT_OUT
    expected[:300] = False  # the first of each class
    assert detector.kept_out.flatten().tolist() == np.flatnonzero(expected).tolist()


# --- runs ----------------------------------------------------------------------------------------


def evaluated(*methods: Method, splits: tuple[str, ...]) -> ModelEvaluation:
    """An evaluation on a small network with feature layers "first" and "second"."""
    classifier = small_classifier("linear")
    noise = np.random.default_rng(0).random((40, 2, 8, 8)).astype(np.float32)

    def source(name: str, data: ImageArray) -> SplitImages:
        return SplitImages(name, lambda: data)

    given = {"train": small_images(120, seed=1), "validation": small_images(60, seed=2)}
    methods = tuple(method.with_layers(splits) for method in methods)
    evaluation = ModelEvaluation(
        NetworkRunner(classifier, batch_size=50),
        methods,
        {m.name: load(m.detector.name, **m.arguments) for m in methods},
        EvaluationData(
            test={
                "id": source("test", small_images(40, seed=3)),
                "noise": source("noise", ImageArray(noise)),
            },
            fitted_on={split: source(split, given[split]) for split in splits},
            tuning=source("validation", given["validation"]),
            ood_tuning={"noise": source("noise", ImageArray(noise))},
        ),
        num_classes=3,
        tuning=TuningSpec(),
        seed=0,
        report=lambda text: None,
    )
    evaluation.prepare()
    evaluation.run()
    return evaluation


def method(name: str, label: str, tuned: bool = False, **parameters: Any) -> Method:
    info = CATALOG.detectors[name].info
    assert info is not None
    protocol: Any = "ood_validation" if tuned else "none"
    ood = "noise" if tuned else None
    return Method(label, "S", info, parameters, protocol, tuning_ood=ood)


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",)])
def test_a_run_with_and_without_validation_images(splits: tuple[str, ...]) -> None:
    methods = [
        method("cosine", "plain"),
        method("cosine", "layers", layers="all"),
        method("ssd", "standardized", layers=("first", "features"), combine="standardized"),
        method("mahalanobis_plus", "fisher", layers="all", combine="fisher"),
        method("knn", "tuned", tuned=True, layers="all", combine="fisher"),
        method("knn", "unknown", layers=("first", "nowhere")),
    ]
    results = evaluated(*methods, splits=splits).results
    assert "has no feature layer 'nowhere'" in str(results.pop("unknown").error)
    for label, result in results.items():
        assert result.error is None, label
        assert np.isfinite(result.scores["id"]).all()
    assert not np.array_equal(results["plain"].scores["id"], results["layers"].scores["id"])
    references = results["fisher"].detectors["noise"].references  # type: ignore[attr-defined]
    count = len(references["first"].ordered)
    assert count == 60 if "validation" in splits else 0 < count < 30
    said = "combines its layers by their scores of 10% of train" in str(results["fisher"].notes)
    assert said == ("validation" not in splits)
    assert not results["layers"].notes


def test_images_are_kept_out_only_if_there_are_no_others() -> None:
    both, train = ("train", "validation"), ("train",)
    fisher = method("cosine", "M", layers="all", combine="fisher")
    assert fisher.with_layers(both).fitted_on() == {"fit": "train", "validation": "validation"}
    assert fisher.with_layers(train).fitted_on() == {"fit": "train", "validation": "train"}
    on_validation = replace(fisher, fit_split="validation").with_layers(both)
    assert on_validation.keeps_out, "the images that it is fitted on"
    mean = method("cosine", "M", layers="all").with_layers(train)
    assert (mean.fitted_on(), mean.keeps_out) == ({"fit": "train"}, False)
    plain = method("gram", "M")
    assert plain.with_layers(train) == plain


def test_taps_are_captured_only_if_a_layer_is_read() -> None:
    plain = evaluated(method("cosine", "plain"), splits=("train",))
    layers = evaluated(method("cosine", "layers", layers="all"), splits=("train",))
    assert not plain.runner.capture.taps
    assert layers.runner.capture.taps


def test_tuned_parameters_reach_every_layer_and_its_statistics() -> None:
    detector = fitted("knn", layers=LAYERS, combine="standardized")
    for k in (1, 20):
        expected = fitted("knn", k=k, layers=LAYERS, combine="standardized").score(SCORED)
        torch.testing.assert_close(detector.with_parameters(k=k).score(SCORED), expected)
    before = detector.score(SCORED)
    with pytest.raises(ValueError, match="'combine' cannot be tuned"):
        detector.with_parameters(combine="fisher")
    torch.testing.assert_close(detector.score(SCORED), before)
