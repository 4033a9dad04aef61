"""`oodbench.evaluate`: scores, records, and the same result each time."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_detectors import Learner
from helpers.user_network import (
    CLASSES,
    Net,
    arguments,
    evaluated,
    made,
    normalized,
    pairs,
    plainly,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import oodbench
from oodbench import metrics

pytestmark = pytest.mark.usefixtures("quick_evaluation")


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
    # Fitting, ID, two OOD sets, each once; before that, a few images to look at the model, one of
    # them alone, and four to see which BatchNorms can be folded (none: a hook watches conv1); at
    # the end two fixed ones, twice, by which a saved detector knows its model again.
    assert sum(sizes) == 256 + 60 + 50 + 40 + 3 + 1 + 4 + 2 * 2
    sizes.clear()
    evaluated(model, ["baseline", "odin"])
    # Three images more, to see whether the model gives a gradient for its input.
    assert sum(sizes) == 2 * (60 + 50 + 40) + 3 + 1 + 3 + 4 + 2 * 2


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
