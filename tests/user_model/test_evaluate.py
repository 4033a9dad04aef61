"""`oodbench.evaluate`: a user's own model and data, and whatever may be wrong with them."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

import oodbench
from oodbench import Detector, EvaluationResult, Outputs, UserError, metrics, register
from oodbench.detector import Batches
from oodbench.engine.evaluation import MethodResult, fail_constant_scores
from oodbench.losses import DisMaxHead
from oodbench.plugins.catalog import Catalog
from oodbench.specs import EvaluationSpec
from oodbench.user_model import own_model
from oodbench.user_model.borrowing import BorrowedClassifier, borrowed, reorder

CLASSES = 4
MEAN, STD = (0.4, 0.5), (0.2, 0.25)


class Net(nn.Module):
    """Two stages and a head, with everything that a user's network may have in it."""

    def __init__(self, head: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)  # runs twice
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.fc = head(8, CLASSES)

    def forward(self, images: Tensor) -> Any:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(self.dropout(x.mean(dim=(2, 3))))


def made(count: int, seed: int, *, kind: str = "id") -> tuple[Tensor, Tensor]:
    """Images in [0, 1], of which those of one class resemble each other, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(CLASSES, 2, 6, 6, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.rand(count, 2, 6, 6, generator=generator)
    images = noise if kind == "noise" else 0.3 * centers[labels] + 0.7 * noise
    return (1 - images if kind == "inverted" else images), labels


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(2, 1, 1)) / torch.tensor(STD).view(2, 1, 1)


@cache
def _catalog(plugins: tuple[str, ...] = ()) -> Catalog:
    return Catalog(plugins)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than these networks, and is tested elsewhere: bootstrap and catalog."""
    monkeypatch.setattr(own_model, "EvaluationSpec", lambda: EvaluationSpec(resamples=100))
    monkeypatch.setattr(own_model, "Catalog", _catalog)


@pytest.fixture(scope="module")
def trained() -> Net:
    """A network that knows the classes; do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        images, labels = made(256, 0)
        for _ in range(40):  # by hand: torch's optimizers take seconds to import
            loss = F.cross_entropy(model(normalized(images)), labels)
            gradients = torch.autograd.grad(loss, [*model.parameters()])
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
    return model


def pairs(count: int, seed: int, kind: str = "id") -> TensorDataset:
    return TensorDataset(*made(count, seed, kind=kind))


def plainly(data: TensorDataset) -> TensorDataset:
    """The same, normalized by the user."""
    return TensorDataset(normalized(data.tensors[0]), *data.tensors[1:])


def arguments(**others: Any) -> dict[str, Any]:
    """Data in [0, 1] for all that there is; with normalization."""
    given: dict[str, Any] = {
        "id_data": pairs(60, 1),
        "ood_data": {"noise": pairs(50, 2, "noise"), "inverted": pairs(40, 3, "inverted")},
        "fit_data": pairs(256, 0),
        "validation_data": pairs(120, 4),
        "normalization": (MEAN, STD),
        "device": "cpu",  # with a GPU, "auto" is not where `trained` is
    }
    return given | others


def evaluated(model: nn.Module, detectors: Any, **others: Any) -> EvaluationResult:
    return oodbench.evaluate(model, detectors, **arguments(**others))


def refused(model: Any, detectors: Any = ("baseline",), **others: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        evaluated(model, detectors, **others)
    assert "\n" not in caught.value.message
    return caught.value


# --- detectors of a user's own -----------------------------------------------------------------


@register("typed", needs=("features", "taps", "input_gradient"))
class Typed(Detector):
    """Notes the types of what it sees; the first tap is read after a step."""

    epsilon = 0.01

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def perturbation_losses(self, outputs: Outputs) -> dict[str, Tensor]:
        name = next(iter(outputs.taps))
        return {name: outputs.taps[name].mean(1), "logits": outputs.logits.amax(1)}

    def score(self, outputs: Outputs) -> Tensor:
        self.seen |= {outputs.features.dtype, *(tap.dtype for tap in outputs.taps.values())}
        return outputs.features.sum(1)


@register("learner", needs=("fit", "labels", "features"))
class Learner(Detector):
    """The class means of the features; raises if it is asked to keep as many as there are."""

    def __init__(self, dim: int = 2) -> None:
        self.dim = dim

    def fit(self, batches: Batches) -> None:
        features, labels = [], []
        for outputs in batches:
            if self.dim >= outputs.features.shape[1]:
                raise ValueError(f"dim {self.dim} is not below {outputs.features.shape[1]}")
            assert outputs.labels is not None
            features.append(outputs.features)
            labels.append(outputs.labels)
        self.features, self.labels = torch.cat(features), torch.cat(labels)
        means = [self.features[self.labels == c].mean(0) for c in range(batches.num_classes)]
        self.means = torch.stack(means)

    def score(self, outputs: Outputs) -> Tensor:
        return -torch.cdist(outputs.features.double(), self.means.double()).amin(dim=1)


@register("holding", needs=("features", "validation", "labels"))
class Holding(Learner):
    """The same of validation images."""

    def fit_validation(self, batches: Batches) -> None:
        Learner.fit(self, batches)


@register("ensemble", needs=("taps", "tap_maps", "feature_map", "features"))
class Ensemble(Detector):
    """Looks at everything there is."""

    def score(self, outputs: Outputs) -> Tensor:
        assert outputs.feature_map is not None
        assert list(outputs.taps) == list(outputs.tap_maps)
        return sum(tap.mean(1) for tap in outputs.taps.values()) + outputs.feature_map.mean(
            (1, 2, 3)
        )


@register("constant")
class Constant(Detector):
    """Every image has the same score."""

    def score(self, outputs: Outputs) -> Tensor:
        return torch.zeros(len(outputs))


@register("loudest")
class Loudest(Detector):
    """The largest logit."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


@register("raising")
class Raising(Detector):
    """Cannot score."""

    def score(self, outputs: Outputs) -> Tensor:
        raise ZeroDivisionError("its own fault")


# --- what it gives -----------------------------------------------------------------------------


def test_scores_are_those_of_the_model(trained: Net) -> None:
    model = copy.deepcopy(trained)
    result = evaluated(model, ["baseline", "max_logit"])
    model.eval()
    for name, data in {"id": pairs(60, 1), "noise": pairs(50, 2, "noise")}.items():
        logits = model(normalized(data.tensors[0])).detach().double()
        for detector, expected in {
            "max_logit": logits.amax(1),
            "baseline": logits.softmax(1).amax(1).logit(),
        }.items():
            scores = result.scores[detector][name]
            assert scores.dtype == np.float64
            np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert [*result.scores] == ["baseline", "max_logit"]
    assert [*result.scores["baseline"]] == ["id", "noise", "inverted"]
    assert result.skipped == result.failed == result.errors == {}
    assert result.costs == []
    assert (result.model, result.head, result.num_classes) == ("Net", "fc", CLASSES)


class Margin(nn.Module):
    """The largest logit is above the others by a multiple of the image's mean."""

    def __init__(self, scale: float, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(1, classes, bias=False)
        with torch.no_grad():
            self.fc.weight.zero_()[0] = scale

    def forward(self, images: Tensor) -> Any:
        return self.fc(images.mean(dim=(1, 2, 3))[:, None])


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("scale", [5.0, 64.0, 1000.0, 10_000.0])
def test_confident_images_are_not_tied(scale: float, classes: int) -> None:
    """Probabilities are 1 and entropies 0 from some scale on; the order stays that of the logit."""
    generator = torch.Generator().manual_seed(0)
    means = {name: 0.5 + 0.5 * torch.rand(80, generator=generator) for name in ("id", "other")}
    means["other"] -= 0.1
    data = {
        name: TensorDataset(values.view(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.zeros(80).long())
        for name, values in means.items()
    }
    result = oodbench.evaluate(
        Margin(scale, classes),
        {
            **{name: name for name in ("max_logit", "baseline", "entropy", "gen")},
            "cold": oodbench.load_detector("odin", temperature=0.01, epsilon=0.01),
        },
        id_data=data["id"],
        ood_data={"other": data["other"]},
    )
    assert not result.failed
    for name, scores in result.scores.items():
        for part, values in means.items():
            assert np.array_equal(scores[part].argsort(), values.numpy().argsort()), name
    first, *others = (
        metrics.auroc(scores["id"], scores["other"]) for scores in result.scores.values()
    )
    assert 0.6 < first < 0.9
    assert others == [first] * 4


def test_records_are_as_in_runs(trained: Net) -> None:
    result = evaluated(trained, ["baseline", "mahalanobis", "dismax_entropy"], seed=7)
    ok = [record for record in result.records if record.status == "ok"]
    for record in ok:
        assert record.benchmark == "evaluate"
        assert (record.model, record.seed, record.id_dataset) == ("Net", 7, "id")
        assert record.value is not None
        assert record.ci_low is not None
        assert record.ci_high is not None
        assert record.ci_low <= record.value + 0.02
        assert record.value - 0.02 <= record.ci_high
        assert record.ood_group is None
        if record.ood_dataset is not None:
            scores = result.scores[record.method]
            expected = metrics.evaluate(scores["id"], scores[record.ood_dataset])
            assert record.value == expected[record.metric]
            assert (record.n_id, record.n_ood) == (60, len(scores[record.ood_dataset]))
    assert len(ok) == 2 * (2 * len(metrics.METRICS) + 1)
    tuned = {record.method: record.tuned_on for record in ok}
    assert tuned == {"baseline": "none", "mahalanobis": "fgsm"}
    accuracy = {record.value for record in ok if record.metric == "id_accuracy"}
    model = copy.deepcopy(trained).eval()
    images, labels = made(60, 1)
    assert accuracy == {float((model(normalized(images)).argmax(1) == labels).double().mean())}
    (reason,) = {r.reason for r in result.records if r.status == "skipped"}
    assert reason == result.skipped["dismax_entropy"]
    assert reason == "needs a DisMax head; the model has a linear head"


def test_one_pass_serves_all(trained: Net) -> None:
    model = copy.deepcopy(trained)
    sizes: list[int] = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    names = ["baseline", "entropy", "energy", "max_logit"]
    evaluated(model, {**dict.fromkeys(names), **{n: n for n in names}, "mine": Learner()})
    # Fitting, ID, two OOD sets, each once; before that, a few images to look at the model, and one
    # of them alone.
    assert sum(sizes) == 256 + 60 + 50 + 40 + 3 + 1
    sizes.clear()
    evaluated(model, ["baseline", "odin"])
    # Three images more, to see whether the model gives a gradient for its input.
    assert sum(sizes) == 2 * (60 + 50 + 40) + 3 + 1 + 3


@pytest.mark.parametrize("data", ["dataset", "loader", "shuffled", "workers", "single"])
def test_data_of_all_kinds_give_the_same(trained: Net, data: str) -> None:
    def wrap(given: TensorDataset) -> Any:
        if data == "dataset":
            return given
        if data == "single":
            return DataLoader(given, 1)
        shuffle = data != "loader"
        return DataLoader(given, 16, shuffle, num_workers=int(data == "workers"), drop_last=shuffle)

    detectors = {"baseline": "baseline", "learner": Learner()}
    expected = evaluated(trained, detectors, validation_data=None)
    given = arguments()
    result = oodbench.evaluate(
        trained,
        detectors,
        id_data=wrap(given["id_data"]),
        ood_data={name: wrap(images) for name, images in given["ood_data"].items()},
        fit_data=wrap(given["fit_data"]),
        normalization=given["normalization"],
    )
    for label, scores in expected.scores.items():
        for name, values in scores.items():
            np.testing.assert_allclose(result.scores[label][name], values, rtol=1e-4, atol=1e-5)


def test_images_may_come_normalized(trained: Net) -> None:
    inside = evaluated(trained, ["baseline"])
    given = arguments()
    outside = oodbench.evaluate(
        trained,
        ["baseline"],
        id_data=plainly(given["id_data"]),
        ood_data={name: plainly(data) for name, data in given["ood_data"].items()},
    )
    for name, scores in inside.scores["baseline"].items():
        np.testing.assert_array_equal(outside.scores["baseline"][name], scores)
    one = evaluated(trained, ["baseline"], normalization=(0.0, 1.0))
    none = evaluated(trained, ["baseline"], normalization=None)
    for name, scores in one.scores["baseline"].items():
        np.testing.assert_array_equal(none.scores["baseline"][name], scores)


def test_ood_images_need_no_labels_and_id_images_only_for_the_accuracy(trained: Net) -> None:
    alone = TensorDataset(made(60, 1)[0])
    result = evaluated(trained, ["baseline"], id_data=alone, ood_data={"noise": made(9, 2)[0]})
    assert not [record for record in result.records if record.metric == "id_accuracy"]
    assert "accuracy" not in result.to_text().split("Notes")[0]
    ignored = TensorDataset(made(9, 2)[0], torch.full((9,), -1))
    again = evaluated(trained, ["baseline"], id_data=alone, ood_data={"noise": ignored})
    np.testing.assert_array_equal(
        again.scores["baseline"]["noise"], result.scores["baseline"]["noise"]
    )


# --- detectors ---------------------------------------------------------------------------------


def test_two_settings_of_one_detector(trained: Net) -> None:
    result = evaluated(
        trained,
        {
            "T=1": oodbench.load_detector("energy", temperature=1.0),
            "T=50": oodbench.load_detector("energy", temperature=50.0),
            "plain": "energy",
        },
    )
    one, fifty, plain = (result.scores[label]["id"] for label in ("T=1", "T=50", "plain"))
    np.testing.assert_array_equal(one, plain)
    assert not np.allclose(one, fifty)
    chosen = {record.method: record.detector_params for record in result.records}
    assert chosen["T=50"] == {"temperature": 50.0}
    assert {record.detector for record in result.records} == {"energy"}


def test_an_instance_is_copied_and_the_fitted_copy_given_back(trained: Net) -> None:
    mine = Learner(dim=3)
    result = evaluated(trained, [mine])
    assert vars(mine) == {"dim": 3}
    fitted = result.detectors["learner"]
    assert isinstance(fitted, Learner)
    assert fitted is not mine
    assert fitted.means.shape == (CLASSES, 8)
    torch.testing.assert_close(fitted.labels, made(256, 0)[1])


def test_a_single_detector_needs_no_list(trained: Net) -> None:
    assert [*evaluated(trained, "energy").scores] == ["energy"]
    assert [*evaluated(trained, Loudest()).scores] == ["loudest"]


class Autocast(nn.Module):
    """Runs a module in bfloat16 and gives logits in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.module(images).float()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.ReLU(inplace=True)])
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64", "autocast"])
def test_maps_are_found_in_every_type(kind: str, activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    images = torch.rand(24, 3, 10, 10)
    data = {
        "id_data": TensorDataset(images, torch.arange(24) % 5),
        "ood_data": {"o": TensorDataset(1 - images)},
    }
    expected = oodbench.evaluate(model, ["rankfeat", "energy"], **data)
    dtype = getattr(torch, "bfloat16" if kind == "autocast" else kind)
    other = Autocast(model) if kind == "autocast" else copy.deepcopy(model).to(dtype)
    result = oodbench.evaluate(other, ["rankfeat", "energy"], **data)
    assert (result.failed, result.skipped) == ({}, {})
    for name, scores in result.scores.items():
        close = torch.finfo(dtype).eps + 1e-5
        np.testing.assert_allclose(scores["id"], expected.scores[name]["id"], rtol=2 * close)
        assert kind == "float64" or not np.array_equal(scores["id"], expected.scores[name]["id"])


def test_what_a_detector_sees(trained: Net) -> None:
    result = evaluated(trained, [Ensemble()])
    assert result.failed == {}
    assert result.taps == ("bn1", "bn2")
    named = evaluated(trained, [Ensemble()], taps=["conv2", "conv1"])
    assert named.taps == ("conv2", "conv1")
    assert not np.allclose(named.scores["ensemble"]["id"], result.scores["ensemble"]["id"])
    reason = "the last activation before each change of resolution"
    assert f"Feature layers: bn1, bn2 ({reason})." in result.notes
    assert "Feature layers: conv2, conv1 (those that taps= names)." in named.notes
    assert "Feature layers: bn1, bn2" in result.to_text()


def test_validation_images_are_the_validation_data(trained: Net) -> None:
    result = evaluated(trained, [Holding()])
    fitted = result.detectors["holding"]
    assert isinstance(fitted, Holding)
    torch.testing.assert_close(fitted.labels, made(120, 4)[1])


def test_what_is_calibrated_is_tuned_on_attacked_validation_images(trained: Net) -> None:
    fixed = oodbench.load_detector("mahalanobis", epsilon=0.002)
    result = evaluated(trained, {"searched": "mahalanobis", "fixed": fixed})
    assert result.failed == {}
    for label in ("searched", "fixed"):
        detector: Any = result.detectors[label]
        assert detector.regression is not None
    assert result.detectors["fixed"].parameters["epsilon"] == 0.002
    assert getattr(fixed, "regression", None) is None
    assert "Tuned on FGSM" in result.to_text()


def test_detectors_have_the_parameters_they_come_with(trained: Net) -> None:
    result = evaluated(trained, ["odin"])
    assert result.detectors["odin"].parameters["temperature"] == 1000.0
    assert {record.tuned_on for record in result.records} == {"none"}


LACKS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "fit": (Learner(), {"fit_data": None}, "needs fit_data, images that the model was trained on"),
    "labels": (
        Learner(),
        {"fit_data": made(9, 0)[0]},
        "needs labels; fit_data gives images alone",
    ),
    "held out": (
        Holding(),
        {"validation_data": None},
        "needs validation_data, images that the model was not trained on",
    ),
    "held out labels": (
        Holding(),
        {"validation_data": made(9, 0)[0]},
        "needs labels; validation_data gives images alone",
    ),
    "tuning": (
        "mahalanobis",
        {"validation_data": None},
        "is tuned on attacked images: needs validation_data, images that the model was not "
        "trained on",
    ),
    "tuning labels": (
        "mahalanobis",
        {"validation_data": made(9, 0)[0]},
        "is tuned on attacked images: needs labels; validation_data gives none",
    ),
    "normalization": (
        "mahalanobis",
        {"normalization": None},
        "is tuned on attacked images: needs images in [0, 1], and normalization",
    ),
    "taps": (
        Ensemble(),
        {"taps": ()},
        "needs taps, and no stages were found: name modules with taps=[...]",
    ),
    "dismax": ("mmles", {}, "needs a DisMax head; the model has a linear head"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_what_cannot_run_is_skipped_with_its_reason(trained: Net, lack: str) -> None:
    detector, lacking, reason = LACKS[lack]
    result = evaluated(trained, {"that": detector, "baseline": "baseline"}, **lacking)
    assert result.skipped == {"that": reason}
    assert [*result.scores] == ["baseline"]
    assert reason in result.to_pandas().set_index("method").loc["that", "reason"]
    for text in (result.to_text(200), result._repr_html_(), result.to_markdown()):
        assert reason.split("[")[0] in text.replace("\\", "")  # Markdown escapes
    error = refused(trained, {"that": detector}, **lacking)
    assert error.message == "No detector can run."
    assert error.hint == f"that: {reason}."


def test_a_head_of_distances() -> None:
    torch.manual_seed(0)
    model = Net(DisMaxHead)
    nn.init.normal_(model.fc.prototypes)  # type: ignore[union-attr, arg-type]
    result = evaluated(model, ["dismax_entropy", "baseline", "dice"])
    assert result.skipped == {"dice": "needs a linear head; the model has a DisMax head"}
    assert {record.loss for record in result.records} == {"dismax"}
    assert [*result.scores] == ["dismax_entropy", "baseline"]


@pytest.mark.parametrize("broken", [Learner(dim=8), Raising(), Learner(dim=9)])
def test_a_detector_that_fails_is_left_out_and_named(trained: Net, broken: Any) -> None:
    result = evaluated(trained, {"good": Learner(), "bad": broken, "baseline": "baseline"})
    assert [*result.scores] == ["good", "baseline"]
    said, raised = "ZeroDivisionError: its own fault", "its own fault"
    if isinstance(broken, Learner):
        said, raised = f"ValueError: dim {broken.dim} is not below 8", "is not below"
    lines = Path(__file__).read_text().splitlines()
    (line, *_) = [number for number, text in enumerate(lines, 1) if raised in text]
    wanted = f"{said} (user_model/test_evaluate.py, line {line})"
    assert result.failed == {"bad": wanted}
    assert isinstance(result.errors["bad"], ValueError | ZeroDivisionError)
    assert {r.reason for r in result.records if r.method == "bad"} == {wanted}
    assert {r.status for r in result.records if r.method == "bad"} == {"failed"}
    for text in (str(result), result._repr_html_(), result.to_markdown()):
        assert "failed" in text
        assert said in text


def test_if_all_fail_the_result_says_so(trained: Net) -> None:
    result = evaluated(trained, [Raising()])
    assert result.scores == {}
    for text in (str(result), result._repr_html_(), result.to_markdown()):
        assert "its own fault" in text
    assert result.to_pandas()["status"].tolist() == ["failed"]


def test_scores_that_depend_on_the_batch_are_a_failure(trained: Net) -> None:
    @register("batchwise")
    class Batchwise(Detector):
        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits.amax(1) - outputs.logits.amax(1).mean()

    result = evaluated(trained, [Batchwise(), "baseline"])
    assert "scores depend on the batch" in result.failed["batchwise"]


def test_equal_scores_are_a_failure(trained: Net) -> None:
    result = evaluated(trained, [Constant(), "baseline"])
    (reason,) = result.failed.values()
    assert reason.startswith("all 150 test images, ID and OOD, have the same score, 0:")
    found = [r for r in result.records if (r.method, r.metric) == ("constant", "auroc")]
    assert [(r.status, r.value, r.reason) for r in found] == [("failed", None, reason)] * 2
    assert [*result.scores] == ["baseline"]


@pytest.mark.parametrize("scale", [1.0, -3e-7, 1e9])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_scores_that_differ_by_their_rounding_are_equal(kind: torch.dtype, scale: float) -> None:
    """Vectorized functions round otherwise at the end of a batch."""
    unit = torch.finfo(kind).eps
    for ulps, failed in ((0, False), (1, True), (3, True), (40, False)):
        values = torch.full((50,), scale, dtype=kind)
        values[-2:] *= 1 + ulps * unit
        scores = values.double().numpy()
        result = MethodResult(scores={"id": scores[:30], "ood": scores[30:]})
        fail_constant_scores({"A": result})
        assert (result.error is not None) == (failed or ulps == 0), ulps
        assert failed == ("the same score up to rounding" in str(result.error))


def test_a_constant_classifier_fails_with_entropy() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, CLASSES)

        def forward(self, images: Tensor) -> Any:
            return self.fc(images.mean((2, 3)) * 0)

    result = evaluated(Same().eval(), ["entropy", "energy", "max_logit"])
    assert len(result.failed) == 3
    assert all("have the same score" in reason for reason in result.failed.values())


def test_a_detector_that_works_on_maps_says_that_there_is_none(trained: Net) -> None:
    class ByToken(nn.Module):
        """The first place stands for all of them, as a class token does."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 8, 3), nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Any:
            return self.fc(self.conv(images).relu()[:, :, 0, 0])

    def load(name: str, **parameters: Any) -> Detector:
        return oodbench.load_detector(name, **parameters)

    detectors = {
        **{f"{name} on maps": load(name, on="map") for name in ("ash", "scale", "react")},
        **{name: load(name) for name in ("ash", "scale", "react")},
    }
    said = "no module of the network gives a map whose mean is the penultimate features"
    result = evaluated(ByToken(), {**detectors, "rankfeat": "rankfeat"})
    noted = [note.split(":")[0] for note in result.notes if said in note]
    assert noted == ["ash on maps", "scale on maps", "react on maps"]
    assert "needs a map of more than one place" in result.failed["rankfeat"]
    assert not any(said in note for note in evaluated(trained, detectors).notes)


def test_one_image_with_another_score_is_no_failure(trained: Net) -> None:
    @register("nearly_constant")
    class NearlyConstant(Detector):
        def score(self, outputs: Outputs) -> Tensor:
            return (outputs.logits.amax(dim=1) > highest).double()

    highest = np.sort(evaluated(trained, Loudest()).scores["loudest"]["id"])[-2]
    result = evaluated(trained, [NearlyConstant()])
    assert result.failed == {}
    assert result.scores["nearly_constant"]["id"].sum() == 1


def test_features_that_do_not_vary_are_a_reason(trained: Net) -> None:
    class Flat(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(72, CLASSES).double(), scale

        def forward(self, images: Tensor) -> Any:
            return self.fc(1 + self.scale * images.double().flatten(1))

    names = ["mahalanobis_single", "relative_mahalanobis"]
    result = evaluated(Flat(1e-7), [*names, "energy"])
    assert result.failed == {}
    gone = evaluated(Flat(0.0), [*names, "residual", "energy"])
    assert {name: reason.split(":")[0] for name, reason in gone.failed.items()} == {
        **dict.fromkeys(
            names, "the training features do not vary within their classes, up to rounding"
        ),
        "residual": "the training features lie in a space of dim = 36 up to rounding",
        "energy": "all 150 test images, ID and OOD, have the same score, "
        + gone.failed["energy"].split("score, ")[1].split(":")[0],
    }


@pytest.mark.parametrize(
    ("detectors", "said", "hint"),
    [
        (["enrgy"], "There is no detector 'enrgy'", "'energy'"),
        ({"a": "odn"}, "There is no detector 'odn'", "'odin'"),
        ([], "detectors names none", ""),
        ({}, "detectors names none", ""),
        ([Constant], "detectors: Constant is a class", "Constant()"),
        ([3], "not a int", ""),
        (None, "not None", "list detectors"),
        (3, "not 3", "list detectors"),
        (["energy", "energy"], "'energy' is given twice", "mapping"),
        ({"": "energy"}, "detectors: expected a name of printable characters", ""),
    ],
)
def test_detectors_that_are_not(trained: Net, detectors: Any, said: str, hint: str) -> None:
    error = refused(trained, detectors)
    assert said in error.message
    assert hint in error.hint


def test_a_detector_that_is_not_registered_or_has_no_step(trained: Net) -> None:
    class Unregistered(Detector):
        pass

    assert "Unregistered does not say what it needs" in refused(trained, [Unregistered()]).message

    @register("stepless", needs=("input_gradient",))
    class Stepless(Detector):
        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits.amax(1)

        def perturbation_losses(self, outputs: Outputs) -> dict[str, Tensor]:
            return {"logits": outputs.logits.amax(1)}

    assert "has no step size" in refused(trained, [Stepless()]).message


# --- the model is given back as it was ---------------------------------------------------------


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a user could notice."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "identity": {name: id(tensor) for name, tensor in tensors.items()},
        "storage": {name: tensor.data_ptr() for name, tensor in tensors.items()},
        "strides": {name: tensor.stride() for name, tensor in tensors.items()},
        "version": {name: tensor._version for name, tensor in tensors.items()},
        "values": {name: tensor.detach().clone().tolist() for name, tensor in tensors.items()},
        "order": [*model.state_dict()],
        "training": {name: part.training for name, part in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(part, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            ]
            for name, part in model.named_modules()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {
            name: None if p.grad is None else id(p.grad) for name, p in model.named_parameters()
        },
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
    }


def users(trained: Net) -> Net:
    """A network in the middle of its training: with gradients, half of it frozen, evaluating."""
    model = copy.deepcopy(trained).train()
    F.cross_entropy(model(made(8, 0)[0]), made(8, 0)[1]).backward()
    model.bn2.eval()
    model.conv1.requires_grad_(False)
    model.fc.register_forward_hook(lambda module, inputs, output: None)
    return model


ALL = ["baseline", "odin", "mahalanobis"]


def test_the_model_is_given_back_as_it_was(trained: Net) -> None:
    model = users(trained)
    before = snapshot(model)
    result = evaluated(model, [*ALL, Ensemble(), Learner()], costs=True)
    assert result.failed == result.skipped == {}
    assert snapshot(model) == before
    F.cross_entropy(model(made(8, 0)[0]), made(8, 0)[1]).backward()  # and it trains on


@pytest.mark.parametrize("where", ["data", "model", "labels", "interrupt", "early"])
def test_the_model_is_given_back_when_something_raises(trained: Net, where: str) -> None:
    model = users(trained)

    class Failing(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            if index >= 300:
                raise KeyboardInterrupt if where == "interrupt" else OSError("gone")
            return super().__getitem__(index)

    images, labels = made(400, 2)
    data: Any = Failing(images, labels)
    if where == "model":
        images[350] *= torch.nan
        data = DataLoader(
            [(images[:300], labels[:300]), (images[300:, :1], labels)], batch_size=None
        )
    if where == "labels":
        data = TensorDataset(images, labels + 1)
    before = snapshot(model)
    expected = KeyboardInterrupt if where == "interrupt" else UserError
    bad = {"taps": ["fc2"]} if where == "early" else {"id_data": data}
    with pytest.raises(expected):
        evaluated(model, ALL, validation_data=None, **bad)
    assert snapshot(model) == before


def test_stand_ins_are_in_channels_last_order_and_the_models_own_are_not_touched() -> None:
    class Standardizing(nn.Conv2d):
        """As others write it: with a view of its weight."""

        def forward(self, images: Tensor) -> Tensor:
            scale = self.weight.view(len(self.weight), -1).std(dim=1)
            return F.conv2d(images, self.weight / scale[:, None, None, None])

    model = Net()
    model.add_module("others", Standardizing(2, 8, 3))
    own = model.conv1.weight
    with borrowed(model, torch.device("cpu")):
        reorder(model)
        assert model.conv1.weight is not own
        assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        assert model.get_parameter("others.weight").is_contiguous()
        assert not model.conv1.weight.requires_grad
        model.bn1.running_mean += 1  # type: ignore[operator]
    assert model.conv1.weight is own
    assert own.is_contiguous()
    assert model.bn1.running_mean is not None
    assert float(model.bn1.running_mean.abs().sum()) == 0


def test_what_a_model_keeps_in_a_pass_is_forgotten(trained: Net) -> None:
    """A cache filled in inference mode would break a training later."""

    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.cache = copy.deepcopy(trained), None
            self.last = torch.zeros(1)
            self.calls: list[int] = []

        def forward(self, images: Tensor) -> Tensor:
            self.last, self.new = images, images.mean()
            if self.cache is None:
                self.cache = torch.ones(2, 1, 1, device=images.device)
            self.calls.append(len(images))
            return self.net(images * self.cache)

    model = Caching()
    last = model.last
    evaluated(model, ["baseline"])
    assert model.cache is None
    assert model.last is last
    assert not hasattr(model, "new")
    assert model.calls


def test_tied_and_recurrent_weights() -> None:
    class Tied(nn.Module):
        """One weight under two names, and a layer that keeps references to its own weights."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.second.weight = self.first.weight
            self.rnn = nn.GRU(12, 8, batch_first=True)
            self.fc = nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Any:
            rows = self.second(self.first(images)).permute(0, 2, 1, 3).flatten(2)
            return self.fc(self.rnn(rows)[0][:, -1])

    torch.manual_seed(0)
    model = Tied().eval()
    before = snapshot(model)
    expected = model(made(60, 1)[0]).detach()
    result = evaluated(model, ["max_logit"], normalization=None)
    np.testing.assert_allclose(result.scores["max_logit"]["id"], expected.amax(1), rtol=1e-5)
    assert snapshot(model) == before
    torch.testing.assert_close(model(made(60, 1)[0]).detach(), expected)
    assert model.second.weight is model.first.weight


# --- determinism -------------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Draws from every global generator there is."""

    def __init__(self, count: int) -> None:
        self.images, self.labels = made(count, 0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return (self.images[index] + noise).clamp(0, 1), int(self.labels[index])


def test_the_same_call_gives_the_same_and_no_generator_moves(trained: Net) -> None:
    def state() -> tuple[Any, ...]:
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), torch.get_rng_state().tolist(), legacy[1].tolist(), legacy[2]

    given = {"fit_data": DataLoader(Augmented(64), 16, shuffle=True), "id_data": Augmented(40)}
    detectors = ["mahalanobis", "odin", Learner()]
    before = state()
    first = evaluated(trained, detectors, **given)
    assert first.failed == {}
    assert state() == before
    torch.rand(3), random.random(), np.random.rand(2)  # noqa: NPY002
    second = evaluated(trained, detectors, **given)
    assert first.records == second.records
    for label, scores in first.scores.items():
        for name, values in scores.items():
            np.testing.assert_array_equal(second.scores[label][name], values)
    assert str(first) == str(second)
    other = evaluated(trained, detectors, seed=1, **given)
    assert other.failed == {}
    assert not np.array_equal(other.scores["learner"]["id"], first.scores["learner"]["id"])


def test_it_does_not_matter_in_which_mode_it_is_called(trained: Net) -> None:
    expected = evaluated(trained, ["odin", Learner()])
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = evaluated(trained, ["odin", Learner()])
        assert found.failed == {}
        assert found.records == expected.records


# --- models ------------------------------------------------------------------------------------


def test_wrapped_models(trained: Net) -> None:
    expected = evaluated(trained, ["baseline"]).scores["baseline"]
    # As its constructor leaves it, which wants other processes.
    distributed = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(distributed)
    distributed.module = trained
    # On a machine with a GPU, DataParallel moves what it is given.
    for wrapped in (nn.DataParallel(copy.deepcopy(trained)), distributed):
        found = evaluated(wrapped, ["baseline"])
        assert found.model == "Net"
        np.testing.assert_array_equal(found.scores["baseline"]["id"], expected["id"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types(trained: Net, dtype: torch.dtype) -> None:
    expected = evaluated(trained, ["max_logit", "odin"])
    model = copy.deepcopy(trained).to(dtype)
    spied: list[torch.dtype] = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: spied.append(inputs[0].dtype))
    result = evaluated(model, ["max_logit", "odin", "mahalanobis", "vim", Typed()])
    assert result.failed == {}
    seen = result.detectors["typed"].seen  # type: ignore[attr-defined]
    assert seen == {torch.promote_types(dtype, torch.float32)}
    assert set(spied) == {dtype}
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    for label, scores in expected.scores.items():
        np.testing.assert_allclose(
            result.scores[label]["id"], scores["id"], rtol=tolerance, atol=tolerance
        )


def test_images_are_not_in_half_precision_before_they_are_normalized() -> None:
    """A step of 0.0014 would be lost in it."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        classifier = BorrowedClassifier(
            oodbench.models.adapt(Net()),
            ((0.1, 0.1), (1.0, 1.0)),
            dtype=dtype,
            device=torch.device("cpu"),
            channels_last=True,
        )
        assert classifier.dtype == torch.promote_types(dtype, torch.float32)
        images = torch.full((1, 2, 3, 3), 0.3, dtype=classifier.dtype)
        expected = images.double() - 0.1
        assert classifier.normalized(images).dtype == dtype
        torch.testing.assert_close(classifier.normalized(images), expected.to(dtype))


def test_a_model_that_views_its_maps(trained: Net) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(64, CLASSES)

        def forward(self, images: Tensor) -> Any:
            return self.fc(self.conv(images).view(len(images), 64))

    torch.manual_seed(0)
    model = Views()
    result = evaluated(model, ["max_logit", "odin"])
    assert result.failed == {}
    expected = model(normalized(made(60, 1)[0])).detach().amax(1)
    np.testing.assert_allclose(result.scores["max_logit"]["id"], expected, rtol=1e-4)


def test_a_model_that_works_in_place_on_its_images(trained: Net) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained

        def forward(self, images: Tensor) -> Any:
            return self.net(images.sub_(0.5))

    given = made(60, 1)[0]
    kept = given.clone()
    batches = DataLoader([(given, made(60, 1)[1])], batch_size=None)  # the user's own tensors
    for options in ({"normalization": None}, {}):
        result = evaluated(InPlace(), ["baseline", "odin"], id_data=batches, **options)
        assert result.failed == {}
        torch.testing.assert_close(given, kept, rtol=0, atol=0)


def test_a_last_batch_of_one_image(trained: Net) -> None:
    whole = evaluated(trained, ["baseline", Learner()])
    given = {"id_data": DataLoader(pairs(60, 1), 59), "fit_data": DataLoader(pairs(256, 0), 255)}
    parts = evaluated(trained, ["baseline", Learner()], **given)
    for label, scores in whole.scores.items():
        np.testing.assert_allclose(parts.scores[label]["id"], scores["id"], rtol=1e-5)
    alone = evaluated(trained, ["baseline"], id_data=pairs(1, 1), ood_data={"one": pairs(1, 2)})
    assert len(alone.scores["baseline"]["one"]) == 1


class Squeezing(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images).squeeze()


BAD_MODELS: dict[str, tuple[Callable[[Net], Any], str]] = {
    "no module": (lambda net: "resnet18", "or a function that gives logits, not a str."),
    "a class": (lambda net: Net, "or a function that gives logits, not the class Net."),
    "other channels": (
        lambda net: nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten(), nn.Linear(4, CLASSES)),
        "The model Sequential cannot take the images of id_data, of shape [2, 6, 6]: RuntimeError: "
        "Given groups=1",
    ),
    "other size": (
        lambda net: nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES)),
        "cannot take the images of id_data, of shape [2, 6, 6]: RuntimeError: ",
    ),
    "not a number": (
        lambda net: _changed(net, "fc.bias", torch.nan),
        "The model's logits for image 0 of id_data are not finite.",
    ),
    "on no device": (lambda net: net.to("meta"), "on the device 'meta', without values"),
}


def _changed(net: Net, name: str, value: float) -> Net:
    net.get_parameter(name).data[0] = value
    return net


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_are_not_classifiers(trained: Net, name: str) -> None:
    make, said = BAD_MODELS[name]
    assert said in refused(make(copy.deepcopy(trained))).message


def test_a_model_that_forgets_the_batch_of_one(trained: Net) -> None:
    batches = DataLoader(pairs(61, 1), 60)
    error = refused(Squeezing(trained), id_data=batches)
    assert error.message == (
        "At image 60 of id_data: The network Squeezing returned a tensor of shape [4] for a batch "
        "of one image, not logits [images, classes]."
    )
    assert "flatten(1)" in error.hint


def test_an_image_that_makes_logits_infinite_is_named(trained: Net) -> None:
    """Also where the batch is computed in parts because it does not fit in memory."""

    class Fragile(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.net, self.most = trained, most

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > self.most:
                raise torch.OutOfMemoryError
            logits: Tensor = self.net(images)
            return logits / (images[:, 0, 0, 0] > 0.001)[:, None]

    images, labels = made(60, 1)
    images[:, 0, 0, 0] = 0.5
    images[37, 0, 0, 0] = 0.0
    data = TensorDataset(images, labels)
    for most in (1000, 7):
        for loader in (data, DataLoader(data, 16)):
            for name, given in {
                "id_data": {"id_data": loader},
                "ood_data['x']": {"ood_data": {"x": loader}},
                "fit_data": {"fit_data": loader},
            }.items():
                if most == 7 and name == "id_data" and loader is data:
                    continue  # one of these is enough
                error = refused(Fragile(most), [Learner()], normalization=None, **given)
                assert error.message == f"The model's logits for image 37 of {name} are not finite."


class LowRank(nn.Linear):
    """With an update that its weight does not hold."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + 0.1 * features.sum(1, keepdim=True).expand(-1, CLASSES)


def test_a_last_layer_whose_weights_are_not_all_there_is_to_it() -> None:
    torch.manual_seed(0)
    result = evaluated(Net(LowRank), ["energy", "dice"])
    assert result.skipped == {
        "dice": "needs the weights of a linear last layer; the logits of the model do not come "
        "from one"
    }
    assert result.failed == {}


def test_a_model_whose_logits_are_not_of_the_image_alone(trained: Net) -> None:
    model = copy.deepcopy(trained)
    model.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    result = evaluated(model, ["energy"])
    assert [n.split(",")[0] for n in result.notes] == [
        "The model gives an image that is alone in its batch other logits than beside others"
    ]
    assert "BatchNorm without running statistics" in " ".join(str(result).split())

    class Dropping(Net):
        def forward(self, images: Tensor) -> Any:
            return super().forward(F.dropout(images, 0.5))

    dropping = Dropping()
    dropping.load_state_dict(trained.state_dict())
    (note,) = evaluated(dropping, ["energy"]).notes
    assert note.startswith("The model gives an image other logits each time")
    assert evaluated(trained, ["energy"]).notes == ()


def test_the_order_of_a_sampler_is_noted(trained: Net) -> None:
    data = pairs(60, 1)
    loader = DataLoader(data, 16, sampler=WeightedRandomSampler([1.0] * 60, 60))
    (note,) = evaluated(trained, ["energy"], id_data=loader).notes
    assert note.startswith("id_data was read in the order of its own sampler")


def test_in_autocast_nothing_is_different(trained: Net) -> None:
    expected = evaluated(trained, ["energy", Learner()])
    with torch.autocast("cpu", torch.bfloat16):
        result = evaluated(trained, ["energy", Learner()])
        assert torch.is_autocast_enabled("cpu")
    for label, scores in expected.scores.items():
        np.testing.assert_array_equal(result.scores[label]["id"], scores["id"])


def test_features_that_are_worked_on_after_the_last_layer(trained: Net) -> None:
    class Spoiling(Net):
        def forward(self, images: Tensor) -> Any:
            x = self.relu(self.bn1(self.conv1(images)))
            x = self.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))
            logits = self.fc(x)
            x.zero_()
            return logits

    spoiling = Spoiling()
    spoiling.load_state_dict(trained.state_dict())
    expected = evaluated(trained, [Learner()]).scores["learner"]
    found = evaluated(spoiling, [Learner(), "dice"])
    assert found.skipped == {}, "the layer is seen to be linear"
    for name, scores in found.scores["learner"].items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made_by", ["weight norm", "spectral norm", "pruning"])
def test_a_convolution_whose_weight_is_made_in_each_pass(trained: Net, made_by: str) -> None:
    model = copy.deepcopy(trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old ways that many networks are written in
        if made_by == "weight norm":
            nn.utils.weight_norm(model.conv1)
        elif made_by == "spectral norm":
            nn.utils.spectral_norm(model.conv1)
        else:
            prune.l1_unstructured(model.conv1, "weight", 0.1)
    result = evaluated(model, ["energy"])
    expected = model.eval()(normalized(made(60, 1)[0])).detach().logsumexp(1)
    np.testing.assert_allclose(result.scores["energy"]["id"], expected, rtol=1e-4)


def test_a_body_in_half_precision_with_a_head_that_is_not(trained: Net) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = copy.deepcopy(trained).bfloat16(), copy.deepcopy(trained.fc)
            self.body.fc = nn.Identity()  # type: ignore[assignment]

        def forward(self, images: Tensor) -> Any:
            return self.fc(self.body(images).float())

    result = evaluated(Mixed(), ["energy", "react"], normalization=(MEAN, STD))
    assert result.failed == {}
    expected = evaluated(trained, ["energy"]).scores["energy"]["id"]
    assert float(np.abs(result.scores["energy"]["id"] - expected).max()) < 0.1


def test_lazy_layers_that_have_not_been_run(trained: Net) -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    assert "lazy layers that have not been run" in refused(lazy).message


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        torch.manual_seed(0)
        model = Net()
    assert evaluated(model, ["energy", "odin"]).failed == {}


@pytest.mark.parametrize("seed", [None, 1.5, "a", -1, 2**70, True])
def test_seeds_that_are_not(trained: Net, seed: Any) -> None:
    assert refused(trained, seed=seed).message == (
        f"seed: expected a whole number from 0 to 2**63 - 1, not {seed!r}."
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"costs": "no"}, "costs: expected True or False, not 'no'."),
        ({"costs": 1}, "costs: expected True or False, not 1."),
        ({"num_classes": True}, "num_classes: expected a whole number from 1, not True."),
        ({"num_classes": 4.0}, "num_classes: expected a whole number from 1, not 4.0."),
        ({"num_classes": "4"}, "num_classes: expected a whole number from 1, not '4'."),
        ({"normalization": ("0.5", "0.2")}, "normalization: expected (mean, std)"),
        ({"normalization": (True, 0.2)}, "normalization: expected (mean, std)"),
        ({"normalization": ([0.4, "0.5"], STD)}, "normalization: expected (mean, std)"),
    ],
)
def test_arguments_of_another_type(trained: Net, given: dict[str, Any], said: str) -> None:
    assert refused(trained, **given).message.startswith(said)


def test_images_of_another_shape(trained: Net) -> None:
    wider = TensorDataset(torch.rand(5, 2, 6, 9))
    assert evaluated(trained, ["baseline"], ood_data={"wide": wider}).failed == {}
    for size in ((1, 6, 6), (3, 6, 6)):
        error = refused(trained, ood_data={"svhn": torch.rand(5, *size)}, normalization=None)
        assert error.message.startswith(
            f"The model Net cannot take the images of ood_data['svhn'], of shape {list(size)}: "
            "RuntimeError: Given groups=1"
        )
        error = refused(trained, ood_data={"svhn": torch.rand(5, *size)})
        assert error.message == (
            f"normalization is for 2 channels, the images of ood_data['svhn'] have {size[0]}."
        )


def test_images_whose_channels_come_last(trained: Net) -> None:
    images = torch.rand(5, 6, 6, 3)
    error = refused(trained, ood_data={"x": TensorDataset(images)}, normalization=None)
    assert "cannot take the images of ood_data['x'], of shape [6, 6, 3]" in error.message
    assert error.hint.startswith("Their channels come last")
    wide = refused(trained, ood_data={"x": torch.rand(5, 7, 6, 6)}, normalization=None)
    assert wide.hint.startswith("Give images of the size and with the channels")


def test_devices(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluated(trained, ["baseline"], device="cpu").failed == {}
    assert evaluated(trained, ["baseline"], device=torch.device("cpu")).failed == {}
    error = refused(trained, device="cudnn")
    assert error.message == "device: expected auto, cpu, cuda or cuda:i, not 'cudnn'."
    missing = f"cuda:{torch.cuda.device_count()}"
    error = refused(trained, device=missing)
    assert error.message.startswith(f"device: no '{missing}'; torch sees")
    assert "the device cpu" in error.hint
    spread = copy.deepcopy(trained)
    spread.fc.to("meta")
    assert "on several devices: cpu, meta" in refused(spread).message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("at", "asked"), [("cpu", "auto"), ("cuda", "cpu"), ("cuda", "auto")])
def test_a_model_on_another_device_than_asked(trained: Net, at: str, asked: str) -> None:
    model = users(trained).to(at)
    before = snapshot(model)
    result = evaluated(model, [*ALL, Ensemble()], device=asked, costs=True)
    assert result.failed == {}
    assert snapshot(model) == before
    expected = evaluated(users(trained), ["baseline"], device="cpu").scores["baseline"]["id"]
    np.testing.assert_allclose(result.scores["baseline"]["id"], expected, rtol=1e-4)


# --- data and other arguments ------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["id_data", "ood_data", "fit_data", "validation_data"])
@pytest.mark.parametrize("problem", ["empty", "kind", "integers", "range", "nan"])
def test_what_is_wrong_with_data_is_said_with_the_argument(
    trained: Net, argument: str, problem: str
) -> None:
    images, labels = made(30, 5)
    data: Any = {
        "empty": TensorDataset(images[:0], labels[:0]),
        "kind": 17,
        "integers": TensorDataset((255 * images).int(), labels),
        "range": TensorDataset(images * 3 - 1, labels),
        "nan": TensorDataset(images / 0 * 0, labels),
    }[problem]
    name = "ood_data['x']" if argument == "ood_data" else argument
    error = refused(trained, **{argument: {"x": data} if argument == "ood_data" else data})
    assert error.message.startswith(name)
    said = {
        "empty": "is empty",
        "kind": "expected a DataLoader or a Dataset",
        "integers": "images are int32",
        "range": "images are in [0, 1]",
        "nan": "image 0 has values that are not finite",
    }
    assert said[problem] in error.message


def test_images_of_bytes_give_the_scores_of_the_same_images_in_the_unit_interval(
    trained: Net,
) -> None:
    def scores(kind: str) -> EvaluationResult:
        bytes_ = {seed: (255 * made(40, seed)[0]).round().byte() for seed in (5, 6, 7)}
        data = {
            seed: TensorDataset(each if kind == "bytes" else each.float() / 255, made(40, seed)[1])
            for seed, each in bytes_.items()
        }
        return evaluated(
            trained, ["baseline"], id_data=data[5], ood_data={"x": data[6]}, fit_data=data[7]
        )

    given, wanted = scores("bytes"), scores("floats")
    for name in ("id", "x"):
        np.testing.assert_array_equal(
            given.scores["baseline"][name], wanted.scores["baseline"][name]
        )
    assert [note for note in given.notes if "ood_data['x'] gives images of type uint8" in note]
    assert not [note for note in wanted.notes if "uint8" in note]


@pytest.mark.parametrize("argument", ["id_data", "fit_data", "validation_data"])
@pytest.mark.parametrize("label", [CLASSES, -1])
def test_labels_outside_of_the_classes(trained: Net, argument: str, label: int) -> None:
    images, labels = made(300, 5)
    labels[270] = label  # not in the first batch
    error = refused(
        trained,
        ["baseline", Learner(), Holding()],
        **{argument: DataLoader(TensorDataset(images, labels), 100)},
    )
    assert error.message == (
        f"{argument}: image 270 has label {label}; the model has 4 classes, so labels are 0 to 3."
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "ood_data names no data set."),
        ([pairs(3, 0)], "ood_data: expected a mapping from names to data, not a list."),
        ({"id": pairs(3, 0)}, "ood_data: 'id' is what the in-distribution scores are called."),
        ({3: pairs(3, 0)}, "ood_data: expected a name of printable characters, not 3."),
        ({" ": pairs(3, 0)}, "ood_data: expected a name of printable characters, not ' '."),
        (
            {"a\nb": pairs(3, 0)},
            "ood_data: expected a name of printable characters, not 'a\\nb'.",
        ),
    ],
)
def test_ood_data_that_name_none(trained: Net, given: Any, said: str) -> None:
    assert refused(trained, ood_data=given).message == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (((0.5,), (0.0,)), "a standard deviation is positive, not 0."),
        ((MEAN, (0.2, -1.0)), "a standard deviation is positive, not -1."),
        ((MEAN, (0.2,)), "2 means and 1 deviations"),
        (((), ()), "0 means and 0 deviations"),
        ((MEAN,), "expected (mean, std), a number per channel in each"),
        (3, "expected (mean, std), a number per channel in each"),
        (("a", "b"), "expected (mean, std)"),
        ((MEAN, (0.2, float("nan"))), "nan is not a finite number"),
        (((0.1, 0.2, 0.3), (1, 1, 1)), "normalization is for 3 channels, the images of id_data"),
    ],
)
def test_normalizations_that_are_not(trained: Net, given: Any, said: str) -> None:
    assert said in refused(trained, normalization=given).message


def test_numbers_of_classes_and_taps(trained: Net) -> None:
    assert evaluated(trained, ["baseline"], num_classes=CLASSES).num_classes == CLASSES
    error = refused(trained, num_classes=10)
    assert error.message == "num_classes is 10, and the model gives 4 logits for an image."
    error = refused(trained, [Ensemble()], taps=["conv3"])
    assert "has no module 'conv3'" in error.message
    assert "Did you mean 'conv" in error.hint
    assert "'relu' runs 2 times" in refused(trained, taps=["relu"]).message


def test_a_stream_that_cannot_be_read_again(trained: Net) -> None:
    class Twice(Learner):
        def fit(self, batches: Batches) -> None:
            list(batches)
            super().fit(batches)

    class Once(IterableDataset[Any]):
        def __init__(self) -> None:
            images, labels = made(300, 0)
            self.items = iter(list(zip(images, labels, strict=True)))

        def __iter__(self) -> Iterator[Any]:
            return self.items

    assert evaluated(trained, [Learner()], fit_data=Once()).failed == {}
    error = refused(trained, [Twice()], fit_data=Once())
    assert error.message == "fit_data gave 300 images, and 0 when it was read again."


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_loader_for_several_arguments(trained: Net, shuffle: bool) -> None:
    """One whose workers stay has one iterator for all who read it."""
    data = pairs(60, 1)
    loader = DataLoader(data, 16, shuffle, num_workers=1, persistent_workers=True)
    result = evaluated(trained, [Learner()], id_data=loader, fit_data=loader)
    again = evaluated(trained, [Learner()], fit_data=data)
    np.testing.assert_allclose(
        result.scores["learner"]["id"], again.scores["learner"]["id"], rtol=1e-4
    )


def test_an_attack_that_fools_nobody(trained: Net) -> None:
    few = evaluated(trained, ["mahalanobis", "baseline"], validation_data=pairs(10, 4))
    assert few.failed == {
        "mahalanobis": "attacking the 10 images of validation_data fooled the model on fewer than "
        "20, too few to tune on: give more"
    }


def test_validation_images_of_several_sizes(trained: Net) -> None:
    batches = [made(9, 0), (torch.rand(9, 2, 8, 8), made(9, 0)[1])]
    result = evaluated(
        trained,
        ["mahalanobis", "baseline"],
        validation_data=DataLoader(batches, batch_size=None),  # type: ignore[arg-type]
    )
    assert "have several sizes" in result.failed["mahalanobis"]


def test_what_tuning_warns_of_is_a_note(trained: Net) -> None:
    @register("warning", needs=("calibration",))
    class Complaining(Loudest):
        def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
            warnings.warn("did not converge\nin file", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluated(trained, [Complaining()])
    assert result.failed == {}
    assert "warning: did not converge." in result.notes


# --- how it looks ------------------------------------------------------------------------------


def test_costs(trained: Net) -> None:
    result = evaluated(trained, {"mine": "odin", "e": "energy"}, costs=True)
    by_name = {cost.method: cost for cost in result.costs}
    assert [*by_name] == ["mine", "e"]
    assert (by_name["mine"].forwards_per_image, by_name["mine"].backwards_per_image) == (2, 1)
    assert (by_name["e"].forwards_per_image, by_name["e"].backwards_per_image) == (1, 0)
    ratio = by_name["mine"].relative_to_baseline
    assert ratio is not None
    assert ratio > 0
    for text in (result.to_text(), result.to_markdown(), result._repr_html_()):
        assert "Cost, " in text
        assert "baseline" in text
    with_baseline = evaluated(trained, ["energy", "baseline"], costs=True)
    assert [c.relative_to_baseline for c in with_baseline.costs if c.method == "baseline"] == [1.0]
    labeled = evaluated(trained, {"baseline": "odin"}, costs=True)
    (cost,) = labeled.costs
    assert cost.relative_to_baseline != 1.0, "a label is not taken for what it names"


def test_tables(trained: Net) -> None:
    result = evaluated(trained, ["baseline", "energy", "mmles"])
    text = result.to_text(100)
    assert text.startswith("2 detectors on Net\nIn-distribution: 60 images, 4 classes, accuracy ")
    assert "OOD: noise (50), inverted (40)." in text
    assert max(map(len, text.splitlines())) <= 100
    for nothing in ("Seed", "seed", "Benchmark", "Tuned", "Cost", "version"):
        assert nothing not in text
    assert repr(result) == str(result)
    auroc = f"{100 * metrics.auroc(*map(result.scores['energy'].get, ('id', 'noise'))):.1f}"  # type: ignore[arg-type]
    for shown in (text, result.to_markdown(), result._repr_html_()):
        assert auroc in shown
    frame = result.to_pandas().set_index("method")
    assert f"{100 * frame.loc['energy', 'auroc_noise']:.1f}" == auroc
    wide = result.to_pandas(wide=True).set_index("method")
    assert wide.loc["energy", "auroc.set.noise"] == frame.loc["energy", "auroc_noise"]
    assert frame.loc["mmles", "status"] == "skipped"
    assert "temperature 1" in result.to_markdown()
    page = result._repr_html_()
    assert "<html" not in page
    assert "<body" not in page
    rules = page.split("<style>")[1].split("</style>")[0]
    for rule in rules.split("}")[:-1]:
        for selector in rule.split("{")[0].split(","):
            assert selector.strip().startswith(".oodbench"), "nothing around it is restyled"


def test_ties_are_paired_differences(trained: Net) -> None:
    detectors = {"a": "energy", "b": "energy", "c": "baseline", "d": "odin"}
    result = evaluated(trained, detectors)
    board = result.leaderboard()
    assert board.tested
    rows = {row.method: row for row in board.rows}
    for key, entry in rows["a"].entries.items():
        assert entry.mark == rows["b"].entries[key].mark, "equal scores have equal marks"
    # The mean, the worst and two sets; the best one has none.
    assert len(result.differences) == 3 * 4 * 6
    text = " ".join(result.to_text().split())
    assert "their paired difference" in text
    assert "corrected for 4 methods" in text
    assert "overlap" not in text
    assert "FPR95\N{DOWNWARDS ARROW}" in text
    one = evaluated(trained, ["energy"])
    assert {each.mark for row in one.leaderboard().rows for each in row.entries.values()} == {None}
    assert "Best of its column" not in one.to_text()


def test_tables_of_one_set_and_many(trained: Net) -> None:
    one = evaluated(trained, ["baseline"], ood_data={"noise": pairs(9, 2, "noise")}).to_text(80)
    assert "mean" not in one
    assert "worst" not in one.lower()
    many = {f"a data set with a long name {index}": pairs(9, index, "noise") for index in range(9)}
    text = evaluated(trained, ["baseline"], ood_data=many).to_text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Not shown at this width" in text


def test_a_step_in_other_units_is_said(trained: Net) -> None:
    said = "normalization was not given, so the step of the input perturbation"
    assert said in " ".join(evaluated(trained, ["odin"], normalization=None).to_text().split())
    assert said not in " ".join(evaluated(trained, ["odin"]).to_text().split())


def test_it_prints_as_wide_as_the_terminal(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluated(trained, ["baseline"])
    for columns, most in ((70, 70), (300, 120), (10, 60)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, str(result).splitlines())) <= most


# --- what a detector does not declare ---------------------------------------------------------


class Peeks(Detector):
    """Reads an attribute, to fit or to score."""

    def __init__(self, attribute: str, fitting: bool) -> None:
        self.attribute, self.fitting = attribute, fitting

    def fit(self, batches: Batches) -> None:
        for outputs in batches:
            if self.fitting:
                getattr(outputs, self.attribute)

    def score(self, outputs: Outputs) -> Tensor:
        if not self.fitting:
            getattr(outputs, self.attribute)
        return outputs.logits.amax(dim=1)


@pytest.mark.parametrize("fitting", [True, False])
@pytest.mark.parametrize("attribute", ["labels", "features", "head", "taps", "feature_map"])
def test_what_is_not_declared_is_not_there(trained: Net, attribute: str, fitting: bool) -> None:
    cls = register("peeks", needs=("fit",))(type("Cls", (Peeks,), {}))
    result = evaluated(trained, [cls(attribute, fitting), "energy"], fit_data=pairs(60, 3))
    assert (
        f"outputs.{attribute} is not declared: write needs=('{attribute}', ...)"
        in (result.failed["peeks"])
    )
    cls = register("peeks", needs=("fit", attribute))(type("Cls", (Peeks,), {}))  # type: ignore[arg-type]
    result = evaluated(trained, [cls(attribute, fitting), "energy"], fit_data=pairs(60, 3))
    assert not result.failed


def test_what_is_withheld_stays_so_in_parts_and_copies() -> None:
    outputs = Outputs(torch.zeros(4, 3).double(), torch.zeros(4, 2), labels=torch.arange(4))
    seen = outputs.only({"features"})
    for part in (
        seen[:2],
        seen.detach(),
        copy.deepcopy(seen),
        pickle.loads(pickle.dumps(seen)),
        Outputs.concatenate([seen, seen]),
    ):
        assert part.features.shape[1] == 2
        assert not hasattr(part, "labels")
    assert "labels" not in repr(seen)
    with pytest.raises(AttributeError, match="Did you mean 'features'"):
        seen.feature  # type: ignore[attr-defined]  # noqa: B018
