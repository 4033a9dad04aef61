"""Mistakes that would be ranked without a word: each has a warning, and honest data have none."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import metrics
from oodbench.data import ImageArray
from oodbench.data.duplicates import digests, fingerprints
from oodbench.detector import Batches, Detector, Outputs, register
from oodbench.engine.mistakes import Confusion, Values, labels_signs, shared_signs, values_signs
from oodbench.report import Leaderboard
from oodbench.report.score_warnings import score_warnings, tie_notes
from oodbench.specs import LimitSpec
from oodbench.storage.records import QualityRecord
from oodbench.user_model.evaluation_result import EvaluationResult

CLASSES = 4


class Levels(nn.Module):
    """Gives an image the class that its mean is nearest to; the last layer is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = (torch.arange(CLASSES) + 0.5) / CLASSES
        self.fc = nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.fc.weight.copy_(50 * torch.eye(CLASSES))
            self.fc.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(1 - (images.mean(dim=(2, 3)) - self.centers) ** 2)
        return logits


def images_of(labels: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = 0.04 * torch.randn(len(labels), 1, 4, 4, generator=generator)
    return ((labels + 0.5) / CLASSES)[:, None, None, None] + noise


def known(count: int, seed: int, *, order: tuple[int, ...] = (0, 1, 2, 3)) -> TensorDataset:
    """Images whose labels are right, or right in another order of the classes."""
    labels = torch.arange(count) % CLASSES
    return TensorDataset(images_of(labels, seed), torch.tensor(order)[labels])


def other(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(count, 1, 4, 4, generator=generator))


def evaluated(
    detectors: list[str | Detector] | Mapping[str, str | Detector], **data: object
) -> EvaluationResult:
    given = {"id_data": known(80, 1), "fit_data": known(80, 2), "ood_data": {"far": other(60, 3)}}
    return oodbench.evaluate(Levels(), detectors, **(given | data))  # type: ignore[arg-type]


def test_nothing_is_said_of_honest_data() -> None:
    assert evaluated(["baseline", "knn"]).warnings == ()


@pytest.mark.parametrize("classes", [10, 3, 100])
def test_accuracy_at_chance_is_said(classes: int) -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, classes, (2, 1000))
    (sign,) = labels_signs("id_data", Confusion.of(classes, labels, predicted))
    assert "no better than chance" in sign
    assert f"{np.mean(labels == predicted):.1%}" in sign
    # Three times as good as chance is bad, but not chance.
    better = np.where(generator.random(1000) < 3 / classes, labels, predicted)
    if classes > 3:
        assert not list(labels_signs("id_data", Confusion.of(classes, labels, better)))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("right", [(1,), (1, 1), (1, 1, 0), (1, 1, 1, 1, 1, 1, 0)])
def test_a_few_images_that_are_mostly_right_are_no_sign(classes: int, right: Sequence[int]) -> None:
    """Guessing may reach any accuracy of so few images, and so may a model that is good."""
    labels = np.zeros(len(right), dtype=int)
    predicted = 1 - np.array(right)
    assert not list(labels_signs("id_data", Confusion.of(classes, labels, predicted)))


def test_one_prediction_for_all_images_is_chance() -> None:
    labels = np.arange(200) % 10
    (sign,) = labels_signs("id_data", Confusion.of(10, labels, np.full(200, 3)))
    assert "chance" in sign


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0)])
def test_another_order_of_classes_is_said_where_it_is(order: tuple[int, ...]) -> None:
    result = evaluated(["knn"], id_data=known(80, 1, order=order))
    (sign,) = result.warnings
    assert "labels of id_data" in sign
    assert "another order" in sign
    assert "100.0%" in sign
    assert all(f"{order[label]} as {label}" in sign for label in range(4) if order[label] != label)
    (of_fit,) = evaluated(["knn"], fit_data=known(80, 2, order=order)).warnings
    assert "labels of fit_data" in of_fit


def test_fit_labels_that_disagree_with_the_model_are_said() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, CLASSES, 80))
    noisy = TensorDataset(images_of(torch.arange(80) % CLASSES, 2), labels)
    (sign,) = evaluated(["knn"], fit_data=noisy).warnings
    assert "labels of fit_data agree with the model on" in sign


def test_a_weak_model_is_no_other_order() -> None:
    """Two classes that are confused with one another, each more often right than wrong."""
    counts = np.array([[60, 40, 0], [45, 55, 0], [10, 60, 30]])
    assert not list(labels_signs("id_data", Confusion(counts)))


def test_sets_that_are_the_same_or_share_images_are_said() -> None:
    id_data = known(80, 1)
    half = torch.cat([id_data.tensors[0][:30], other(30, 5).tensors[0]])
    sets = {"same": id_data, "half": TensorDataset(half), "far": other(60, 3)}
    signs = evaluated(["energy"], id_data=id_data, ood_data=sets).warnings
    assert "id_data and ood_data['same'] hold the same 80 images." in signs
    assert "30 of the 60 images of ood_data['half'] are images of id_data too." in signs
    assert not any("far" in sign for sign in signs)
    assert any(
        "fit_data" in s for s in evaluated(["knn"], fit_data=id_data, id_data=id_data).warnings
    )


def test_one_shared_image_is_one() -> None:
    prints = {"a": np.arange(5, dtype=np.uint64), "b": np.array([9, 4], dtype=np.uint64)}
    assert list(shared_signs(prints)) == ["1 of the 2 images of b is an image of a too."]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, (3, 40, 40)),
        (torch.uint8, (1, 8, 8)),
        (torch.bfloat16, (5,)),
        (torch.float64, (2, 3, 4, 5)),
    ],
)
def test_fingerprints_tell_images_apart_whatever_the_batch(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    images = (torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) * 200).to(dtype)
    whole = fingerprints(images)
    assert len(set(whole.tolist())) == 20
    again = np.concatenate([fingerprints(images[:7]), fingerprints(images[7:])])
    assert (again == whole).all()
    changed = images.clone()
    changed.view(20, -1)[:, 1] += 1  # one value of each image, sampled or not
    assert not np.isin(fingerprints(changed), whole).any()


def test_digests_and_fingerprints_agree_on_what_is_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8)).astype(np.uint8)
    images[5] = images[2]
    for numbers in (digests(ImageArray(images)), fingerprints(torch.from_numpy(images))):
        assert [
            (a, b) for a, b in itertools.combinations(range(9), 2) if numbers[a] == numbers[b]
        ] == [(2, 5)]


@register("upside_down", needs=("features",))
class UpsideDown(Detector):
    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.amax(dim=1)


@register("coarse", needs=("fit",))
class Coarse(Detector):
    """Two values, of which nearly all images have the same."""

    def fit(self, batches: Batches) -> None:
        for _ in batches:
            pass

    def score(self, outputs: Outputs) -> Tensor:
        return (outputs.logits.amax(dim=1) > 49.5).double()


def test_scores_of_the_wrong_sign_are_said() -> None:
    sets = {
        name: TensorDataset(0.1 * other(40, seed).tensors[0]) for seed, name in enumerate("abc")
    }
    result = evaluated({"right": "max_logit", "wrong": UpsideDown()}, ood_data=sets)
    (sign,) = result.warnings
    assert sign.startswith("wrong: ")
    assert "3 of 3 OOD sets" in sign
    assert "sign" in sign


def test_tied_scores_stand_in_records_notes_and_warnings() -> None:
    result = evaluated({"coarse": Coarse(), "energy": "energy"})
    scores = result.scores["coarse"]
    share = metrics.tie_fraction(scores["id"], scores["far"])
    assert share > 0.2
    records = [r for r in result.records if r.method == "coarse" and r.ood_dataset == "far"]
    assert {record.tie_fraction for record in records} == {share}
    assert {r.tie_fraction for r in result.records if r.metric == "id_accuracy"} == {None}
    assert any(
        note.startswith("coarse: ") and f"{share:.1%} on far" in note for note in result.notes
    )
    (sign,) = result.warnings
    assert sign.startswith("coarse: ")
    assert f"{share:.0%} of the pairs" in sign
    assert not list(tie_notes(r for r in result.records if r.method == "energy"))


def _record(**values: object) -> QualityRecord:
    blank = evaluated(["energy"]).records[0]
    return dataclasses.replace(blank, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("aurocs", "said"), [([0.3, 0.39, 0.9], True), ([0.3, 0.41, 0.9], False), ([0.39], True)]
)
def test_most_sets_count_and_the_mean_over_seeds(aurocs: list[float], said: bool) -> None:
    blank = _record(metric="auroc", tie_fraction=0.0)
    records = [
        dataclasses.replace(blank, ood_dataset=f"set {number}", seed=seed, value=value + shift)
        for number, value in enumerate(aurocs)
        for seed, shift in ((0, -0.2), (1, 0.2))
    ]
    assert bool(list(score_warnings(records))) is said


def test_every_format_shows_the_warnings() -> None:
    result = evaluated(["energy"], id_data=known(80, 1, order=(1, 0, 2, 3)))
    (sign,) = result.warnings
    board = result.leaderboard()
    assert isinstance(board, Leaderboard)
    assert board.warnings == (sign,)
    words = sign.split(":")[0]
    texts = [result.to_text(), result.to_markdown(), board.to_text(), board.to_markdown()]
    texts += [board.to_html(), result._repr_html_(), board.to_latex(), board.to_json()]
    for text in texts:
        flat = " ".join(text.replace("\\_", "_").replace("{", "").replace("}", "").split())
        assert words.split("id_data")[1] in flat


# --- images on several scales ------------------------------------------------------------------


def _bytes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("factor", [255.0, 6.0])
@pytest.mark.parametrize("id_in_bytes", [True, False])
def test_bytes_beside_floats_on_another_scale_are_said(factor: float, id_in_bytes: bool) -> None:
    labels = torch.arange(80) % CLASSES
    images = (images_of(labels, 1).clamp(0, 1) * 255).byte()
    floats = TensorDataset((other(60, 3).tensors[0] - 0.5 * (factor < 255)) * factor)
    in_bytes = TensorDataset(_bytes(60, 3))
    found = evaluated(
        ["energy"],
        id_data=TensorDataset(images if id_in_bytes else images.float() * factor / 255, labels),
        ood_data={"far": floats if id_in_bytes else in_bytes},
        fit_data=None,
    )
    name, others = ("ood_data['far']", "id_data") if id_in_bytes else ("id_data", "ood_data['far']")
    said = [each for each in found.warnings if f"The images of {name} have values from" in each]
    assert len(said) == 1
    assert f"the images of {others} were uint8 and are scaled to [0, 1]" in said[0]


def test_one_scale_is_no_sign_and_bytes_as_floats_are() -> None:
    unit, normal = Values(False, 0.0, 1.0), Values(False, -2.1, 2.6)
    scaled, raw = Values(True, np.inf, -np.inf), Values(False, 0.0, 255.0)
    for values in ((unit, scaled), (unit, normal), (normal, normal), (raw, raw), (scaled, scaled)):
        assert not list(values_signs(dict(zip("ab", values, strict=True))))
    for values in ((unit, raw), (scaled, raw), (scaled, normal), (unit, Values(True, 0.0, 200.0))):
        (said,) = values_signs(dict(zip("ab", values, strict=True)))
        assert f"values from {values[1].low:.3g} to {values[1].high:.3g}" in said


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch only"), (3, "3 epochs only")])
def test_a_short_training_is_named_as_a_reason(epochs: int, said: str) -> None:
    counts = np.full((10, 10), 5)
    perhaps = LimitSpec(epochs=epochs).weakens
    for fitted_on in (True, False):
        (sign,) = labels_signs("it", Confusion(counts), fitted_on=fitted_on, perhaps=perhaps)
        assert f"The network was trained for {said} (--epochs)" in sign
    assert LimitSpec(images=50).weakens == ""
