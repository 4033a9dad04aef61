"""Kinds of models in `oodbench.evaluate`: black boxes, and modules that change in a pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiers import by_default
from helpers.user_sequence import (
    CLASSES,
    Holding,
    Raising,
    assert_same_scores,
    body,
    classifier,
    data,
    evaluated,
    images,
    pooling,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import oodbench
from oodbench import UserError

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript and old quantization are deprecated
        return make()


def exported(model: nn.Module) -> Any:
    sizes = ({0: torch.export.Dim("batch", min=1, max=512)},)
    return torch.export.export(model, (images(4, 9),), dynamic_shapes=sizes).module()


class Callable_:  # noqa: N801
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Any:
        return self.model(x)


BLACK_BOXES: dict[str, Callable[[nn.Module], Any]] = {
    "a function": lambda model: lambda x: model(x),
    "a method": lambda model: model.forward,
    "an object that can be called": Callable_,
    "a function that gives numpy": lambda model: lambda x: model(x).detach().numpy(),
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, images(2, 9)),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
    "in training mode": lambda model: torch.jit.script(model).train(),
    "exported": exported,
    "a module that holds a scripted one": lambda model: Holding(torch.jit.script(model)),
    "a module that holds an exported one": lambda model: Holding(exported(model)),
}


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_black_boxes_give_the_scores_of_their_logits(name: str) -> None:
    model = classifier()
    detectors = ["baseline", "energy", "odin", "knn", "vim"]
    expected = evaluated(model, detectors)
    box = _quietly(lambda: BLACK_BOXES[name](model))
    found = evaluated(box, detectors, costs=True)
    ran = {"baseline", "energy", "odin"} - ({"odin"} if "numpy" in name else set())
    assert found.scores.keys() == ran
    for label in ("knn", "vim"):
        assert "needs the features" in found.skipped[label]
        assert ("head=" if "holds an exported" in name else "nn.Module") in found.skipped[label]
    assert found.head == ""
    for label in ran:
        np.testing.assert_allclose(
            found.scores[label]["id"], expected.scores[label]["id"], rtol=1e-4, atol=1e-5
        )
    assert [cost.forwards_per_image for cost in found.costs if cost.method == "energy"] == [1.0]
    if name == "in training mode":
        assert box.training, "it is given back as it was"


def test_an_ensemble_gives_logits_and_its_members_are_not_mixed_up() -> None:
    torch.manual_seed(1)
    first, second = classifier(), nn.Sequential(body(), pooling(), nn.Linear(12, CLASSES))

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([first, second])

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x) for member in self.members]).mean(0)

    found = evaluated(Ensemble(), ["energy", "knn"])
    assert list(found.scores) == ["energy"]
    x = images(48, 0)
    expected = ((first(x) + second(x)) / 2).logsumexp(1).detach()
    np.testing.assert_allclose(found.scores["energy"]["id"], expected, rtol=1e-5)
    named = evaluated(Ensemble(), ["knn"], features="members.1.1")
    alone = evaluated(second, ["knn"])
    assert_same_scores(named, alone)


def test_int8() -> None:
    model = classifier()
    quantized = _quietly(
        lambda: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    )
    found = evaluated(quantized, ["energy", "knn", "vim", "odin"])
    assert list(found.scores) == ["energy", "knn"]  # its last layer is seen
    assert "weights of a linear last layer" in found.skipped["vim"]
    assert "gradient" in found.skipped["odin"]
    assert_same_scores(
        evaluated(quantized, ["knn"]), evaluated(model, ["knn"])
    )  # the body is not quantized
    whole = nn.Sequential(nn.Flatten(), _quietly(lambda: quantized[2]))
    small = TensorDataset(torch.rand(9, 12, 1, 1))
    without_parameters = evaluated(
        whole, ["energy"], id_data=small, ood_data={"o": small}, fit_data=None
    )
    assert list(without_parameters.scores) == ["energy"]


def test_what_is_no_model_is_refused() -> None:
    for model, said in (
        (nn.Linear, "not the class Linear"),
        (3, "not an int"),
        ("net", "not a str"),
    ):
        with pytest.raises(UserError, match=said):
            evaluated(model, ["energy"])


class Hostile(nn.Module):
    """A classifier that does something at one of its calls."""

    def __init__(self, act: Callable[[int, Tensor, nn.Module], Any], at: int | None) -> None:
        super().__init__()
        self.net = classifier()
        self.act, self.at, self.calls = act, at, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        if self.at is None or self.calls == self.at:
            return self.act(self.calls, x, self.net)
        return self.net(x)


def _raise(calls: int, x: Tensor, net: nn.Module) -> Any:
    raise ZeroDivisionError("on purpose")


def _out_of_memory(calls: int, x: Tensor, net: nn.Module) -> Any:
    raise torch.OutOfMemoryError("no memory")


HOSTILE: dict[str, Callable[[int, Tensor, nn.Module], Any]] = {
    "raises": _raise,
    "out of memory": _out_of_memory,
    "not finite": lambda calls, x, net: net(x) * torch.nan,
    "nothing": lambda calls, x, net: None,
    "one row too few": lambda calls, x, net: net(x)[1:],
    "other classes": lambda calls, x, net: net(x)[:, :-1],
    "whole numbers": lambda calls, x, net: net(x).long(),
    "a tuple": lambda calls, x, net: (net(x), 1),
    "no features": lambda calls, x, net: torch.zeros(len(x), CLASSES),
    "twice": lambda calls, x, net: net(x) + net(x[:1]),
    "the state": lambda calls, x, net: net(x) + calls,
    "without a graph": lambda calls, x, net: net(x).detach(),
    "a view of the input": lambda calls, x, net: x.flatten(1)[:, :CLASSES],
}


@pytest.mark.parametrize("what", by_default(["raises", "not finite", "a tuple"], HOSTILE))
def test_no_exception_but_a_users_leaves_evaluate(what: str) -> None:
    """Whatever a model does at whichever of its calls."""
    labels = torch.arange(48) % CLASSES
    given = data(
        id_data=TensorDataset(images(48, 0), labels),
        validation_data=TensorDataset(images(20, 3), labels[:20]),
        normalization=(0.5, 0.25),
    )
    names = ["baseline", "knn", "react", "odin", "gram", "mahalanobis"]
    counting = Hostile(lambda calls, x, net: net(x), None)
    oodbench.evaluate(counting, names, **given, costs=True)
    places = 10 if what == "raises" else 3
    ended = 0
    for at in (None, *range(1, counting.calls + 1, counting.calls // places)):
        model = Hostile(HOSTILE[what], at)
        try:
            result = oodbench.evaluate(model, names, **given, costs=True)
        except UserError:
            ended += 1
        else:
            assert set(result.scores) | set(result.skipped) | set(result.failed) == set(names)
        assert not model.net[0][0]._forward_hooks, "no hook is left"
    harmless = ("the state", "without a graph", "a view of the input", "no features", "twice")
    assert ended or what in harmless


class Normalizing(nn.Module):
    """Keeps the rows of its last layer at length one, as some cosine classifiers do."""

    def __init__(self, write: Callable[[nn.Parameter], Any], script: bool = False) -> None:
        super().__init__()
        self.net, self.write = classifier(), write
        if script:
            self.net[2] = _quietly(lambda: torch.jit.script(nn.Linear(12, CLASSES)))
        self.weights = [self.net[2].weight]  # a reference that no module lists

    def forward(self, x: Tensor) -> Any:
        self.write(self.net[2].weight)
        return self.net(x)


WRITES: dict[str, Callable[[nn.Parameter], Any]] = {
    "through data": lambda weight: weight.data.copy_(F.normalize(weight.data, dim=1)),
    "in place": lambda weight: weight.detach().mul_(0.5),
    "another tensor": lambda weight: setattr(weight, "data", weight.data * 0.5),
}


@pytest.mark.parametrize(
    ("write", "script"),
    [*((write, False) for write in WRITES), ("through data", True), ("in place", True)],
)
def test_weights_that_a_model_writes_are_given_back(write: str, script: bool) -> None:
    model = Normalizing(WRITES[write], script)
    weight = model.net[2].weight
    before, place = weight.detach().clone(), weight.data_ptr()
    assert "energy" in evaluated(model, ["energy", "knn"]).scores
    assert torch.equal(model.net[2].weight, before)
    if not script:
        assert model.net[2].weight is weight
        assert weight.data_ptr() == place


def test_weights_that_a_model_writes_are_given_back_when_it_raises() -> None:
    def write(weight: nn.Parameter) -> None:
        weight.data.add_(1)
        raise ZeroDivisionError

    model = Normalizing(write)
    before = model.net[2].weight.detach().clone()
    with pytest.raises(UserError, match="ZeroDivisionError"):
        evaluated(model, ["energy"])
    assert torch.equal(model.net[2].weight, before)


@pytest.mark.parametrize("held", [False, True])
def test_a_frozen_module_gains_no_attribute(held: bool) -> None:
    frozen = _quietly(lambda: torch.jit.freeze(torch.jit.script(classifier())))
    evaluated(Holding(frozen) if held else frozen, ["energy"])
    assert not hasattr(frozen, "training")


@pytest.mark.parametrize(
    ("error", "sizes"),
    [
        (KeyError("size"), False),
        (RuntimeError("the license has expired"), False),
        (AttributeError("'NoneType' object has no attribute 'shape'"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x8 and 4x2)"), True),
        (ValueError("Input image size (8*8) doesn't match model (224*224)."), True),
    ],
)
def test_sizes_are_named_for_errors_of_sizes_alone(error: Exception, sizes: bool) -> None:
    with pytest.raises(UserError, match=type(error).__name__) as caught:
        evaluated(Raising(error), ["energy"])
    assert ("size and with the channels" in caught.value.hint) == sizes


@pytest.mark.parametrize("batch", [1, 2])
def test_an_export_for_one_size_of_batch(batch: int) -> None:
    model = torch.export.export(classifier(), (images(batch, 9),)).module()
    with pytest.raises(UserError, match=r"Guard failed|Expected input at") as caught:
        evaluated(model, ["energy"])
    assert "dynamic_shapes" in caught.value.hint


def test_an_export_for_one_size_of_images() -> None:
    model = exported(nn.Sequential(classifier()))
    wide = {"far": TensorDataset(torch.rand(20, 3, 9, 8))}
    with pytest.raises(UserError, match=r"Guard failed|Expected input at") as caught:
        evaluated(model, ["energy"], ood_data=wide)
    assert "size and with the channels" in caught.value.hint


@pytest.mark.parametrize("returned", [None, "text"])
def test_an_error_of_ours_is_not_wrapped(returned: Any) -> None:
    names = ["ash", "gram"]
    calls = Hostile(lambda calls, x, net: net(x), None)
    evaluated(calls, names)
    raised = []
    for at in range(1, calls.calls + 1):
        try:
            evaluated(Hostile(lambda calls, x, net: returned, at), names)
        except UserError as error:
            raised.append(error)
    assert len(raised) > 3
    for each in raised:
        assert "UserError" not in each.message
        assert "size and with the channels" not in each.hint


@pytest.mark.parametrize("masked", [(1,), (0, 4)])
@pytest.mark.parametrize("at", [0, 30])
def test_masked_classes_are_left_out_with_output(masked: tuple[int, ...], at: int) -> None:
    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            hit = (x[:, 0, 0, 0] == first[at])[:, None].expand_as(logits).clone()
            hit[:, [c for c in range(CLASSES) if c not in masked]] = False
            return logits.masked_fill(hit, -torch.inf)

    first = images(48, 0)[:, 0, 0, 0]
    with pytest.raises(UserError) as caught:
        evaluated(Masking(), ["energy"])
    classes = ", ".join(map(str, masked))
    assert f"image {at} of id_data are -inf for the classes {classes}." in caught.value.message
    assert "output=" in caught.value.hint


def test_features_of_a_function_serve_black_boxes() -> None:
    model = classifier()

    def features(x: Tensor) -> Tensor:
        return model[1](model[0](x))

    names = ["energy", "knn", "mahalanobis_single", "vim", "react"]
    expected = evaluated(model, names)
    boxes = {
        "a function": lambda x: model(x),
        "scripted": _quietly(lambda: torch.jit.script(model)),
        "exported": exported(model),
    }
    for box in boxes.values():
        found = evaluated(box, names, features=features, costs=True)
        assert list(found.scores) == ["energy", "knn", "mahalanobis_single"]
        assert set(found.skipped) == {"vim", "react"}
        assert "weights of a linear last layer" in found.skipped["vim"]
        assert any("function given as features=" in note for note in found.notes)
        for label, sets in found.scores.items():
            for name, scores in sets.items():
                np.testing.assert_allclose(scores, expected.scores[label][name], rtol=1e-4)
    # With a module whose last layer is seen, its weights serve too.
    assert_same_scores(evaluated(model, names, features=features), expected)


def test_features_of_a_function_are_computed_only_if_they_are_read() -> None:
    model, calls = classifier(), []

    def features(x: Tensor) -> Any:
        calls.append(len(x))
        return model[1](model[0](x)).detach().numpy()

    evaluated(lambda x: model(x), ["energy"], features=features, costs=True)
    assert calls == [3], "tried once"
    calls.clear()
    found = evaluated(lambda x: model(x), ["energy", "knn"], features=features)
    assert list(found.scores) == ["energy", "knn"]
    assert sum(calls) >= 48 + 20 + 60


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (lambda x: x[:1], "the function gave float32 values of shape [1, 3, 8, 8] for 3 images"),
        (lambda x: "text", "the function gave a str for 3 images"),
        (lambda x: x.flatten(1).long(), "the function gave int64 values of shape [3, 192]"),
        (lambda x: 1 / 0, "the function cannot take images of shape [3, 3, 8, 8]: ZeroDivision"),
        (3, "expected the name of a module, not 3"),
    ],
)
def test_functions_that_give_no_features(features: Any, said: str) -> None:
    model = classifier()
    with pytest.raises(UserError) as caught:
        evaluated(lambda x: model(x), ["knn"], features=features)
    assert said in caught.value.message
    assert caught.value.message.startswith("features: ")


class Named(nn.Module):
    """Takes images by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = classifier()

    def forward(self, *, pixel_values: Tensor) -> Any:
        return {"logits": self.net(pixel_values)}


class Second(Named):
    """Takes images as its second argument, as multimodal models do."""

    def forward(  # type: ignore[override]
        self, input_ids: Any = None, pixel_values: Any = None, **others: Any
    ) -> Any:
        assert input_ids is None
        return {"logits": self.net(pixel_values)}


class Taking(Named):
    """Takes a mapping."""

    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return self.net(batch["image"])


def _mappings(pairs: TensorDataset) -> list[dict[str, Any]]:
    keys = ("pixel_values", "labels")
    return [dict(zip(keys, item, strict=False)) for item in pairs]  # type: ignore[call-overload]


CALLED: dict[str, tuple[type[Named], Any]] = {
    "by name alone": (Named, None),
    "by the name in the data": (Second, None),
    "by a given name": (Second, "pixel_values"),
    "a function to names": (Second, lambda x: {"pixel_values": x}),
    "a function to a mapping": (Taking, lambda x: {"image": x}),
}


@pytest.mark.parametrize("name", CALLED)
def test_models_that_take_images_by_name_or_in_a_mapping(name: str) -> None:
    make, inputs = CALLED[name]
    given = data()
    if name == "by the name in the data":
        given |= {key: _mappings(given[key]) for key in ("id_data", "fit_data")}
        given["ood_data"] = {"far": _mappings(given["ood_data"]["far"])}
    names = ["energy", "knn", "vim", "odin"]
    found = oodbench.evaluate(make(), names, **given, inputs=inputs)
    assert not found.skipped
    assert_same_scores(found, evaluated(classifier(), names))


@pytest.mark.parametrize(
    ("make", "inputs", "said"),
    [
        (Named, "pixels", "no argument 'pixels'"),
        (Named, 3, "expected the name of an argument or a function of the images, not 3"),
        (Taking, None, "lambda images: {"),
    ],
)
def test_inputs_that_a_model_does_not_take(make: type[Named], inputs: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(make(), ["energy"], inputs=inputs)
    assert said in f"{caught.value.message} {caught.value.hint}"
