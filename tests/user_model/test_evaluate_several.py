"""Several models, all detectors and tuning in one call of `oodbench.evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_sequence import (
    CLASSES,
    Raising,
    Returning,
    body,
    classifier,
    evaluated,
    images,
    pooling,
)
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from oodbench import Detector, Outputs, UserError, register
from oodbench.detector import Batches
from oodbench.plugins.catalog import Catalog

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_several_models_on_one_board() -> None:
    torch.manual_seed(3)
    first, second = classifier(), nn.Sequential(body(), pooling(), nn.Linear(12, CLASSES))
    detectors = {"baseline": "baseline", "near": "knn"}
    found = evaluated({"a": first, "b": lambda x: second(x)}, detectors, costs=True)
    assert list(found.scores) == ["a+baseline", "a+near", "b+baseline"]
    assert list(found.skipped) == ["b+near"]
    for name, model in (("a", first), ("b", second)):
        alone = evaluated(model, ["baseline"]).scores["baseline"]
        for dataset, scores in found.scores[f"{name}+baseline"].items():
            np.testing.assert_allclose(scores, alone[dataset], rtol=1e-6)
    board = found.leaderboard()
    assert {(row.method, row.model) for row in board.rows} == {
        ("a+baseline", "a"),
        ("a+near", "a"),
        ("b+baseline", "b"),
    }
    assert {cost.method for cost in found.costs} == set(found.scores)
    assert found.models["a"].head == "2"
    assert found.models["b"].head == ""
    text = " ".join(found.to_text().split())
    assert "3 methods on a, b" in text
    assert "a: 6 classes, accuracy" in text
    assert "b: 6 classes, accuracy" in text
    with pytest.raises(UserError, match="several models: a, b"):
        _ = found.head


def test_what_belongs_to_one_of_several_models() -> None:
    model = classifier()
    tupled = Returning(lambda logits, *rest: {"a": logits + 1, "b": logits})
    found = evaluated({"x": model, "y": tupled}, ["energy"], output={"y": "b"})
    np.testing.assert_array_equal(found.scores["x+energy"]["id"], found.scores["y+energy"]["id"])
    for given, said in (
        ({"models": {"x": model}, "output": {"z": 1}}, "output: there is no model 'z'"),
        ({"models": {}}, "model names none"),
        ({"models": {"": model}}, "expected a name for each model"),
        ({"models": {"x": 3}}, "not an int"),
    ):
        with pytest.raises(UserError, match=said):
            evaluated(given["models"], ["energy"], output=given.get("output"))


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder of detectors: one that works, and one that cannot be imported."""
    folder = tmp_path / "mine" / "detectors"
    folder.mkdir(parents=True)
    (folder / "margin.py").write_text(
        "from oodbench import Detector, register\n\n\n"
        '@register("margin")\n'
        "class Margin(Detector):\n"
        '    """How far the first logit is ahead."""\n\n'
        "    def score(self, outputs):\n"
        "        first, second = outputs.logits.topk(2, dim=1).values.unbind(dim=1)\n"
        "        return first - second\n"
    )
    (folder / "wrecked.py").write_text(
        "from oodbench import Detector, register\nimport no_such_module\n\n\n"
        '@register("wrecked")\nclass Wrecked(Detector):\n'
        '    """None."""\n\n    def score(self, outputs):\n        return outputs.logits[:, 0]\n'
    )
    return tmp_path / "mine"


def test_all_detectors_and_those_of_a_folder(plugin: Path) -> None:
    found = evaluated(classifier(), "all", plugins=[plugin])
    names = set(Catalog([plugin]).detectors)
    assert len(names) > 30
    assert set(found.scores) | set(found.skipped) | set(found.failed) == names
    assert {"energy", "knn", "margin", "vim"} <= set(found.scores)
    assert "no_such_module" in found.skipped["wrecked"]
    assert "DisMax head" in found.skipped["mmles"]
    assert "validation_data" in found.skipped["mahalanobis"]
    statuses = {r.method: r.status for r in found.records}
    assert statuses["wrecked"] == "skipped"
    assert list(evaluated(classifier(), "margin", plugins=str(plugin)).scores) == ["margin"]
    with pytest.raises(UserError, match="margin"):
        evaluated(classifier(), "margin")


def fooled() -> dict[str, Any]:
    """Data that a model can be tuned on: validation images are labeled as it classifies them."""
    with torch.no_grad():
        validation = images(160, 3)
        labels = classifier()((validation - 0.5) / 0.25).argmax(1)
    return {"validation_data": TensorDataset(validation, labels), "normalization": (0.5, 0.25)}


def test_tuning_is_that_of_benchmarks() -> None:
    model, given = classifier(), fooled()
    detectors = ["baseline", "odin", "react"]
    as_they_come = evaluated(model, detectors, **given)
    assert {r.tuned_on for r in as_they_come.records} == {"none"}
    assert "Chosen by tuning" not in as_they_come.to_text()
    some = evaluated(model, detectors, tune=["odin"], **given)
    every = evaluated(model, detectors, tune="all", **given)
    assert {r.method: r.tuned_on for r in some.records} == {
        "baseline": "none",
        "odin": "fgsm",
        "react": "none",
    }
    assert {r.method: r.tuned_on for r in every.records} == {
        "baseline": "none",
        "odin": "fgsm",
        "react": "fgsm",
    }
    np.testing.assert_array_equal(some.scores["odin"]["id"], every.scores["odin"]["id"])
    chosen = every.detectors["odin"].parameters
    space = every.detectors["odin"].info.search_space
    assert all(chosen[name] in values for name, values in space.items())
    shown = " ".join(every.to_text().partition("Chosen by tuning")[2].split())
    assert f"temperature {chosen['temperature']:g}" in shown
    assert f"epsilon {chosen['epsilon']:g}" in shown
    again = evaluated(model, [Catalog().load_detector("odin", chosen)], **given)
    np.testing.assert_allclose(
        again.scores["odin"]["id"], every.scores["odin"]["id"], rtol=1e-6, atol=1e-9
    )


def test_what_cannot_be_tuned() -> None:
    without = evaluated(classifier(), ["odin", "energy"], tune="odin")
    assert "validation_data" in without.skipped["odin"]
    mine = Catalog().load_detector("odin", {"temperature": 7.0})
    kept = evaluated(classifier(), {"mine": mine}, tune="all", **fooled())
    assert kept.detectors["mine"].parameters["temperature"] == 7.0, "an instance is as it was set"
    tuned = evaluated(classifier(), {"mine": mine}, tune=["mine"], **fooled())
    assert {r.tuned_on for r in tuned.records} == {"fgsm"}
    for tune, said in (
        ("react", "there is no detector 'react'"),
        (["baseline"], "declares no search space"),
        (3, "expected 'all', 'none', or labels"),
    ):
        with pytest.raises(UserError, match=said):
            evaluated(classifier(), ["baseline", "odin"], tune=tune)


@pytest.mark.parametrize("method", ["fit", "score"])
def test_what_a_detector_raised_may_be_raised(method: str) -> None:
    @register("breaking", needs=("fit",))
    class Breaking(Detector):
        """Raises."""

        def fit(self, batches: Batches) -> None:
            for _ in batches:
                if method == "fit":
                    raise LookupError("in fit")

        def score(self, outputs: Outputs) -> Tensor:
            raise LookupError("in score")

    kept = evaluated(classifier(), ["energy", Breaking()])
    assert list(kept.scores) == ["energy"]
    with pytest.raises(LookupError, match=f"in {method}") as caught:
        evaluated(classifier(), ["energy", Breaking()], errors="raise")
    assert caught.traceback[-1].name == method, "it points into the detector"
    assert evaluated(classifier(), ["energy"], errors="raise").failed == {}
    with pytest.raises(UserError, match="errors: expected 'skip' or 'raise'"):
        evaluated(classifier(), ["energy"], errors="ignore")


def test_sets_stay_in_the_order_given() -> None:
    sets = {name: TensorDataset(images(20, 5).square()) for name in ("z", "m", "a")}
    found = evaluated(classifier(), ["energy"], ood_data=sets)
    text = found.to_text()
    assert text.index("z (20)") < text.index("m (20)") < text.index("a (20)")
    assert [each.name for each in found.leaderboard().ood_sets] == ["z", "m", "a"]
    assert list(found.scores["energy"]) == ["id", "z", "m", "a"]


LOST: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: Raising(ValueError("broken")), "ValueError: broken"),
    "other classes": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "has label 4"),
    "no logits": (lambda: lambda x: None, "not logits"),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("why", LOST)
def test_a_model_that_cannot_be_evaluated_loses_no_other(why: str, first: bool) -> None:
    make, said = LOST[why]
    models = {"bad": make(), "good": classifier()} if first else {"good": classifier()}
    models |= {"bad": make()}
    names = ["baseline", "energy"]
    found = evaluated(models, names)
    assert list(found.scores) == ["good+baseline", "good+energy"]
    alone = evaluated(classifier(), names)
    for name in names:
        for dataset, scores in alone.scores[name].items():
            np.testing.assert_array_equal(found.scores[f"good+{name}"][dataset], scores)
    assert set(found.failed) == {"bad+baseline", "bad+energy"}
    assert all(r.startswith("Model bad: ") and said in r for r in found.failed.values())
    failed = {record.method for record in found.records if record.status == "failed"}
    assert failed == set(found.failed)
    text = " ".join(found.to_text().split())
    assert "Model bad: " in text
    assert said in text
    assert "bad+energy" in found.to_markdown()
    with pytest.raises(UserError, match=r"^Model bad: ") as caught:
        evaluated(models, names, errors="raise")
    assert said in caught.value.message


def test_if_no_model_can_be_evaluated_the_first_error_is_raised() -> None:
    for why, (make, said) in LOST.items():
        with pytest.raises(UserError, match=r"^Model a: ") as caught:
            evaluated({"a": make(), "b": make()}, ["energy"])
        assert said in caught.value.message, why


@pytest.mark.parametrize("first", [True, False])
def test_a_model_on_which_no_detector_runs_is_skipped(first: bool) -> None:
    black = lambda x: classifier()(x)  # noqa: E731
    models = {"black": black, "good": classifier()} if first else {"good": classifier()}
    found = evaluated(models | {"black": black}, ["knn"])
    assert list(found.scores) == ["good+knn"]
    assert list(found.skipped) == ["black+knn"]
    assert "needs the features" in found.skipped["black+knn"]
    assert found.failed == {}


@pytest.mark.parametrize("kind", [list, tuple, lambda nets: dict(enumerate(nets))])
@pytest.mark.parametrize("registered", [False, True])
def test_modules_in_plain_containers_have_a_reason_of_their_own(
    kind: Callable[..., Any], registered: bool
) -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = kind([classifier(), classifier()])
            self.before = nn.Identity() if registered else None

        def forward(self, x: Tensor) -> Tensor:
            x = x if self.before is None else self.before(x)
            logits: Tensor = self.nets[0](x) + self.nets[1](x)
            return logits

    found = evaluated(Ensemble(), ["energy", "knn"])
    assert list(found.scores) == ["energy"]
    assert "torch.nn.ModuleList" in found.skipped["knn"]
    assert "made from" not in found.skipped["knn"]
    assert "head=" not in found.skipped["knn"]
