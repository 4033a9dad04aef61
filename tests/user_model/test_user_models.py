"""Models of every make in `oodbench.evaluate`: black boxes, heads, outputs, no gradients."""

from __future__ import annotations

import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset, TensorDataset

import oodbench
from oodbench import Detector, EvaluationResult, Outputs, UserError, register
from oodbench.detector import Batches
from oodbench.plugins.catalog import Catalog

pytestmark = pytest.mark.usefixtures("quick_evaluation")

CLASSES = 6


def body(width: int = 12) -> nn.Sequential:
    """Maps images [B, 3, 8, 8] to maps [B, width, 6, 6]."""
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())


def pooling() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(body(), pooling(), nn.Linear(12, CLASSES)).eval()


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def data(**others: Any) -> dict[str, Any]:
    labels = torch.arange(48) % CLASSES
    given: dict[str, Any] = {
        "id_data": TensorDataset(images(48, 0), labels),
        "ood_data": {"far": TensorDataset(images(20, 1).square())},
        "fit_data": TensorDataset(images(60, 2), torch.arange(60) % CLASSES),
        "device": "cpu",
    }
    return given | others


def evaluated(model: Any, detectors: Any, **others: Any) -> EvaluationResult:
    return oodbench.evaluate(model, detectors, **data(**others))


def assert_same_scores(found: EvaluationResult, expected: EvaluationResult) -> None:
    assert found.failed == {} == expected.failed
    assert found.scores.keys() == expected.scores.keys()
    for label, sets in expected.scores.items():
        for name, scores in sets.items():
            np.testing.assert_allclose(found.scores[label][name], scores, rtol=2e-3, atol=2e-4)


# --- black boxes -------------------------------------------------------------------------------


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript and old quantization are deprecated
        return make()


def exported(model: nn.Module) -> Any:
    sizes = ({0: torch.export.Dim("batch", min=1, max=512)},)
    return torch.export.export(model, (images(4, 9),), dynamic_shapes=sizes).module()


class Holding(nn.Module):
    """A module of the user's around a part of another make."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


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
        (3, "not a int"),
        ("net", "not a str"),
    ):
        with pytest.raises(UserError, match=said):
            evaluated(model, ["energy"])


# --- last layers -------------------------------------------------------------------------------


def with_convolution(model: nn.Module, *, before_pooling: bool, kind: str = "2d") -> nn.Module:
    """The classifier with its linear layer as a 1x1 convolution."""
    last = model[2]  # type: ignore[index]
    head = nn.Conv2d(12, CLASSES, 1)
    with torch.no_grad():
        head.weight.copy_(last.weight[:, :, None, None])
        head.bias.copy_(last.bias)  # type: ignore[union-attr]
    if before_pooling:
        return nn.Sequential(model[0], head, pooling())  # type: ignore[index]
    return nn.Sequential(model[0], nn.AdaptiveAvgPool2d(1), head, nn.Flatten())  # type: ignore[index]


@pytest.mark.parametrize("before_pooling", [True, False])
def test_a_1x1_convolution_is_a_linear_head(before_pooling: bool) -> None:
    model = classifier()
    detectors = ["energy", "knn", "vim", "react", "gradnorm", "dice", "mahalanobis_single", "odin"]
    expected = evaluated(model, detectors)
    found = evaluated(with_convolution(model, before_pooling=before_pooling), detectors)
    assert found.skipped == {} == expected.skipped
    assert_same_scores(found, expected)


@pytest.mark.parametrize(
    "made",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    ],
)
@pytest.mark.parametrize("convolution", [True, False])
def test_a_last_layer_whose_weight_is_made_of_others_is_linear(
    made: Any, convolution: bool
) -> None:
    torch.manual_seed(0)
    last = made(nn.Conv2d(12, CLASSES, 1) if convolution else nn.Linear(12, CLASSES))
    middle = [nn.AdaptiveAvgPool2d(1), last, nn.Flatten()] if convolution else [pooling(), last]
    model = nn.Sequential(body(), *middle).eval()
    plain = nn.Linear(12, CLASSES)
    with torch.no_grad():
        model(images(2, 0))
        plain.weight.copy_(last.weight.flatten(1))
        plain.bias.copy_(last.bias)
    expected = evaluated(nn.Sequential(model[0], pooling(), plain), ["energy", "vim", "dice"])
    found = evaluated(model, ["energy", "vim", "dice"])
    assert found.skipped == {}
    assert_same_scores(found, expected)


def test_logits_with_places_of_size_one() -> None:
    model = classifier()
    bare = nn.Sequential(*with_convolution(model, before_pooling=False))[:-1]  # type: ignore[arg-type]
    assert_same_scores(evaluated(bare, ["energy", "vim"]), evaluated(model, ["energy", "vim"]))


class Cosine(nn.Module):
    """A head of cosines, as a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(CLASSES, 12))

    def forward(self, features: Tensor) -> Tensor:
        return 9 * F.normalize(features, dim=1) @ F.normalize(self.prototypes, dim=1).T


class LowRank(nn.Module):
    """A linear layer with an update of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(12, CLASSES)
        self.down, self.up = nn.Linear(12, 2, bias=False), nn.Linear(2, CLASSES, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.base(features) + self.up(self.down(features))


class Beside(LowRank):
    """The same in a model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pooling()

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(self.pool(maps))


class Tempered(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits / 1.7


class Squeezing(nn.Module):
    """SqueezeNet's: a convolution to the classes, a rectifier, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(), nn.Conv2d(12, CLASSES, 1), nn.ReLU(), pooling())

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)  # type: ignore[no-any-return]


HEADS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cosines": (lambda: nn.Sequential(pooling(), Cosine()), "1.1"),
    "an update of low rank": (lambda: nn.Sequential(pooling(), LowRank()), "1.1"),
    "an update of low rank before it is known": (Beside, "1.base"),
    "batch normalization after it": (
        lambda: nn.Sequential(pooling(), nn.Linear(12, CLASSES), nn.BatchNorm1d(CLASSES, eps=1.0)),
        "1.1",
    ),
    "a temperature after it": (
        lambda: nn.Sequential(pooling(), nn.Linear(12, CLASSES), Tempered()),
        "1.1",
    ),
    "a convolution and a rectifier": (Squeezing, "1.layers.1"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_not_linear_give_features_and_no_weights(name: str) -> None:
    make, head = HEADS[name]
    torch.manual_seed(0)
    parts = body()
    model = nn.Sequential(parts, make()).eval()
    found = evaluated(model, ["energy", "knn", "vim"])
    assert found.head == head
    guessed = any(f"The features are the input of '{head}'" in note for note in found.notes)
    assert guessed == any(words in name for words in ("after it", "rectifier", "before it"))
    assert found.skipped == {
        "vim": "needs the weights of a linear last layer; the logits of the model do not come from "
        "one"
    }
    logits = model(images(48, 0)).detach()
    np.testing.assert_allclose(found.scores["energy"]["id"], logits.logsumexp(1), rtol=1e-5)
    expected = evaluated(nn.Sequential(parts, pooling(), nn.Linear(12, CLASSES)), ["knn"])
    np.testing.assert_allclose(
        found.scores["knn"]["id"], expected.scores["knn"]["id"], rtol=1e-3, atol=1e-5
    )


class ZeroShot(nn.Module):
    """A product of the features with a parameter, as CLIP classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(body(), pooling())
        self.text = nn.Parameter(torch.randn(CLASSES, 12))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        features = F.normalize(self.visual(x), dim=1)
        return self.logit_scale.exp() * features @ F.normalize(self.text, dim=1).T


@pytest.mark.parametrize("wrapped", [False, True])
def test_features_may_be_named(wrapped: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = ZeroShot()
    visual = model.visual
    prefix = "part." if wrapped else ""
    model = Holding(model) if wrapped else model
    found = evaluated(model, ["energy", "knn", "vim"], costs=True)
    assert list(found.scores) == ["energy"]
    assert "features=" in found.skipped["knn"]
    assert [cost.method for cost in found.costs] == ["energy"]
    named = evaluated(model, ["energy", "knn", "vim"], features=f"{prefix}visual")
    assert list(named.scores) == ["energy", "knn"]
    assert "weights of a linear last layer" in named.skipped["vim"]
    expected = evaluated(nn.Sequential(visual, nn.Linear(12, CLASSES)), ["knn"])
    np.testing.assert_array_equal(named.scores["knn"]["id"], expected.scores["knn"]["id"])


def test_features_named_in_front_of_a_linear_layer_keep_its_weights() -> None:
    model = classifier()
    expected = evaluated(model, ["knn", "vim"])
    assert_same_scores(evaluated(model, ["knn", "vim"], features="1.0"), expected)
    assert_same_scores(evaluated(model, ["knn", "vim"], head="2"), expected)
    others = evaluated(model, ["knn", "vim"], features="0.0")  # before the rectifier
    assert list(others.scores) == ["knn"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"head": "fc"}, "head: the model Sequential has no module 'fc'"),
        ({"features": "9"}, "features: the model Sequential has no module '9'"),
        ({"features": 3}, "features: expected the name of a module, not 3"),
        ({"head": "3"}, "head: '3' does not run"),
        ({"features": "4"}, "features: '4' runs 2 times"),
    ],
)
def test_names_that_do_not_serve(named: dict[str, Any], said: str) -> None:
    class Odd(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[1](self[4](self[4](self[0](x)))))  # type: ignore[no-any-return]

    model = Odd(*classifier(), nn.Linear(2, 2), nn.ReLU())
    model.__class__.__name__ = "Sequential"
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        evaluated(model, ["knn"], **named)


# --- outputs -----------------------------------------------------------------------------------


class Returning(nn.Module):
    """Makes something of the logits, features and maps of a classifier."""

    def __init__(self, make: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net = classifier()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        maps = self.net[0](x)
        features = self.net[1](maps)
        return self.make(self.net[2](features), features, maps)


Named = namedtuple("Named", ["features", "logits"])

OUTPUTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "a mapping": (lambda logits, features, maps: {"x": features, "logits": logits}, None),
    "an object": (lambda logits, features, maps: SimpleNamespace(x=features, logits=logits), None),
    "CLIP's": (
        lambda logits, features, maps: {"image_embeds": features, "logits_per_image": logits},
        None,
    ),
    "a named tuple": (lambda logits, features, maps: Named(features, logits), None),
    "the only matrix": (lambda logits, features, maps: {"maps": maps, "out": logits}, None),
    "a loss first": (lambda logits, features, maps: (maps.mean(), logits), None),
    "a list": (lambda logits, features, maps: [logits], None),
    "numpy": (lambda logits, features, maps: logits.detach().numpy(), None),
    "features first": (lambda logits, features, maps: (features, logits), None),
    "features last": (lambda logits, features, maps: (logits, features), None),
    "a key": (lambda logits, features, maps: {"a": logits + 1, "b": logits}, "b"),
    "a position": (lambda logits, features, maps: (logits + 1, logits), 1),
    "an attribute": (lambda logits, features, maps: SimpleNamespace(p=logits, logits=maps), "p"),
    "a function": (
        lambda logits, features, maps: {"deep": [logits]},
        lambda returned: returned["deep"][0],
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_are_found_in_what_a_model_returns(name: str) -> None:
    make, output = OUTPUTS[name]
    detectors = ["energy", "knn", "vim"]
    found = evaluated(Returning(make), detectors, output=output)
    assert found.skipped == {}
    assert_same_scores(found, evaluated(classifier(), detectors))
    chosen = [note for note in found.notes if "was taken for the logits" in note]
    assert len(chosen) == (1 if name in ("features first", "features last") else 0)


def test_what_several_outputs_are_is_not_guessed() -> None:
    model = Returning(lambda logits, features, maps: {"a": logits + 1, "b": logits + 2})
    with pytest.raises(UserError, match=r"several may be the logits: 'a' \[3, 6\], 'b' \[3, 6\]"):
        evaluated(model, ["energy"])
    first = Returning(lambda logits, features, maps: (logits + 1, features))
    assert any("entry 0" in note for note in evaluated(first, ["energy"]).notes)
    wide = Returning(lambda logits, features, maps: {"a": features + 1, "b": logits + 1})
    assert evaluated(wide, ["energy"], num_classes=CLASSES).num_classes == CLASSES


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("scores", "a dict with the keys 'a', which has no 'scores'"),
        (0, "which has no 0"),
        (lambda returned: returned["a"].argmax(1), "int64 values"),
        (lambda returned: returned["missing"], "KeyError"),
    ],
)
def test_outputs_that_are_not_there(output: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluated(Returning(lambda logits, *rest: {"a": logits}), ["energy"], output=output)


# --- no gradient for the input -----------------------------------------------------------------


class Probe(nn.Module):
    """A linear layer on a backbone that is run in some way without gradients."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(body(), pooling())
        self.fc = nn.Linear(12, CLASSES)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.run(self.backbone, x))


def _in_inference_mode(backbone: nn.Module, x: Tensor) -> Any:
    with torch.inference_mode():
        return backbone(x)


def _in_numpy(backbone: nn.Module, x: Tensor) -> Tensor:
    return torch.from_numpy(backbone(x).detach().numpy())


WITHOUT_GRADIENTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "no_grad": torch.no_grad()(lambda backbone, x: backbone(x)),
    "inference mode": _in_inference_mode,
    "detached features": lambda backbone, x: backbone(x).detach(),
    "detached images": lambda backbone, x: backbone(x.detach()),
    "through numpy": _in_numpy,
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_without_gradients_only_what_needs_them_is_left_out(name: str) -> None:
    torch.manual_seed(0)
    model = Probe(WITHOUT_GRADIENTS[name])
    with torch.no_grad():
        labels = model(images(48, 3)).argmax(1)
    others = data(
        validation_data=TensorDataset(images(48, 3), labels),
        normalization=(0.5, 0.25),
    )
    names = ["energy", "knn", "vim", "gradnorm", "odin", "mahalanobis"]
    found = oodbench.evaluate(model, names, **others)
    assert list(found.scores) == ["energy", "knn", "vim", "gradnorm"]
    assert found.failed == {}
    for label in ("odin", "mahalanobis"):
        assert "gradient" in found.skipped[label]
        assert "requires_grad_(False)" in found.skipped[label], "what to do"


SLOPE = "the gradient of the logits for the images is zero"


@pytest.mark.parametrize(
    "act",
    [
        lambda backbone, x: backbone((255 * x).round() / 255),
        lambda backbone, x: backbone((x > 0.5).float() + 0 * x),
        lambda backbone, x: backbone(x) * 0 + backbone(x).detach(),
    ],
    ids=["rounded", "steps", "times zero"],
)
def test_a_gradient_that_is_zero_for_noise_too_is_noted(act: Any) -> None:
    found = evaluated(Probe(act), ["odin", "energy"])
    assert list(found.scores) == ["odin", "energy"]
    assert [note.split(":")[0] for note in found.notes if SLOPE in note] == ["odin"]


class Paired(nn.Module):
    """Logits of two classes whose sum is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.fc = body(), pooling(), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(self.pool(self.body(x)))
        return torch.cat([-z, z], dim=1)


class Centered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = classifier()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inside(x)
        return logits - logits.mean(dim=1, keepdim=True)


def dead_at_black() -> nn.Module:
    """Its rectifiers are at zero for black images, where no logit has a slope."""
    model = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), nn.ReLU(), pooling())
    return nn.Sequential(*model, nn.Linear(12, CLASSES))


@pytest.mark.parametrize("make", [Paired, Centered, dead_at_black])
def test_a_gradient_whose_sum_or_first_images_are_zero_is_one(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    black = images(40, 3)
    black[:8] = 0
    with torch.no_grad():
        labels = model(images(48, 5)).argmax(1)
    found = oodbench.evaluate(
        model,
        ["odin", "mahalanobis", "energy"],
        id_data=TensorDataset(black),
        ood_data={"o": TensorDataset(images(20, 4))},
        fit_data=TensorDataset(images(48, 5), labels),
        validation_data=TensorDataset(images(48, 5), labels),
        normalization=(0.0, 1.0),
        costs=False,
    )
    assert found.skipped == {}
    assert "odin" in found.scores
    assert "gradient" not in found.failed.get("mahalanobis", "")
    assert not any(SLOPE in note for note in found.notes)


def test_a_forward_under_no_grad() -> None:
    class Decorated(Probe):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)

    found = evaluated(Decorated(lambda backbone, x: backbone(x)), ["odin", "energy"])
    assert list(found.scores) == ["energy"]
    assert "gradient" in found.skipped["odin"]


# --- models that do not keep to anything -------------------------------------------------------


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


@pytest.mark.parametrize("what", HOSTILE)
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


# --- several models, all detectors, tuning -----------------------------------------------------


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
        ({"models": {"x": 3}}, "not a int"),
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


# --- batches and inputs of other kinds ---------------------------------------------------------


def test_data_as_mappings() -> None:
    """As Hugging Face's data sets give them."""

    class Mapped(Dataset[Any]):
        def __init__(self, pairs: Any) -> None:
            self.pairs = pairs

        def __len__(self) -> int:
            return len(self.pairs)

        def __getitem__(self, index: int) -> Any:
            image, *label = self.pairs[index]
            return {"pixel_values": image, **({"labels": label[0]} if label else {})}

    given = data()
    named = {
        "id_data": DataLoader(Mapped(given["id_data"]), 10),
        "ood_data": {"far": Mapped(given["ood_data"]["far"])},
        "fit_data": Mapped(given["fit_data"]),
    }
    detectors = ["energy", "mahalanobis_single"]
    found = evaluated(classifier(), detectors, **named)
    assert_same_scores(found, evaluated(classifier(), detectors))
    assert found.records[-1].metric == "id_accuracy", "labels were read"


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(50, 12), nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.embed(ids).mean(1))  # type: ignore[no-any-return]


RANKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "vectors": (
        lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, CLASSES)),
        lambda count: torch.rand(count, 5),
    ),
    "series": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 12, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
        lambda count: torch.rand(count, 3, 9),
    ),
    "series and a 1x1 convolution": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 12, 3),
            nn.ReLU(),
            nn.Conv1d(12, CLASSES, 1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        ),
        lambda count: torch.rand(count, 3, 9),
    ),
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 12, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
        lambda count: torch.rand(count, 2, 5, 6, 7),
    ),
    "tokens": (Tokens, lambda count: torch.randint(0, 50, (count, 8))),
}


@pytest.mark.parametrize("name", RANKS)
def test_inputs_that_are_no_images(name: str) -> None:
    make, draw = RANKS[name]
    torch.manual_seed(0)
    model, inputs, others, training = make(), draw(40), draw(30), draw(60)
    sets = {
        "id_data": TensorDataset(inputs, torch.arange(40) % CLASSES),
        "ood_data": {"o": TensorDataset(others)},
        "fit_data": TensorDataset(training, torch.arange(60) % CLASSES),
    }
    detectors = ["energy", "knn", "vim", "react", "mahalanobis_single", "odin"]
    found = evaluated(model, detectors, **sets, costs=True)
    assert found.failed == {}
    assert list(found.scores) == detectors[:-1]
    assert ("whole numbers" if name == "tokens" else "no images") in found.skipped["odin"]
    with torch.no_grad():
        expected = model(inputs).logsumexp(1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected, rtol=1e-5)
    if name in ("series", "volumes"):
        scale = (0.4, 0.2)
        scaled = evaluated(model, ["energy", "odin"], **sets, normalization=scale)
        with torch.no_grad():
            expected = model((inputs - 0.4) / 0.2).logsumexp(1)
        np.testing.assert_allclose(scaled.scores["energy"]["id"], expected, rtol=1e-5)
        assert "odin" in scaled.scores, "the step is in units of [0, 1]"


@pytest.mark.parametrize(
    ("together", "decompositions"),
    [
        (("mahalanobis_single", "relative_mahalanobis"), 2),  # within the classes, and of all
        (("residual", "vim"), 1),
        (("vim", "mahalanobis_single", "residual", "relative_mahalanobis"), 3),
    ],
)
def test_eigendecompositions_are_shared_and_scores_are_those_of_each_alone(
    together: tuple[str, ...], decompositions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    alone = {name: evaluated(model, [name]).scores[name] for name in together}
    decompose, calls = torch.linalg.eigh, []

    def counted(matrix: Tensor) -> Any:
        calls.append(matrix.shape)
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    found = evaluated(model, together)
    assert len(calls) == decompositions
    for name, sets in alone.items():
        for dataset, scores in sets.items():
            np.testing.assert_array_equal(found.scores[name][dataset], scores)


def test_detectors_that_cannot_be_copied_or_do_not_keep_their_arguments() -> None:
    @register("holding")
    class Holding_(Detector):  # noqa: N801
        """Holds a lock."""

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits[:, 0]

    @register("forgetting")
    class Forgetting(Detector):
        """Forgets its argument."""

        def __init__(self, power: int = 2) -> None:
            self.p = power

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits[:, 0]

    for detector, said in ((Holding_(), "cannot be copied"), (Forgetting(), "does not keep")):
        with pytest.raises(UserError, match=said):
            evaluated(classifier(), [detector])


# --- models that write into their own weights --------------------------------------------------


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


# --- hints that fit the error ------------------------------------------------------------------


class Raising(nn.Module):
    """A classifier that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = classifier(), error

    def forward(self, x: Tensor) -> Any:
        raise self.error


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
    with pytest.raises(UserError, match="Guard failed") as caught:
        evaluated(model, ["energy"])
    assert "dynamic_shapes" in caught.value.hint


def test_an_export_for_one_size_of_images() -> None:
    model = exported(nn.Sequential(classifier()))
    wide = {"far": TensorDataset(torch.rand(20, 3, 9, 8))}
    with pytest.raises(UserError, match="Guard failed") as caught:
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


# --- mappings with more than one tensor for the model ------------------------------------------


class Masked(nn.Module):
    """Averages what stands at the places of tokens that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = nn.Embedding(50, 12), nn.Linear(12, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask[:, :, None] / mask.sum(dim=1)[:, None, None]
        logits: Tensor = self.fc((self.embed(input_ids) * weights).sum(dim=1))
        return logits


class Passing(nn.Module):
    """Passes on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Masked()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def _sentences(count: int, seed: int, padded: int | None, **others: Any) -> list[dict[str, Any]]:
    """Items with `attention_mask`; the one at `padded` has padding."""
    ids = torch.randint(1, 50, (count, 9), generator=torch.Generator().manual_seed(seed))
    if padded is not None:
        ids[padded, 5:] = 0
    return [
        {
            "input_ids": each,
            "attention_mask": (each != 0).long(),
            "label": index % CLASSES,
            "id": index,
            "file": f"{index}.txt",
            **others,
        }
        for index, each in enumerate(ids)
    ]


def _texts(padded: int | None, where: str = "id_data", **others: Any) -> dict[str, Any]:
    sets = {name: padded if name == where else None for name in ("id_data", "far")}
    return {
        "id_data": _sentences(48, 0, sets["id_data"], **others),
        "ood_data": {"far": DataLoader(_sentences(300, 1, sets["far"], **others), 16)},
        "fit_data": None,
    }


@pytest.mark.parametrize("make", [Masked, Passing])
@pytest.mark.parametrize(
    ("padded", "where", "name"),
    [(0, "id_data", "id_data"), (40, "id_data", "id_data"), (290, "far", "ood_data['far']")],
)
def test_entries_that_the_model_takes_by_name_are_not_dropped(
    make: type[nn.Module], padded: int, where: str, name: str
) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(make().eval(), ["energy"], **_texts(padded, where))
    assert caught.value.message.startswith(f"{name}: ")
    assert "'attention_mask'" in caught.value.message
    assert "'id'" not in caught.value.message
    assert "Wrap the model" in caught.value.hint


@pytest.mark.parametrize("padded", [0, 40])
def test_entries_that_the_model_does_not_take_are_left_out(padded: int) -> None:
    model = Masked().eval()
    whole = _texts(padded, segment=torch.ones(2))
    found = evaluated(lambda ids: model(ids, (ids != 0).long()), ["energy"], **whole)
    ids = torch.stack([item["input_ids"] for item in whole["id_data"]])
    expected = model(ids, (ids != 0).long()).logsumexp(dim=1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected.detach(), rtol=1e-5)
    bare = _texts(None)
    found = evaluated(model, ["energy"], **bare)  # masks of ones say nothing
    ids = torch.stack([item["input_ids"] for item in bare["id_data"]])
    expected = model(ids).logsumexp(dim=1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("name", ["token_type_ids", "pixel_mask"])
def test_other_entries_for_the_model_are_refused(name: str) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Masked()

        def forward(
            self, input_ids: Any, *, token_type_ids: Any = None, pixel_mask: Any = None
        ) -> Any:
            return self.net(input_ids)

    neutral = torch.full((9,), int(name == "pixel_mask"))
    assert evaluated(Both(), ["energy"], **_texts(None, **{name: neutral})).failed == {}
    with pytest.raises(UserError, match=f"entries '{name}'"):
        evaluated(Both(), ["energy"], **_texts(None, **{name: torch.arange(9) % 2}))


# --- one of several models that cannot be evaluated --------------------------------------------


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
