"""Last layers in `oodbench.evaluate`: of every make, found or named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_sequence import (
    CLASSES,
    Holding,
    assert_same_scores,
    body,
    classifier,
    evaluated,
    images,
    pooling,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from oodbench import UserError
from oodbench.losses import T2FNormHead

pytestmark = pytest.mark.usefixtures("quick_evaluation")


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


def test_t2fnorm_is_a_linear_layer_with_the_weights_of_its_evaluation() -> None:
    plain = classifier()
    layer = T2FNormHead(12, CLASSES, tau=0.25)
    with torch.no_grad():
        layer.weight.copy_(plain[2].weight / 4)  # type: ignore[index]
        layer.bias.copy_(plain[2].bias)  # type: ignore[index]
    model = nn.Sequential(plain[0], plain[1], layer).eval()  # type: ignore[index]
    methods = ["baseline", "energy", "vim", "react", "dice", "gradnorm"]
    found = evaluated(model, methods)
    assert found.head == "2"
    assert found.skipped == {}
    assert {record.loss for record in found.records} == {"t2fnorm"}
    # W / tau is 16 times the weights over 4: the logits, features and weights are the same.
    with torch.no_grad():
        plain[2].weight.copy_(layer.evaluation_weight)  # type: ignore[index]
    assert_same_scores(found, evaluated(plain, methods))


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
