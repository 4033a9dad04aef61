"""Detectors that read every convolution and activation function while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench import Detector, Outputs, models, register
from oodbench.detector import Batches
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Classifier
from oodbench.models.densenet import DenseNet
from oodbench.models.layers import find_layers
from oodbench.numerics.statistics.gram import gram_row_sums

CLASSES = 4


@register("reading", needs=("layers",))
class Reading(Detector):
    """Mean and maximum of each layer; scores their sum."""

    def __init__(self, chosen: Sequence[str] | None = None) -> None:
        self.chosen = chosen
        self.shapes: list[tuple[int, ...]] = []

    def choose_layers(self, layers: Sequence[str], taps: Sequence[str]) -> Sequence[str]:
        return layers if self.chosen is None else self.chosen

    def reduce_layer(self, activation: Tensor) -> Tensor:
        self.shapes.append(tuple(activation.shape))
        flat = activation.flatten(1)
        return torch.stack([flat.mean(dim=1), flat.amax(dim=1)], dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        return torch.stack(list(outputs.layers.values())).sum(dim=(0, 2)).double()


class Residual(nn.Module):
    """A block whose ReLU works in place, and runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Any:
        first = self.relu(self.conv1(images))
        second = self.conv2(first)
        second += first
        return self.fc(self.relu(second).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches, then blocks whose layers see tokens last, as a transformer's; one gives a tuple."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Any:
            return x + self.down(self.act(self.up(x))), None

    class SquaredReLU(nn.Module):
        """An activation of the user's own, which gives a tuple."""

        def forward(self, x: Tensor) -> Any:
            return x.relu().square(), "and something else"

    def __init__(self, *, maps: bool = False) -> None:
        super().__init__()
        self.maps = maps
        self.patches = nn.Conv2d(3, 5, 4, 4)
        self.blocks = nn.ModuleList([Tokens.Block() for _ in range(2)])
        self.own = Tokens.SquaredReLU()
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Any:
        x = self.patches(images)
        x = x.permute(0, 2, 3, 1) if self.maps else x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x, _ = block(x)
        x, _ = self.own(x)
        return self.fc(x.flatten(1, -2).mean(dim=1))


def images(count: int = 12, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def classifier_of(module: nn.Module) -> Classifier:
    torch.manual_seed(0)
    network = AdaptedNetwork(module, (), "fc")
    return Classifier(network, mean=(0.5,), std=(0.25,)).eval()


def data(count: int, seed: int) -> TensorDataset:
    return TensorDataset(images(count, seed=seed), torch.arange(count) % CLASSES)


def names(module: nn.Module) -> list[str]:
    return [layer.name for layer in find_layers(classifier_of(module), images(3))]


def test_layers_are_convolutions_and_activations_in_the_order_of_their_calls() -> None:
    assert names(Residual()) == ["conv1", "relu", "conv2", "relu#2"]
    blocks = ["blocks.0.act", "blocks.1.act"]
    assert names(Tokens()) == names(Tokens(maps=True)) == ["patches", *blocks, "own"]


def test_what_no_module_gives_and_the_last_layer_are_no_layers() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
            self.softmax, self.fc = nn.Softmax(dim=1), nn.Conv2d(6, CLASSES, 1)

        def forward(self, images: Tensor) -> Any:
            x = self.softmax(F.relu(self.norm(self.conv(images))))
            return self.fc(x.mean(dim=(2, 3), keepdim=True)).flatten(1)

    assert names(Plain()) == ["conv"]


@pytest.mark.parametrize(
    ("name", "convolutions", "activations"), [("resnet8", 9, 7), ("resnet20", 21, 19)]
)
def test_the_networks_of_oodbench_show_all_of_theirs(
    name: str, convolutions: int, activations: int
) -> None:
    network = models.create(name, num_classes=CLASSES)
    layers = find_layers(Classifier(network, (0.5,) * 3, (0.25,) * 3).eval(), images(2, size=8))
    assert sum(layer.convolution for layer in layers) == convolutions
    assert len(layers) == convolutions + activations


def test_a_dense_network_shows_all_of_its_layers() -> None:
    dense = DenseNet(16, 4, lambda features: nn.Linear(features, CLASSES), 3)
    layers = find_layers(Classifier(dense, (0.5,) * 3, (0.25,) * 3).eval(), images(2, size=8))
    found = [isinstance(module, nn.Conv2d) for module in dense.modules()]
    assert sum(layer.convolution for layer in layers) == sum(found)
    assert len(layers) - sum(found) == sum(isinstance(m, nn.ReLU) for m in dense.modules())


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (Residual(), [(6, 16, 16)] * 4),
        (Tokens(), [(5, 4, 4), (16, 7), (16, 7), (16, 5)]),
        (Tokens(maps=True), [(5, 4, 4), (7, 4, 4), (7, 4, 4), (5, 4, 4)]),
    ],
    ids=["residual", "tokens", "maps"],
)
def test_activations_come_with_their_channels_where_detectors_expect_them(
    module: nn.Module, shapes: list[tuple[int, ...]]
) -> None:
    """And as the layer gave them: what later layers do in place is not in them."""
    classifier, detector = classifier_of(module), Reading()
    readers, errors = layer_readers(classifier, {"M": detector}, images(2))
    assert not errors
    runner = NetworkRunner(
        classifier, batch_size=5, capture=Capture.of(frozenset({"layers"}), None, readers)
    )
    with runner.attached(), torch.no_grad():
        batch = images(5, seed=1)
        assert runner.outputs(batch).reduced == {}, "nobody reads"
        detector.shapes.clear()
        with runner.reading(["M"]):
            outputs = runner.outputs(batch)
    assert detector.shapes == [(5, *shape) for shape in shapes]
    given = outputs.copied({"layers"}, "M")
    assert [*given.layers] == names(module)
    assert outputs.copied({"layers"}, "another").layers == {}
    assert not hasattr(outputs.copied(frozenset(), "M"), "layers")
    if isinstance(module, Residual):
        normalized = classifier.normalized(batch)
        convolved = module.conv1(normalized)
        second = module.conv2(convolved.relu())
        for layer, expected in {
            "conv1": convolved,
            "relu": convolved.relu(),
            "conv2": second,
            "relu#2": (second + convolved.relu()).relu(),
        }.items():
            flat = expected.detach().flatten(1)
            torch.testing.assert_close(
                given.layers[layer], torch.stack([flat.mean(1), flat.amax(1)], 1)
            )


def test_two_detectors_read_what_each_chose() -> None:
    """From one pass; one that is not fitted or scored is not asked."""
    all_of_them, one = Reading(), Reading(["conv2"])
    result = oodbench.evaluate(
        Residual(),
        {"all": all_of_them, "one": one, "energy": "energy"},
        id_data=data(20, 1),
        ood_data={"o": data(10, 2)},
    )
    assert result.failed == {}
    assert "all: reads 4 layers (2 convolutions): conv1 to relu#2." in result.notes
    assert "one: reads 1 layer (1 convolution): conv2." in result.notes
    assert not np.allclose(result.scores["all"]["id"], result.scores["one"]["id"])
    assert len(all_of_them.shapes) == 0, "instances are copied"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (["conv3"], "choose_layers gave 'conv3', which is no layer of the network. Did you mean"),
        ("conv1", "choose_layers gave a str, not a list of names"),
    ],
)
def test_a_wrong_choice_is_the_detectors_failure(chosen: Any, reason: str) -> None:
    result = oodbench.evaluate(
        Residual(), [Reading(chosen), "energy"], id_data=data(9, 1), ood_data={"o": data(9, 2)}
    )
    assert result.failed["reading"].startswith(reason)
    assert [*result.scores] == ["energy"]


@pytest.mark.parametrize("module", [Residual(), Tokens()], ids=["residual", "tokens"])
@pytest.mark.parametrize("fitting", [1, 2, 3])
def test_gram_reads_no_more_layers_than_fit_the_memory(
    module: nn.Module, fitting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {name: data(40, seed) for seed, name in enumerate(("fit_data", "validation_data"))}

    def tried(layers: Any) -> oodbench.EvaluationResult:
        detector = oodbench.load_detector("gram", layers=layers, powers=3)
        given = {"id_data": data(40, 2), "ood_data": {"ood": data(40, 3)}, **sets}
        return oodbench.evaluate(module, {"gram": detector}, **given)

    explicit = tried(fitting)
    ranges = explicit.detectors["gram"].ranges
    monkeypatch.setattr(
        "oodbench.numerics.statistics.gram.MOST_BYTES",
        sum(2 * low.numel() * 4 for low, _ in ranges.values()),
    )
    found = tried("auto")
    assert found.failed == {}
    assert [*found.detectors["gram"].ranges] == [*ranges]
    for key, scores in explicit.scores["gram"].items():
        np.testing.assert_array_equal(found.scores["gram"][key], scores)
    count = len(names(module))
    layers = "layer" if count == 1 else "layers"
    note = next(note for note in found.notes if note.startswith("gram: reads"))
    assert note.startswith(f"gram: reads {fitting} of {count} {layers} ("), note
    assert note.endswith("would not fit the memory.")
    reason = tried("all").failed["gram"]
    assert f"take layers = auto, layers = {fitting}, or lower powers" in reason


@pytest.mark.parametrize("module", [Residual(), Tokens(), Tokens(maps=True)], ids=["a", "b", "c"])
@pytest.mark.parametrize("layers", ["all", 2])
def test_gram_on_a_users_model_is_that_of_its_layers(module: nn.Module, layers: Any) -> None:
    """Ranges, expected deviations and scores from activations that are kept by hand."""
    sets = {name: data(40, seed) for seed, name in enumerate(("fit", "validation", "id", "ood"))}
    detector = oodbench.load_detector("gram", layers=layers, powers=3)
    result = oodbench.evaluate(
        module,
        {"gram": detector},
        id_data=sets["id"],
        ood_data={"ood": sets["ood"]},
        fit_data=sets["fit"],
        validation_data=sets["validation"],
    )
    assert result.failed == {}
    chosen = names(module) if layers == "all" else [names(module)[i] for i in (1, 3)]

    def outputs(part: TensorDataset) -> Outputs:
        seen: list[Tensor] = []
        handles = [
            layer.register_forward_hook(
                lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o).clone())
            )
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.ReLU | nn.GELU | Tokens.SquaredReLU)
        ]
        with torch.no_grad():
            logits = module.eval()(part.tensors[0]).double()
        for handle in handles:
            handle.remove()
        sums = {}
        for name, activation in zip(names(module), seen, strict=True):
            if isinstance(module, Tokens) and module.maps and name != "patches":
                activation = activation.movedim(3, 1)
            if name in chosen:
                sums[name] = gram_row_sums(activation, 3)
        return Outputs(logits, torch.zeros(len(logits), 1), layers=sums)

    class One(Batches):
        num_classes = CLASSES

        def __init__(self, part: TensorDataset) -> None:
            self.part = part

        def __iter__(self) -> Any:
            yield outputs(self.part)

    by_hand: Any = oodbench.load_detector("gram", powers=3)
    by_hand.fit(One(sets["fit"]))
    by_hand.fit_validation(One(sets["validation"]))
    for name in ("id", "ood"):
        expected = by_hand.score(outputs(sets[name])).numpy()
        found = result.scores["gram"][name]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_network_without_layers_is_a_reason_for_gram() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))
    sets = {"fit_data": data(20, 0), "validation_data": data(20, 1), "id_data": data(9, 2)}
    result = oodbench.evaluate(model, ["gram", "energy"], ood_data={"o": data(9, 3)}, **sets)
    assert "no convolution or activation function that is a module" in result.failed["gram"]
    assert [*result.scores] == ["energy"]


# --- layers that run for some images alone -----------------------------------------------------


class Sometimes(nn.Module):
    """A network with a block that runs if a condition on the batch is met."""

    def __init__(self, runs: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.extra = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.last = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, 4)
        self.runs = runs

    def forward(self, x: Tensor) -> Tensor:
        run, x = self.runs(x), self.stem(x)
        x = self.last(self.extra(x) if run else x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


CONDITIONS: dict[str, Callable[[Tensor], bool]] = {
    "few": lambda x: len(x) <= 3,
    "more": lambda x: len(x) > 5,
    "the first images": lambda x: len(x) > 5 and bool(x.mean() < 0.6),
    "bright": lambda x: bool(x.mean() > 0.6),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_layer_that_does_not_run_for_every_image_is_named(name: str) -> None:
    torch.manual_seed(0)
    bright = TensorDataset(torch.rand(40, 3, 12, 12, generator=torch.Generator()) / 4 + 0.7)
    result = oodbench.evaluate(
        Sometimes(CONDITIONS[name]),
        {
            "gram": "gram",
            "chosen": Reading(["extra.0", "last.0"]),
            "last": Reading(["last.0"]),
            "energy": "energy",
        },
        id_data=DataLoader(data(16, 1), batch_size=8),
        ood_data={"o": DataLoader(bright, batch_size=8), "few": data(4, 2)},
        fit_data=DataLoader(data(44, 3), batch_size=8),
        validation_data=data(20, 4),
    )
    ran = {"last", "energy"} | ({"gram"} if name in ("few", "bright") else set())
    assert {*result.scores} == ran
    for label, reason in result.failed.items():
        unknown = label == "chosen" and name in ("few", "bright")
        assert ("'extra.0'" in reason) or unknown, reason
        assert ("did not run for a batch of" in reason) or unknown, reason
        assert "KeyError" not in reason
    assert not any("extra" in tap for tap in result.taps) or name in ("more", "the first images")


@register("tapping", needs=("taps", "fit"))
class Tapping(Detector):
    def fit(self, batches: Batches) -> None:
        self.seen = [tuple(outputs.taps) for outputs in batches]

    def score(self, outputs: Outputs) -> Tensor:
        return sum((tap.sum(dim=1) for tap in outputs.taps.values()), torch.zeros(len(outputs)))


@pytest.mark.parametrize("name", ["few", "bright"])
def test_a_named_tap_that_does_not_run_for_every_image(name: str) -> None:
    torch.manual_seed(0)
    bright, dark = torch.ones(10, 3, 12, 12), torch.rand(30, 3, 12, 12) / 4
    labels = torch.arange(40) % 4
    result = oodbench.evaluate(
        Sometimes(CONDITIONS[name]),
        [Tapping(), "energy"],
        id_data=DataLoader(TensorDataset(bright + dark[:10]), batch_size=5),
        ood_data={"o": DataLoader(TensorDataset(dark), batch_size=5)},
        fit_data=DataLoader(TensorDataset(torch.cat([bright, dark]), labels), batch_size=5),
        taps=["extra", "last"],
    )
    assert {*result.scores} == {"energy"}
    assert "the layer 'extra' did not run for a batch of 5 images" in result.failed["tapping"]


def test_outputs_put_together_name_the_layers_that_did_not_run() -> None:
    logits, features = torch.zeros(3, 2), torch.ones(3, 2)
    whole = Outputs(logits, features, {"a": features, "b": features})
    part = Outputs(logits, features, {"a": features}, absent={"": ["b"]})
    for batches in ([whole, part], [part, whole]):
        joined = Outputs.concatenate(batches)
        assert len(joined.copied({"features"})) == 6
        for need in ("taps", "tap_maps"):
            with pytest.raises(ValueError, match="layer 'b' did not run for a batch of 6 images"):
                joined.copied({need})
    assert [*Outputs.concatenate([whole, whole]).copied({"taps"}).taps] == ["a", "b"]
