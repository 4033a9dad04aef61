"""Classes that data sets say they have: found wherever they are, and made to mean the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    random_split,
)

import oodbench
from oodbench import EvaluationResult, UserError
from oodbench.storage.records import ID_ACCURACY
from oodbench.user_data.declared_classes import declared_classes

WHOLE = ("a", "b", "c", "d")
LEVELS = {name: 0.1 + 0.2 * number for number, name in enumerate((*WHOLE, "e"))}


class Classes(TensorDataset):
    """Ten images of each class, whose level is the class's; labels number the names."""

    def __init__(self, names: Any, *, declare: str = "both") -> None:
        images = torch.cat([torch.full((10, 3, 4, 4), LEVELS[name]) for name in names])
        super().__init__(images, torch.arange(len(names)).repeat_interleave(10))
        if declare in ("both", "classes"):
            self.classes = list(names)
        if declare in ("both", "class_to_idx"):
            self.class_to_idx = {name: number for number, name in reversed([*enumerate(names)])}


class Wrapper(Dataset[Any]):
    """Somebody's own way to change images, or labels."""

    def __init__(self, dataset: Any, label: Callable[[int], int] = int) -> None:
        self.dataset, self.label = dataset, label

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        return image, self.label(label)


class Picky(Dataset[Any]):
    """Raises when it is asked for its classes."""

    @property
    def classes(self) -> list[str]:
        raise RuntimeError("not downloaded")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The class whose level is nearest, by hand: always right on the four classes."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    levels = torch.tensor([LEVELS[name] for name in WHOLE])
    with torch.no_grad():
        model[2].weight.copy_((levels * 200)[:, None].repeat(1, 3) / 3)
        model[2].bias.copy_(-100 * levels**2)
    return model


def evaluated(model: nn.Module, detector: str = "baseline", **data: Any) -> EvaluationResult:
    ood = {"noise": TensorDataset(torch.rand(20, 3, 4, 4))}
    return oodbench.evaluate(model, [detector], ood_data=ood, **data)


def accuracy(result: EvaluationResult) -> float:
    (value,) = [each.value for each in result.records if each.metric == ID_ACCURACY]
    assert value is not None
    return value


def matched(result: EvaluationResult) -> list[str]:
    return [note for note in result.notes if "matched by class name" in note]


AROUND: dict[str, Callable[[Any], Any]] = {
    "itself": lambda data: data,
    "subset": lambda data: Subset(data, range(0, len(data), 3)),
    "subset of a subset": lambda data: Subset(Subset(data, range(len(data))), range(len(data))),
    "random split": lambda data: random_split(data, [0.5, 0.5], torch.Generator().manual_seed(0))[
        1
    ],
    "loader": lambda data: DataLoader(data, 7),
    "shuffling loader of a subset": lambda data: DataLoader(
        Subset(data, range(len(data))), 7, shuffle=True
    ),
    "concatenation": lambda data: ConcatDataset([data, data]),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("declare", ["both", "classes", "class_to_idx"])
def test_classes_are_found_wherever_they_are(around: str, declare: str) -> None:
    data = AROUND[around](Classes("acd", declare=declare))
    found = declared_classes(data, "id_data")
    assert found is not None
    assert (found.names, found.wrapper) == (("a", "c", "d"), "")


@pytest.mark.parametrize(
    ("names", "around"),
    [("acd", around) for around in AROUND]
    + [("ad", "itself"), ("dcba", "loader"), ("d", "subset")],
)
def test_labels_are_matched_by_the_names_of_the_classes(
    network: nn.Module, names: str, around: str
) -> None:
    data = AROUND[around](Classes(names))
    result = evaluated(network, id_data=data, fit_data=Classes(WHOLE))
    assert accuracy(result) == 1.0
    (note,) = matched(result)
    assert f"id_data ({', '.join(names)})" in note
    assert "fit_data (a, b, c, d)" in note


def test_the_set_with_as_many_classes_as_the_model_has_its_order(network: nn.Module) -> None:
    """Whichever that is: here fit data of some classes, and detectors that learn their labels."""
    result = evaluated(
        network, "temperature_scaling", id_data=Classes(WHOLE), validation_data=Classes("bd")
    )
    assert accuracy(result) == 1.0
    assert len(matched(result)) == 1
    assert result.failed == {}
    fitted = result.detectors["temperature_scaling"]
    assert fitted.fitted_temperature < 1.0, "its labels are those of right predictions"


def test_sets_that_agree_are_left_alone(network: nn.Module) -> None:
    result = evaluated(network, id_data=Classes(WHOLE), fit_data=DataLoader(Classes(WHOLE), 3))
    assert (accuracy(result), matched(result)) == (1.0, [])
    for other in (TensorDataset(*Classes(WHOLE).tensors), Classes(WHOLE, declare="none")):
        result = evaluated(network, id_data=Classes(WHOLE), fit_data=other)
        assert (accuracy(result), matched(result)) == (1.0, [])


def test_fewer_classes_than_the_model_and_nothing_to_compare_them_with(network: nn.Module) -> None:
    result = evaluated(network, id_data=Classes("acd"))
    (note,) = [note for note in result.notes if "label k is used as" in note]
    assert note.startswith("id_data has 3 classes (a, c, d), the model 4")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"id_data": Classes("ace"), "fit_data": Classes(WHOLE)}, "id_data has a, c, e; fit_data"),
        ({"id_data": Classes("abce"), "fit_data": Classes(WHOLE)}, "id_data has a, b, c, e"),
        ({"id_data": Classes(WHOLE), "validation_data": Classes("dcba")}, "validation_data has d"),
        ({"id_data": Classes("ab"), "fit_data": Classes("abc")}, "fit_data has a, b, c"),
        (
            {"id_data": ConcatDataset([Classes("acd"), Classes(WHOLE)]), "fit_data": None},
            "id_data: the parts of the ConcatDataset have different classes",
        ),
        (
            {"id_data": Classes("acd"), "fit_data": ConcatDataset([Classes("ab"), Classes("ac")])},
            "fit_data: the parts of the ConcatDataset have different classes",
        ),
    ],
)
def test_classes_that_cannot_be_matched(
    network: nn.Module, data: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(network, **data)
    assert said in caught.value.message
    assert "different classes" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        Wrapper(Classes("acd")),
        DataLoader(Wrapper(Classes("acd")), 4),
        Subset(Wrapper(Classes("acd")), range(20)),
        DataLoader(
            Classes("acd"), 4, collate_fn=lambda items: torch.utils.data.default_collate(items)
        ),
    ],
)
def test_what_may_have_changed_labels_is_not_guessed_at(network: nn.Module, data: Any) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(network, id_data=data, fit_data=Classes(WHOLE))
    assert "id_data has a, c, d; fit_data has a, b, c, d" in caught.value.message
    assert "set its attribute `classes`" in caught.value.hint


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("around", ["plain", "loader", "nested"])
def test_a_part_without_classes_is_not_renumbered_with_the_others(
    network: nn.Module, first: bool, around: str
) -> None:
    parts: list[Dataset[Any]] = [Classes(WHOLE, declare="no"), Classes("acd")]
    data: Any = ConcatDataset(parts if first else parts[::-1])
    data = {"plain": data, "loader": DataLoader(data, 4), "nested": ConcatDataset([data])}[around]
    with pytest.raises(UserError) as caught:
        evaluated(network, id_data=data, fit_data=Classes(WHOLE))
    assert "id_data has a, c, d; fit_data has a, b, c, d" in caught.value.message
    assert "a part that declares no classes" in caught.value.hint


def test_a_part_without_classes_is_taken_where_nothing_is_renumbered(network: nn.Module) -> None:
    data = ConcatDataset([Classes(WHOLE, declare="no"), Classes(WHOLE)])
    result = evaluated(network, id_data=data, fit_data=Classes(WHOLE))
    assert (accuracy(result), matched(result)) == (1.0, [])


def test_what_a_wrapper_says_of_its_labels_is_taken(network: nn.Module) -> None:
    plain = Wrapper(Classes("acd"))
    plain.classes = ["a", "c", "d"]
    result = evaluated(network, id_data=plain, fit_data=Classes(WHOLE))
    assert (accuracy(result), len(matched(result))) == (1.0, 1)
    mapping = Wrapper(Classes("acd"), lambda label: [0, 2, 3][label])
    mapping.classes = list(WHOLE)
    result = evaluated(network, id_data=mapping, fit_data=Classes(WHOLE))
    assert (accuracy(result), matched(result)) == (1.0, [])


def test_a_target_transform_is_the_users_own_way_to_match(network: nn.Module) -> None:
    class Mapped(Classes):
        target_transform: Any = staticmethod(lambda label: [0, 2, 3][label])

        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, self.target_transform(label)

    result = evaluated(network, id_data=Mapped("acd"), fit_data=Classes(WHOLE))
    assert (accuracy(result), matched(result)) == (1.0, [])


def test_labels_beyond_the_classes_that_are_declared(network: nn.Module) -> None:
    data = Classes(WHOLE)
    data.classes, data.class_to_idx = ["a", "c", "d"], {}
    with pytest.raises(UserError, match=r"image 30 has label 3; .* its classes are a, c, d"):
        evaluated(network, id_data=data, fit_data=Classes(WHOLE))


def test_declarations_of_every_kind() -> None:
    def declared(**attributes: Any) -> Any:
        data = TensorDataset(torch.zeros(1))
        vars(data).update(attributes)
        found = declared_classes(data, "id_data")
        return None if found is None else found.names

    assert declared(classes=("a", "b")) == ("a", "b")
    assert declared(classes=np.array(["a", "b"])) == ("a", "b")
    assert declared(classes=[("tench", "Tinca"), ("crane",)]) == ("tench, Tinca", "crane")
    assert declared(classes=[3, 7]) == ("3", "7")
    synonyms = {"tench": 0, "Tinca": 0, "crane": 1}  # several names for one class
    assert declared(class_to_idx=synonyms, classes=["x", "y"]) == ("x", "y")
    assert declared(class_to_idx={"b": 0, "a": 1}, classes=["a", "b"]) == ("b", "a")
    for nothing in (
        {},
        {"classes": 10},
        {"classes": []},
        {"classes": None},
        {"classes": torch.arange(3)},
        {"classes": [object()]},
        {"class_to_idx": {"a": 1, "b": 2}},
        {"class_to_idx": {"a": "0"}},
        {"classes": ["a"], "target_transform": int},
    ):
        assert declared(**nothing) is None
    assert declared_classes(Picky(), "id_data") is None
    round_and_round = Wrapper(None)
    round_and_round.dataset = round_and_round
    assert declared_classes(round_and_round, "id_data") is None
