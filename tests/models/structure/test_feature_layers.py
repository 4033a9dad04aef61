"""Feature layers of models of timm and Transformers, and of networks written by hand.

Small configurations with random weights; nothing is downloaded. `pytest -s` prints what each model
chose. What is right is said by the libraries themselves: timm's `forward_intermediates` and the
hidden states of Transformers give the outputs of stages or blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import transformers
from helpers.small_models import CLASSES, MODELS, logits_of, made
from helpers.tiers import by_default
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.models.structure.analysis import Analysis, analyze

Mahalanobis = partial(oodbench.load_detector, "mahalanobis")
INSIDE = re.compile(
    r"(^|[._])(q|k|v|o|qkv|kv|to_out|query|key|value|proj|projection|attn|attention|attend|softmax|"
    r"mlp|dropout|drop|norm\w*|output|intermediate|mixer|token_mixer)([._]|$)"
)
"""Parts of a block: attention matrices, projections, and what follows them."""


def known(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What stages or blocks give, as the library itself says, shape [B, D, ...] or [B, N, D]."""
    with torch.no_grad():
        if isinstance(model, transformers.PreTrainedModel):
            return [*model(images, output_hidden_states=True).hidden_states]
        found: list[Tensor] = model.forward_intermediates(images, intermediates_only=True)
        return found


def means(activation: Tensor) -> list[Tensor]:
    """Means over places: of tokens or of a map, with or without a class token."""
    if activation.ndim == 4:
        return [activation.mean(dim=(2, 3)), activation.mean(dim=(1, 2))]
    return [activation.mean(dim=1), activation[:, 1:].mean(dim=1), activation.mean(dim=2)]


def equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


def captured(probed: Analysis, images: Tensor) -> dict[str, Tensor]:
    classifier = Classifier(probed.network, (0.0,), (1.0,)).eval()
    runner = NetworkRunner(
        classifier, batch_size=len(images), capture=Capture.of({"taps", "tap_maps"})
    )
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(images)
    for name, pooled in outputs.taps.items():
        usual = outputs.tap_maps[name]
        usual = usual.mean(dim=1) if usual.ndim == 3 else usual.flatten(2).mean(dim=2)
        torch.testing.assert_close(pooled, usual)
    return dict(outputs.tap_maps)


@pytest.mark.parametrize("name", MODELS)
def test_the_ends_of_stages_or_blocks(name: str) -> None:
    model, images = made(name)
    images = images[:3]
    probed = analyze(model, images)
    taps = probed.network.tap_names
    print(f"\n{name}: {', '.join(taps)} ({probed.network.tap_reason})", end="")
    assert 3 <= len(taps) <= 6
    assert probed.network.tap_reason
    for tap in taps:
        assert not INSIDE.search(tap.removeprefix("final_")), tap
    # Each is the output of another stage or block, in their order; the last one is the last of all.
    ends = known(model, images)
    found = []
    for tap, activation in captured(probed, images).items():
        mine = means(activation)[:2] if activation.ndim == 3 else means(activation)[:1]
        found.append(
            [
                index
                for index, end in enumerate(ends)
                if any(equal(one, other) for one in mine for other in means(end))
            ]
        )
        assert found[-1], f"{tap} is none of the {len(ends)} outputs of stages or blocks"
    order = [indices[-1] for indices in found]
    assert order == sorted(set(order))
    assert order[-1] >= len(ends) - 2


@register("plain_mahalanobis", needs=("taps", "labels", "fit"))
class PlainMahalanobis(Detector):
    """The sum over feature layers of Mahalanobis distances, not tuned."""

    def __init__(self) -> None:
        self.inner = oodbench.load_detector("mahalanobis")

    def fit(self, batches: Batches) -> None:
        self.inner.fit(batches)

    def score(self, outputs: Outputs) -> Tensor:
        return self.inner.score(outputs)


WITHOUT_HEAD = {"HF SwiftFormer"}
"""Models whose logits are a mean of those of two last layers."""
TUNED = {"timm vit", "timm swin", "timm resnet", "timm tnt", "HF Pvt", "HF Cvt"}


@pytest.mark.parametrize(
    "name",
    by_default(
        ["timm vit", "timm resnet", "timm tnt", "HF Cvt", "HF ConvNext", "HF SwiftFormer"],
        [name for name in MODELS if name != "timm efficientnet"],
    ),
)
def test_detectors_run_or_are_left_out_for_a_reason(name: str) -> None:
    model, images = made(name)
    with torch.no_grad():
        predicted = logits_of(model, images * 2 - 1).argmax(dim=1)

    def data(first: int, last: int) -> TensorDataset:
        return TensorDataset(images[first:last], predicted[first:last])

    detectors = {"gram": "gram", "react": "react", "rankfeat": "rankfeat"}
    result = oodbench.evaluate(
        model,
        {
            **detectors,
            "plain": PlainMahalanobis(),
            **({"mahalanobis": Mahalanobis(epsilon=0.0)} if name in TUNED else {}),
        },
        id_data=data(0, 8),
        ood_data={"inverted": TensorDataset(1 - images[8:16])},
        fit_data=TensorDataset(images[40:], torch.arange(20) % CLASSES),
        validation_data=data(0, 40 if name in TUNED else 16),
        normalization=((0.5,) * 3, (0.5,) * 3),
    )
    assert [note for note in result.notes if note.startswith("Feature layers: ")]
    reasons = {**result.skipped, **result.failed}
    for detector, reason in reasons.items():
        print(f"\n{name}, {detector}: {reason}", end="")
        if name in WITHOUT_HEAD:
            assert "no layer was found that gives the logits" in reason
        else:
            assert detector == "rankfeat"
            assert "No module of the network gives a larger map" in reason
    if name not in WITHOUT_HEAD:
        classifier = Classifier(analyze(model, images[:3]).network, (0.0,), (1.0,)).eval()
        assert ("rankfeat" in reasons) == (find_map(classifier, images[:3]) is None)


# --- networks written by hand ------------------------------------------------------------------

WIDTH = 16


class Attention(nn.Module):
    """Each step of it is a module, so that it could be taken for a feature layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.softmax, self.dropout = nn.Softmax(dim=-1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (
            part(x).unflatten(2, (2, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        attention = self.dropout(self.softmax(q @ k.mT))
        return self.o((attention @ v).transpose(1, 2).flatten(2))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())


def first(value: Any) -> Tensor:
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


class Block(nn.Module):
    def __init__(self, width: int = WIDTH, give: Callable[[Tensor], Any] = lambda x: (x,)) -> None:
        super().__init__()
        self.attention, self.mlp, self.give = Attention(width), mlp(width), give

    def forward(self, x: Tensor) -> Any:
        x = x + self.attention(x)
        return self.give(x + self.mlp(x))


class Hand(nn.Module):
    """Patches, what `compute` makes of their tokens with the parts, a norm and the mean."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], width: int, **parts: Any) -> None:
        super().__init__()
        self.patches = parts.pop("patches", nn.Conv2d(3, WIDTH, 4, 4))
        for name, part in parts.items():
            self.add_module(name, part)
        self.compute = compute
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        logits: Tensor = self.fc(self.norm(self.compute(self, tokens)).mean(1))
        return logits


def in_turn(self: Any, x: Tensor) -> Tensor:
    for block in self.blocks:
        x = first(block(x))
    return x


def blocks(count: int, give: Callable[[Tensor], Any] = lambda x: (x,)) -> nn.Module:
    return Hand(in_turn, WIDTH, blocks=nn.ModuleList(Block(give=give) for _ in range(count)))


def residual_outside(self: Any, x: Tensor) -> Tensor:
    for block in self.blocks:
        x = x + block(x)[0]
    return x


def in_pairs(self: Any, x: Tensor) -> Tensor:
    for attention, feed_forward in self.layers:
        x = x + attention(x)
        x = x + feed_forward(x)
    return x


def by_attribute(self: Any, x: Tensor) -> Tensor:
    return first(self.block3(first(self.block2(first(self.block1(x))))))


class Stage(nn.Module):
    """Two blocks, then a quarter of the tokens; gives both."""

    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.merge = nn.Identity() if last else nn.Linear(4 * width, 2 * width)
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = in_turn(self, x)
        if self.last:
            return x, x
        return self.merge(x.unflatten(1, (-1, 4)).flatten(2)), x


def stages() -> nn.ModuleList:
    return nn.ModuleList([Stage(16, last=False), Stage(32, last=False), Stage(64, last=True)])


def through_stages(self: Any, x: Tensor) -> Tensor:
    for stage in self.stages:
        x = stage(x)[0]
    return x


class Pyramid(nn.Module):
    """Lists of blocks, and the convolutions between them, are attributes with numbers."""

    def __init__(self) -> None:
        super().__init__()
        for index, (before, width, step) in enumerate([(3, 8, 4), (8, 16, 2), (16, 32, 2)]):
            self.add_module(f"patches{index}", nn.Conv2d(before, width, step, step))
            self.add_module(f"blocks{index}", nn.ModuleList(Block(width) for _ in range(2)))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = self.get_submodule(f"patches{index}")(x)
            tokens = x.flatten(2).mT
            for block in self.get_submodule(f"blocks{index}").children():
                tokens = block(tokens)[0]
            x = tokens.mT.unflatten(2, x.shape[2:])
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Scaled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images / 2)


def pairs(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList([Attention(WIDTH), mlp(WIDTH)]) for _ in range(count))


STEM = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, WIDTH, 3, 2, 1), nn.ReLU())
BY_HAND: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "two": (blocks(2), ("blocks.0", "blocks.1")),
    "six": (blocks(6), ("blocks.1", "blocks.2", "blocks.3", "blocks.5")),
    "mappings": (blocks(2, lambda x: {"state": x, "weights": None}), ("blocks.0", "blocks.1")),
    "nested": (blocks(3, lambda x: [(x, None), 1]), ("blocks.0", "blocks.1", "blocks.2")),
    "masks first": (blocks(2, lambda x: (x[0, :, :1], x)), ("blocks.0", "blocks.1")),
    "residual outside": (
        Hand(residual_outside, WIDTH, blocks=nn.ModuleList(Block() for _ in range(3))),
        ("blocks.0", "blocks.1", "blocks.2"),
    ),
    "pairs": (Hand(in_pairs, WIDTH, layers=pairs(3)), ("layers.0.1", "layers.1.1", "layers.2.1")),
    "attributes": (
        Hand(by_attribute, WIDTH, block1=Block(), block2=Block(), block3=Block()),
        ("block1", "block2", "block3"),
    ),
    "stages": (Hand(through_stages, 64, stages=stages()), ("stages.0", "stages.1", "stages.2")),
    "pyramid": (Pyramid(), ("blocks0.1", "blocks1.1", "blocks2.1")),
    "after a stem": (
        Hand(in_turn, WIDTH, patches=STEM, blocks=nn.ModuleList(Block() for _ in range(4))),
        ("blocks.0", "blocks.1", "blocks.2", "blocks.3"),
    ),
    "wrapped": (Scaled(blocks(2)), ("backbone.blocks.0", "backbone.blocks.1")),
    "one": (blocks(1), ("norm",)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_networks_written_by_hand(name: str) -> None:
    model, expected = BY_HAND[name]
    if name == "masks first":
        model.compute = lambda self, x: self.blocks[1](self.blocks[0](x)[1])[1]
    network = analyze(model.eval(), torch.rand(3, 3, 32, 32)).network
    assert network.tap_names == expected
    assert network.tap_reason


def test_a_named_module_that_gives_a_tuple_counts_by_its_first_tensor() -> None:
    model = blocks(6).eval()
    images = torch.rand(4, 3, 32, 32)
    probed = analyze(model, images, ["blocks.2", "blocks.5"])
    found = captured(probed, images)
    with torch.no_grad():
        x = model.patches(images).flatten(2).mT
        for index, block in enumerate(model.blocks):
            (x,) = block(x)
            if index in (2, 5):
                torch.testing.assert_close(found[f"blocks.{index}"], x)
    assert list(found) == ["blocks.2", "blocks.5"]
    result = oodbench.evaluate(
        model,
        [PlainMahalanobis()],
        id_data=TensorDataset(images, torch.arange(4) % CLASSES),
        ood_data={"o": TensorDataset(images)},
        fit_data=TensorDataset(torch.rand(20, 3, 32, 32), torch.arange(20) % CLASSES),
        taps=["blocks.2", "blocks.5"],
    )
    assert result.taps == ("blocks.2", "blocks.5")
    assert "Feature layers: blocks.2, blocks.5 (those that taps= names)." in result.notes


@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize("turned", [False, True])
def test_the_axis_of_channels(width: int, turned: bool) -> None:
    """Of a map [B, 8, 8, 8] the shape does not tell: what it goes to, or comes from, does."""

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width) if turned else nn.Conv2d(width, width, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.layer(x), None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.turn = nn.Conv2d(3, width, 4, 4), Turn() if turned else nn.Identity()
            self.blocks = nn.ModuleList([Mixing(), Mixing()])
            self.fc = nn.Linear(width, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = in_turn(self, self.turn(self.conv(x)))
            logits: Tensor = self.fc(x.mean((1, 2) if turned else (2, 3)))
            return logits

    model, images = Net().eval(), torch.rand(3, 3, 32, 32)
    probed = analyze(model, images)
    assert probed.network.tap_names == ("blocks.0", "blocks.1")
    with torch.no_grad():
        expected = in_turn(model, model.turn(model.conv(images)))
    expected = expected.permute(0, 3, 1, 2) if turned else expected
    torch.testing.assert_close(captured(probed, images)["blocks.1"], expected)


def test_a_sequence_with_its_channels_first() -> None:
    """Its channels are where the convolutions have them, and are pooled over the other axis."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4),
        nn.Flatten(2),
        *(nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8)) for _ in range(3)),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ).eval()
    images = torch.rand(3, 3, 32, 32)
    found = captured(analyze(model, images), images)
    assert list(found) == ["2", "3", "4"]
    with torch.no_grad():
        torch.testing.assert_close(found["3"], model[:4](images).mT)


@pytest.mark.parametrize("name", ["hrnet_w18_small", "hrnet_w18_small_v2"])
def test_stages_that_give_lists_of_maps(name: str) -> None:
    """Their `feature_info` names them, and a stem and a first stage that are no modules."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    images = torch.rand(3, 3, 64, 64)
    probed = analyze(model, images)
    assert probed.network.tap_names == ("layer1", "stage2", "stage3", "stage4")
    assert probed.network.tap_reason == "those that the model's feature_info names"
    kept: dict[str, Tensor] = {}
    for tap in probed.network.tap_names:
        part = model.get_submodule(tap)
        part.register_forward_hook(
            lambda _, __, given, tap=tap: kept.update({tap: first(given).clone()})
        )
    with torch.no_grad():
        model(images)
    for tap, activation in captured(probed, images).items():
        torch.testing.assert_close(activation, kept[tap])


class Listing(nn.Module):
    """Stages, with some of its `feature_info` in other words."""

    def __init__(self, *named: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.early = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.stage2, self.stage3 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)
        self.feature_info = [{"module": name} for name in named]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.early(self.stem(x))))
        logits: Tensor = self.head(self.neck(x).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize(
    ("named", "taps"),
    [
        (("stage1", "stage2", "stage3"), ("early", "stage2", "stage3")),
        (("root", "stage1", "stage2", "stage3"), ("stem", "early", "stage2", "stage3")),
        (("no", "such", "names", "stage2", "stage3"), ("stem", "early", "stage2", "stage3")),
        (("stem", "stage3"), ("stem", "stage3")),
    ],
)
def test_feature_info_with_names_of_no_modules(
    named: tuple[str, ...], taps: tuple[str, ...]
) -> None:
    probed = analyze(Listing(*named).eval(), torch.rand(3, 3, 32, 32))
    assert probed.network.tap_names == taps


@pytest.mark.parametrize("named", [("stage2", "end"), ("a", "b")])
def test_feature_info_without_its_last_stage_is_amiss(named: tuple[str, ...]) -> None:
    probed = analyze(Listing(*named).eval(), torch.rand(3, 3, 32, 32))
    assert "feature_info" not in probed.network.tap_reason
