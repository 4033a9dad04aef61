"""Passes with dropout: logits, what they cost, what they leave as it was; detector `mcd`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import benchmark, plan
from helpers.user_network import MEAN, STD, Net, pairs
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Outputs
from oodbench.data import ImageArray
from oodbench.engine import costs
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.dropout_passes import dropouts, find_dropout
from oodbench.engine.passes.folding import find_folding
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_batch, score_split
from oodbench.errors import UnsuitableError
from oodbench.models.classifier import Classifier, Network
from oodbench.models.registry import NETWORKS as NETWORKS_OF_THE_REGISTRY
from oodbench.plugins.catalog import Catalog
from oodbench.testing.small_network import state_of

IMAGES = torch.rand(9, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Parts(Network):
    """Modules in a row."""

    tap_names = ()

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.head = parts[-1]

    def forward(self, images: Tensor) -> Any:
        return self.parts(images)


class Flat(Network):
    """Modules of one convolution each, in place where they can be, with a sum around them."""

    tap_names = ("second",)

    def __init__(self, dropout: Callable[..., nn.Module] = nn.Dropout) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.second = nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1)
        self.dropout, self.head = dropout(0.4), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Any:
        x = self.relu(self.norm(self.first(images)))
        x = x + self.second(x)
        return self.head(self.dropout(x).relu_().mean(dim=(2, 3)))


class Windows(Flat):
    """Four windows of each image on the first axis."""

    def forward(self, images: Tensor) -> Any:
        x = self.norm(self.first(images)).unfold(2, 6, 6).unfold(3, 6, 6)
        x = self.dropout(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        return self.head(x.unflatten(0, (-1, 4)).mean(dim=(1, 3, 4)))


def stage(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    "before the head": lambda: Parts(
        stage(3), stage(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 4)
    ),
    "in the middle": lambda: Parts(
        stage(3), nn.Dropout2d(0.3), stage(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5, inplace=True), nn.Linear(6, 4),
    ),
    "first": lambda: Parts(nn.Dropout(0.2), stage(3), nn.Flatten(), nn.Linear(6 * 144, 4)),
    "flat": Flat,
    "channels": lambda: Flat(nn.Dropout2d),
    "windows": Windows,
}  # fmt: skip


def classifier_of(name: str, dtype: torch.dtype = torch.float64) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean += 0.1
    return Classifier(network, (0.4,) * 3, (0.2,) * 3).to(dtype).eval()


def by_hand(classifier: Classifier, images: Tensor, samples: int, seed: int) -> Tensor:
    """Whole forward passes of one image at a time, with masks that are put into the modules."""
    rows = []
    for number in range(samples):
        state = np.random.SeedSequence((seed, number)).generate_state(2, np.uint32)
        logits = []
        for image in images:
            generator = torch.Generator().manual_seed((int(state[0]) << 31) | (int(state[1]) >> 1))

            def drop(module: Any, inputs: Any, output: Tensor, generator: Any = generator) -> Any:
                shape = output.shape
                if isinstance(module, nn.Dropout2d):
                    kept = torch.rand(shape[0], shape[1], generator=generator)[:, :, None, None]
                else:
                    kept = torch.rand(shape, generator=generator)
                return output * (kept >= module.p) / (1 - module.p)

            hooks = [
                each.register_forward_hook(drop)
                for each in classifier.modules()
                if isinstance(each, nn.Dropout | nn.Dropout2d)
            ]
            with torch.no_grad():
                logits.append(classifier(image[None])[0])
            for hook in hooks:
                hook.remove()
        rows.append(torch.stack(logits))
    return torch.stack(rows, dim=1)


def runner_of(classifier: Classifier, *, folded: bool = False) -> NetworkRunner:
    with evaluating(classifier):
        images = IMAGES[:4].to(classifier.mean.dtype)
        folding = find_folding(classifier, images) if folded else None
        capture = Capture.of(
            {"dropout_logits"}, sampled=[("dropout_logits", find_dropout(classifier, images))]
        )
    return NetworkRunner(classifier, batch_size=4, capture=capture, folding=folding)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_whole_passes_of_single_images(name: str, folded: bool) -> None:
    classifier = classifier_of(name)
    detector = oodbench.load_detector("mcd", samples=5, seed=7)
    logits = by_hand(classifier, IMAGES.double(), 5, 7)
    p = logits.softmax(dim=2).mean(dim=1)
    expected = -(-(p * p.log()).sum(dim=1)).log()
    assert (logits.std(dim=1) > 1e-3).any(), "nothing is dropped"
    runner = runner_of(classifier, folded=folded)
    before = state_of(classifier)
    with runner.attached():
        assert bool(len(runner.folding)) == folded
        scored = score_split(
            runner, ImageArray(IMAGES.numpy()), {"M": detector}, dataset="x", check_batches=True
        )
        one = score_batch(runner, "M", detector, IMAGES[3:4].double())
    assert not scored.errors, scored.errors
    np.testing.assert_allclose(scored.scores["M"], expected, rtol=1e-5 if folded else 1e-6)
    np.testing.assert_allclose(one, expected[3:4], rtol=1e-5 if folded else 1e-6)
    after = state_of(classifier)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("before the head", 1.001, 1.1),
        ("in the middle", 2.0, 4.5),
        ("first", 6.0, 6.0),
        ("flat", 1.001, 1.2),
        ("windows", 1.001, 1.3),
    ],
)
def test_passes_are_counted_from_the_first_dropout_on(
    name: str, lowest: float, highest: float
) -> None:
    classifier = classifier_of(name, torch.float32)
    detector = oodbench.load_detector("mcd", samples=5)
    with evaluating(classifier):
        dropout = find_dropout(classifier, IMAGES[:4])
    found, errors = costs.measure(
        classifier,
        {"M": detector},
        None,
        IMAGES,
        capture=Capture.of({"dropout_logits"}, sampled=[("dropout_logits", dropout)]),
        rounds=1,
    )
    assert not errors, errors
    assert lowest <= round(found["M"].forwards, 5) <= highest
    assert found["M"].backwards == 0


def test_what_is_not_read_is_not_kept() -> None:
    classifier = classifier_of("before the head")
    names = {module: name for name, module in classifier.network.named_modules()}
    dropout = find_dropout(classifier, IMAGES[:4].double())
    assert [names[module] for module in dropout.kept] == ["parts.3"]
    assert {names[module] for module in dropout.hidden} == {"parts.0", "parts.1", "parts.2"}


def test_other_images_in_between_are_noticed() -> None:
    """Samples of images that were not the last take whole passes, with the same logits."""
    classifier, images = classifier_of("before the head"), IMAGES.double()
    dropout = find_dropout(classifier, images)
    calls: list[int] = []
    handle = classifier.network.parts[0][0].register_forward_hook(lambda *given: calls.append(1))

    def samples(these: Tensor) -> Tensor:
        return dropout.samples(these, classifier, lambda compute: compute(), 3, 0)

    with torch.no_grad(), dropout.kept_from(classifier):
        classifier(images)
        quick = samples(images)
        assert len(calls) == 1
        classifier(images[:2])
        whole = samples(images)
        assert len(calls) == 5
    handle.remove()
    torch.testing.assert_close(quick, whole, rtol=0, atol=0)


class Sequences(Flat):
    """Five steps of each image on the first axis, one after the other."""

    def forward(self, images: Tensor) -> Any:
        x = self.norm(self.first(images)).mean(dim=3).permute(2, 0, 1)[:5]
        return self.head(self.dropout(x).mean(dim=0))


def test_an_input_without_images_on_its_first_axis_is_an_error() -> None:
    NETWORKS["sequences"] = Sequences
    classifier = classifier_of("sequences")
    del NETWORKS["sequences"]
    runner = runner_of(classifier)
    with runner.attached(), pytest.raises(ValueError, match="dropout would depend on the batch"):
        score_batch(runner, "M", oodbench.load_detector("mcd"), IMAGES.double())


@pytest.mark.parametrize("p", [0.0, None])
def test_networks_without_dropout(p: float | None) -> None:
    parts = [nn.Flatten(), *([] if p is None else [nn.Dropout(p)]), nn.Linear(3 * 144, 4)]
    classifier = Classifier(Parts(*parts), (0.4,) * 3, (0.2,) * 3)
    with pytest.raises(UnsuitableError, match="no dropout module"):
        find_dropout(classifier, IMAGES)


def test_dropout_that_does_not_run() -> None:
    network = Parts(nn.Flatten(), nn.Linear(3 * 144, 4))
    network.add_module("auxiliary", nn.Dropout(0.5))
    with pytest.raises(UnsuitableError, match="no dropout module of the network runs"):
        find_dropout(Classifier(network, (0.4,) * 3, (0.2,) * 3), IMAGES)


@pytest.mark.parametrize("statistic", ["entropy", "max_probability"])
def test_mcd_by_hand(statistic: str) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (6, 4, 5))
    p = (np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)).mean(axis=1)
    if statistic == "entropy":
        expected = -np.log(-(p * np.log(p)).sum(axis=1))
    else:
        expected = np.log(p.max(axis=1) / (1 - p.max(axis=1)))
    outputs = Outputs(torch.zeros(6, 5), torch.zeros(6, 1), sampled_logits=torch.tensor(logits))
    detector = oodbench.load_detector("mcd", statistic=statistic)
    np.testing.assert_allclose(detector.score(outputs), expected, rtol=1e-12)


def test_confident_samples_are_not_tied() -> None:
    logits = torch.tensor([[[1000.0, 0], [990, 0]], [[1001, 0], [991, 0]]]).double()
    outputs = Outputs(torch.zeros(2, 2), torch.zeros(2, 1), sampled_logits=logits)
    found = oodbench.load_detector("mcd", statistic="max_probability").score(outputs)
    # The mean complement is half of exp(-990), and of exp(-991).
    torch.testing.assert_close(found, torch.tensor([990.0, 991.0]).double() + np.log(2))


@pytest.fixture
def net() -> Iterator[Net]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield Net()


def evaluated(model: nn.Module, *detectors: Any) -> oodbench.EvaluationResult:
    return oodbench.evaluate(
        model,
        list(detectors),
        id_data=pairs(60, 1),
        ood_data={"noise": pairs(40, 2, kind="noise")},
        normalization=(MEAN, STD),
        costs=True,
    )


def test_evaluate(net: Net) -> None:
    """The model comes back in training mode; scores are those of passes by hand."""
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = evaluated(net, "mcd", "entropy")
    assert not result.skipped
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    costs_of = {record.method: record for record in result.costs}
    assert 1 < costs_of["mcd"].forwards_per_image < 3


def test_evaluate_without_dropout(net: Net) -> None:
    net.dropout = nn.Identity()
    result = evaluated(net, "mcd", "entropy")
    (reason,) = result.skipped.values()
    assert reason == "needs dropout; the network has no dropout module with p above 0"


def test_functional_dropout_is_no_module(net: Net) -> None:
    """Only modules are seen; F.dropout in evaluation mode drops nothing."""
    net.dropout = Functional()
    (reason,) = evaluated(net, "mcd", "entropy").skipped.values()
    assert "no dropout module" in reason


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


def test_a_benchmark_skips_it_on_networks_of_the_registry() -> None:
    known = {name: Catalog().detectors[name] for name in ("baseline", "mcd")}
    spec = benchmark(methods={}, matrix={"models": ["SoftMax"], "detectors": "all"}, exclude=[])
    (skip,) = plan(spec, known=known).skips
    assert skip.reason == "needs dropout; the network resnet8 has none"


def test_networks_of_the_registry_have_no_dropout() -> None:
    for name in NETWORKS_OF_THE_REGISTRY:
        with torch.device("meta"):
            assert not dropouts(oodbench.models.create(name, num_classes=10)), name
