"""Detectors in `oodbench.evaluate`: by name and by object, skipped, failed, undeclared inputs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import user_detectors
from helpers.user_detectors import Constant, Ensemble, Holding, Learner, Loudest, Raising
from helpers.user_network import CLASSES, Net, evaluated, made, pairs, refused
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector, Outputs, PerturbingDetector, register
from oodbench.detector import Batches
from oodbench.engine.method_results import MethodResult, fail_constant_scores
from oodbench.losses import DisMaxHead

pytestmark = pytest.mark.usefixtures("quick_evaluation")


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
        "needs labels; fit_data has none",
    ),
    "validation": (
        Holding(),
        {"validation_data": None},
        "needs validation_data, images that the model was not trained on",
    ),
    "validation labels": (
        Holding(),
        {"validation_data": made(9, 0)[0]},
        "needs labels; validation_data has none",
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
        "is tuned on attacked images: needs labels; validation_data has none",
    ),
    "normalization": (
        "mahalanobis",
        {"normalization": None},
        "is tuned on attacked images: needs images in [0, 1], and normalization",
    ),
    "taps": (
        Ensemble(),
        {"taps": ()},
        "needs feature layers, and no stages were found: name modules with taps=[...]",
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
    lines = Path(user_detectors.__file__).read_text().splitlines()
    (line, *_) = [number for number, text in enumerate(lines, 1) if raised in text]
    wanted = f"{said} (helpers/user_detectors.py, line {line})"
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
        ([3], "not an int", ""),
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

    assert "Unregistered is not registered" in refused(trained, [Unregistered()]).message

    @register("stepless", needs=("input_gradient",))
    class Stepless(PerturbingDetector):
        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits.amax(1)

        def perturbation_losses(self, outputs: Outputs) -> dict[str, Tensor]:
            return {"logits": outputs.logits.amax(1)}

    assert "has no step size" in refused(trained, [Stepless()]).message


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
