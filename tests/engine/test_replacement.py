"""Replaced feature layers: the logits that the rest of a network makes of them, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.tuning import tuned_alone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.data import ImageArray
from oodbench.engine import costs
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.own_passes import kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import DetectorError, SplitScores, score_split
from oodbench.engine.tuning_data import TuningData
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier, Network
from oodbench.planning.plan import Method

Make = Callable[..., Any]


def halved(activation: Tensor) -> Tensor:
    """Not homogeneous: what comes after it is not only scaled."""
    return activation.clamp(max=0.5) / 2 + 0.1


@register("halving", needs=("replaced_logits",), search_space={"taps": ("first", "both", "none")})
class Halving(Detector):
    """Energy, less those of the network with taps replaced."""

    def __init__(self, taps: str = "first", how: str = "good") -> None:
        self.taps, self.how = taps, how

    def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
        if self.how == "no choice":
            raise ValueError("there is nothing to choose")
        if self.how == "unknown":
            return ["frist"]
        if self.how == "a name":
            return "first"
        return {"first": taps[:1], "second": taps[1:2], "both": taps, "none": ()}[self.taps]

    def replace_tap(self, name: str, activation: Tensor) -> Tensor:
        if self.how == "in place":
            return activation.clamp_(max=0.5).div_(2).add_(0.1)
        if self.how == "raise":
            raise ZeroDivisionError("no half")
        made = halved(activation)
        match self.how:
            case "pooled":
                return made.mean(dim=(2, 3))
            case "array":
                return made.numpy()  # type: ignore[return-value]
            case "infinite":
                made[0, 0] = torch.inf
        return made

    def score(self, outputs: Outputs) -> Tensor:
        energy = outputs.logits.logsumexp(dim=1)
        for logits in outputs.replaced_logits.values():
            energy = energy - logits.logsumexp(dim=1)
        return energy


def method(detector: Detector) -> Method:
    return Method("M", "model", detector.info)


def scored(
    classifier: Classifier, data: ImageArray, detectors: dict[str, Detector]
) -> SplitScores[str]:
    kept = kept_taps(classifier.network, detectors).replaced
    runner = NetworkRunner(classifier, batch_size=8, capture=Capture(kept=kept))
    with runner.attached():
        return score_split(runner, data, detectors, dataset="letters", check_batches=True)


def by_hand(classifier: Classifier, images: Tensor, *taps: str) -> Tensor:
    """The score of `Halving` on the small network of the tests, layer by layer."""
    network: Any = classifier.network
    with torch.no_grad():
        first = network.first(classifier.normalized(images))

        def energy(second: Tensor) -> Tensor:
            logits: Tensor = network.head(second.mean(dim=(2, 3)))
            return logits.logsumexp(dim=1)

        total = energy(network.second(first))
        if "first" in taps:
            total = total - energy(network.second(halved(first)))
        if "second" in taps:
            total = total - energy(halved(network.second(first)))
    return total


def test_logits_of_replaced_taps_by_hand(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(20)
    images = torch.from_numpy(data.images).double()
    wanted = {"first": ["first"], "second": ["second"], "both": ["first", "second"], "none": []}
    together = scored(classifier, data, {taps: Halving(taps) for taps in wanted})
    assert not together.errors
    for taps, names in wanted.items():
        expected = by_hand(classifier, images, *names)
        np.testing.assert_allclose(together.scores[taps], expected, rtol=1e-12)
        alone = scored(classifier, data, {taps: Halving(taps)})
        np.testing.assert_array_equal(alone.scores[taps], together.scores[taps])


def test_what_replaces_in_place_reaches_no_other(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(20)
    detectors = {"a": Halving("both", how="in place"), "b": Halving("both"), "c": Halving("none")}
    together = scored(classifier, data, detectors)
    np.testing.assert_array_equal(together.scores["a"], together.scores["b"])
    alone = scored(classifier, data, {"c": Halving("none")})
    np.testing.assert_array_equal(together.scores["c"], alone.scores["c"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unknown", "choose_taps returned 'frist', which is no tap. Did you mean 'first'?"),
        ("a name", "choose_taps returned a str; expected a list of names of taps"),
        ("pooled", "returned a tensor of shape [8, 4] for 'first'; expected a floating-point "),
        ("array", "returned an ndarray for 'first'; expected a floating-point tensor of the shape"),
        ("infinite", "what it returned for 'first' is not finite for 1 of the 8 images"),
    ],
)
def test_what_a_detector_must_not_return(tiny: Make, tiny_data: Make, how: str, said: str) -> None:
    classifier, data = tiny(), tiny_data(20)
    outcome = scored(classifier, data, {"bad": Halving(how=how), "good": Halving()})
    assert outcome.errors.keys() == {"bad"}
    assert isinstance(outcome.errors["bad"], DetectorError)
    assert "'halving' (engine/test_replacement.py)" in str(outcome.errors["bad"])
    assert said in str(outcome.errors["bad"])
    alone = scored(classifier, data, {"good": Halving()})
    np.testing.assert_array_equal(outcome.scores["good"], alone.scores["good"])


def test_who_raises_fails_alone(tiny: Make, tiny_data: Make) -> None:
    detectors = {"a": Halving(how="raise"), "b": Halving(how="no choice"), "c": Halving()}
    outcome = scored(tiny(), tiny_data(20), detectors)
    assert {key: str(error) for key, error in outcome.errors.items()} == {
        "a": "no half",
        "b": "there is nothing to choose",
    }
    assert outcome.scores.keys() == {"c"}


def test_a_replaced_tap_costs_what_comes_after_it(trained: Classifier, digits: Make) -> None:
    """Others, and a detector that replaces nothing, cost one forward and capture nothing."""
    images = torch.from_numpy(digits("test", 32).images).float()
    names = {"early": trained.network.tap_names[:1], "late": trained.network.tap_names[-2:-1]}

    @register("one_tap", needs=("replaced_logits",))
    class OneTap(Halving):
        def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
            return names.get(self.taps, ())

    detectors = {taps: OneTap(taps) for taps in ("early", "late", "none")}
    scorers: dict[str, Detector] = {**detectors}
    baseline = oodbench.load_detector("baseline")
    scorers["baseline"] = baseline
    measured, errors = costs.measure(trained, scorers, None, images, rounds=1)
    assert not errors
    # Multiply-adds of an 8x8 image; the head has 640.
    stem = 64 * 9 * 16
    stage1 = 64 * 2 * 9 * 16 * 16
    stage2 = 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    stage3 = 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    whole = stem + stage1 + stage2 + stage3 + 640
    shares = {
        "early": 1 + (whole - stem) / whole,
        "late": 1 + (stage3 + 640) / whole,
        "none": 1,
        "baseline": 1,
    }
    for name, share in shares.items():
        assert measured[name].forwards == pytest.approx(share, abs=2e-6), name
        assert measured[name].backwards == 0
    once = measured["none"].flops
    assert measured["late"].flops / once == pytest.approx(shares["late"], rel=0.02)
    kept = kept_taps(trained.network, {"none": OneTap("none"), "baseline": baseline}).replaced
    assert kept == ()


def test_tuning_scores_every_setting_with_its_own_taps(tiny: Make) -> None:
    classifier = tiny()
    images = torch.rand(
        80, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    order = by_hand(classifier, images, "first", "second").argsort()
    data = TuningData(images[order[40:]], images[:0], images[order[:40]])
    runner = NetworkRunner(classifier, batch_size=16)
    with runner.attached():
        best = tuned_alone(runner, method(Halving()), Halving(), data)
    assert (best.parameters, best.value) == ({"taps": "both"}, 1.0)


# --- networks of all kinds ----------------------------------------------------------------------


class Pair(NamedTuple):
    map: Tensor
    size: int


@dataclass
class Held:
    size: int
    map: Tensor


class Wrapped(nn.Module):
    """A stage that gives its map in something."""

    def __init__(self, stage: nn.Module, kind: str) -> None:
        super().__init__()
        self.stage, self.kind = stage, kind

    def forward(self, x: Tensor) -> Any:
        x = self.stage(x)
        size = x.shape[-1]
        match self.kind:
            case "tuple":
                return size, x
            case "list":
                return [x, [x]]
            case "named tuple":
                return Pair(x, size)
            case "mapping":
                return {"size": size, "map": x}
            case "data class":
                return Held(size, x)
            case "channels last":
                return x.movedim(1, 3)
        return x


def map_in(given: Any) -> Tensor:
    """Every tensor in what a stage gave is the same."""
    tensors: list[Tensor] = []

    def look(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value)
        for part in value.values() if isinstance(value, dict) else ():
            look(part)
        for part in value if isinstance(value, tuple | list) else ():
            look(part)
        if isinstance(value, Held):
            look(value.map)

    look(given)
    assert all(each is tensors[0] for each in tensors)
    return tensors[0]


class Three(Network):
    """Three stages, the last of which also sees the first; what is between them may be in place."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

        def stage(channels: int, width: int) -> nn.Module:
            layers = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Tanh())
            return Wrapped(layers, kind)

        self.one, self.two, self.three = stage(2, 4), stage(4, 4), stage(4, 5)
        if kind == "twice":
            self.three = stage(4, 4)
        self.head = nn.Linear(4 if kind == "twice" else 5, 3)
        self.tap_names = ("one", "two", "three")
        if kind == "channels last":
            self.channel_axes = dict.fromkeys(self.tap_names, 3)

    def rest(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits from the maps of the first two stages."""
        third = self.map(self.three(second + first))
        return self.head(third.mean(dim=(2, 3)))

    def map(self, given: Any) -> Tensor:
        x = map_in(given)
        x = x.movedim(3, 1) if self.kind == "channels last" else x
        return F.relu(x, inplace=self.kind == "in place")

    def forward(self, images: Tensor) -> Tensor:
        first = self.map(self.one(images))
        second = self.map(self.two(first))
        if self.kind == "twice":
            second = self.map(self.two(second))
        return self.rest(first, second)


KINDS = (
    *("plain", "in place", "tuple", "list", "named tuple", "mapping", "data class"),
    "channels last",
)


@pytest.mark.parametrize("own_hook", [False, True], ids=["", "with a hook of its own"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_of_any_kind_is_replaced(kind: str, own_hook: bool) -> None:
    """With what was kept, without it, and by hand; the network is as it was."""
    torch.manual_seed(0)
    network = Three(kind).double()
    if own_hook and kind == "plain":
        network.one.register_forward_hook(lambda module, inputs, output: 2 * output)
    classifier = Classifier(network, mean=(0.5, 0.5), std=(0.3, 0.3)).double().eval()
    images = torch.rand(5, 2, 6, 6, dtype=torch.float64)
    before = _state(classifier)
    found = []
    for kept in (("one", "two"), ()):
        runner = NetworkRunner(classifier, batch_size=5, capture=Capture(kept=kept))
        with torch.inference_mode(), runner.attached():
            clean = runner.outputs(images)
            shown: list[Tensor] = []

            def change(activation: Tensor, shown: list[Tensor] = shown) -> Tensor:
                shown.append(activation.clone())
                return halved(activation)

            found.append(runner.resumed(images, "two", change))
            again = runner.outputs(images)
            assert torch.equal(clean.logits, again.logits)
            assert [each.shape for each in shown] == [(5, 4, 6, 6)]
            elsewhere = runner.resumed(images[:3], "two", halved)  # images of no pass
    assert _state(classifier) == before
    with torch.no_grad():
        first = network.map(network.one(classifier.normalized(images)))
        second = map_in(network.two(first))
        second = second.movedim(3, 1) if kind == "channels last" else second
        expected = network.rest(first, halved(second).relu())
    assert (expected - clean.logits).abs().max() > 1e-3
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(elsewhere, expected[:3], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shown[0], second)


def _state(module: nn.Module) -> dict[str, Any]:
    return {
        name: (len(part._forward_hooks), sorted(vars(part)))
        for name, part in module.named_modules()
    }


def test_stages_before_the_tap_run_once() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Three("plain"), mean=(0.5, 0.5), std=(0.3, 0.3)).eval()
    calls: list[str] = []
    for name, part in classifier.network.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda *given, name=name: calls.append(name[:-8]))
    images = torch.rand(5, 2, 6, 6)
    runner = NetworkRunner(classifier, batch_size=5, capture=Capture(kept=("one", "two")))
    with torch.inference_mode(), runner.attached():
        runner.outputs(images)
        runner.resumed(images, "two", halved)
        runner.resumed(images, "one", halved)
    assert calls == [*("one", "two", "three"), "three", *("two", "three")]


def test_a_stage_that_runs_twice_is_not_replaced() -> None:
    classifier = Classifier(Three("twice"), mean=(0.5, 0.5), std=(0.3, 0.3)).eval()
    images = torch.rand(5, 2, 6, 6)
    runner = NetworkRunner(classifier, batch_size=5, capture=Capture(kept=("one", "two", "three")))
    with torch.inference_mode(), runner.attached():
        clean = runner.outputs(images)
        with pytest.raises(ValueError, match="'two' runs 2 times in a forward pass"):
            runner.resumed(images, "two", halved)
        same = runner.resumed(images, "three", lambda activation: activation)
    torch.testing.assert_close(same, clean.logits)


# --- declarations, evaluate, benchmarks ----------------------------------------------------------


def test_a_detector_cannot_move_images_and_replace_taps() -> None:
    with pytest.raises(UserError, match="'input_gradient' and 'replaced_logits'"):
        register("both", needs=("input_gradient", "replaced_logits"))(Halving)


def test_a_detector_that_replaces_says_with_what() -> None:
    class Score(Detector):
        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits.amax(dim=1)

    with pytest.raises(UserError, match="'replaced_logits' and has no method 'replace_tap'"):
        register("nothing", needs=("replaced_logits",))(Score)


def model_of(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(first, second, *end).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_evaluate_in_the_types_of_models(dtype: torch.dtype) -> None:
    model = model_of(dtype)
    images = {name: torch.rand(12, 3, 10, 10) ** power for name, power in (("id", 1), ("o", 3))}
    result = oodbench.evaluate(
        model,
        {"first": Halving(), "second": Halving("second"), "none": Halving("none")},
        id_data=TensorDataset(images["id"]),
        ood_data={"o": TensorDataset(images["o"])},
        taps=["0", "1"],
        costs=True,
    )
    assert result.failed == result.skipped == {}
    assert [note for note in result.notes if "replaces" in note] == [
        "first: replaces the output of 0.",
        "second: replaces the output of 1.",
    ]
    with torch.no_grad():
        for name, each in images.items():
            first = model[0](each.to(dtype))
            logits, changed = model[1:](first), model[1:](halved(first))
            expected = logits.double().logsumexp(1) - changed.double().logsumexp(1)
            np.testing.assert_allclose(result.scores["first"][name], expected, rtol=0, atol=1e-6)
    convolutions = 64 * 27 * 6, 9 * 54 * 8
    whole = sum(convolutions) + 32
    forwards = {cost.method: cost.forwards_per_image for cost in result.costs}
    assert forwards["first"] == pytest.approx(1 + (whole - convolutions[0]) / whole, abs=2e-6)
    assert forwards["second"] == pytest.approx(1 + 32 / whole, abs=2e-6)
    assert forwards["none"] == 1


def test_evaluate_leaves_out_who_finds_nothing_to_replace() -> None:
    result = oodbench.evaluate(
        model_of(torch.float32),
        {"a": Halving(how="no choice"), "b": Halving(how="raise"), "energy": "energy"},
        id_data=TensorDataset(torch.rand(6, 3, 10, 10)),
        ood_data={"o": TensorDataset(torch.rand(6, 3, 10, 10))},
        taps=["0", "1"],
    )
    assert result.skipped == {"a": "there is nothing to choose"}
    assert result.failed.keys() == {"b"}
    assert result.failed["b"].startswith("ZeroDivisionError: no half (engine/test_replacement.py")
    assert result.scores.keys() == {"energy"}


def test_rankfeat_with_two_blocks_in_a_benchmark(tmp_path: Path) -> None:
    benchmark = tmp_path / "fused.yaml"
    benchmark.write_text(
        "extends: digits\nname: fused\nmethods:\n"
        "  Fused: {model: SoftMax, detector: rankfeat, parameters: {fuse: true}}\n"
        "  Usual: {model: SoftMax, detector: rankfeat}\n"
    )
    run = oodbench.run(
        benchmark,
        out=tmp_path / "run",
        methods=["Fused", "Usual"],
        seeds=1,
        epochs=1,
        limit=60,
        device="cpu",
    )
    assert run.complete, run.failures
    last = 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) + 640  # multiply-adds of an 8x8 image
    whole = 64 * 9 * 16 + 64 * 2 * 9 * 16 * 16 + 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) + last
    forwards = {cost.method: cost.forwards_per_image for cost in run.costs}
    assert forwards.pop("Fused") == pytest.approx(1 + last / whole, abs=2e-6)
    assert forwards == {"Usual": 1.0}
