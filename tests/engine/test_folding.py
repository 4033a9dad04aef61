"""BatchNorms that are folded into convolutions: which ones, what they change, what comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.data import ImageArray
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.folding import find_folding
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.adapted_network import adapt
from oodbench.models.classifier import Classifier
from oodbench.models.hooks import watched

DIFFERENCE = 1e-5
"""Largest difference, relative to the largest value; float32 rounds each layer by 1e-7."""


class Parts(nn.Module):
    """Convolutions, BatchNorms and a last layer, put together by `flow`."""

    def __init__(self, flow: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.flow = flow
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.other = nn.BatchNorm2d(8)
        self.wrapped = nn.Sequential(self.conv2)
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flow(self, images).mean(dim=(2, 3)))
        return logits


def statistics(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, with BatchNorms as after training."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.running_mean, -1.0, 1.0),
                (norm.running_var, 0.2, 4.0),
                (norm.weight.data, -2.0, 2.0),
                (norm.bias.data, -1.0, 1.0),
            ):
                assert values is not None
                values.uniform_(low, high, generator=generator)
    return module.eval()


def network(name: str = "resnet20", **options: Any) -> Classifier:
    torch.manual_seed(0)
    made = statistics(oodbench.models.create(name, num_classes=10, **options))
    return Classifier(made, (0.5,) * 3, (0.25,) * 3).eval()  # type: ignore[arg-type]


def of_parts(flow: Callable[[Any, Tensor], Tensor], taps: tuple[str, ...] = ()) -> Classifier:
    torch.manual_seed(0)
    return Classifier(adapt(statistics(Parts(flow)), taps=taps), (0.5,) * 3, (0.25,) * 3).eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def folded(classifier: Classifier, capture: Capture | None = None) -> NetworkRunner:
    with evaluating(classifier):
        folding = find_folding(classifier, images(4))
    capture = capture or Capture()
    return NetworkRunner(classifier, batch_size=6, capture=capture, folding=folding)


def check_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= DIFFERENCE * expected.abs().max()


def plain(net: Any, x: Tensor) -> Tensor:
    return net.bn2(net.conv2(net.bn1(net.conv1(x)).relu())).relu()


# --- which BatchNorms --------------------------------------------------------------------------

FLOWS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "a plain chain": (plain, 2),
    "a sum with the convolution's output": (
        lambda n, x: (y := n.conv2(n.bn1(n.conv1(x)).relu())) + n.bn2(y),
        1,
    ),
    "a convolution that two BatchNorms read": (
        lambda n, x: n.bn1(y := n.conv1(x)) + n.bn2(y) + n.other(y),
        0,
    ),
    "a convolution that a function reads first": (lambda n, x: n.bn1(n.conv1(x).mul_(2)), 0),
    "a rectifier between them": (lambda n, x: n.bn1(n.conv1(x).relu()), 0),
    "a convolution that runs twice": (
        lambda n, x: n.bn2(n.conv2(n.conv2(n.bn1(n.conv1(x))).relu())),
        1,
    ),
    "a BatchNorm that runs twice": (
        lambda n, x: n.bn1(n.conv2(n.bn1(n.conv1(x)).relu())),
        0,
    ),
    "a gate by the convolution's sign": (
        lambda n, x: n.bn1(y := n.conv1(x)) * (y > 0),
        0,
    ),
}


@pytest.mark.parametrize(("flow", "count"), FLOWS.values(), ids=FLOWS.keys())
def test_only_what_nothing_else_reads_is_folded(
    flow: Callable[[Any, Tensor], Tensor], count: int
) -> None:
    classifier = of_parts(flow)
    with torch.no_grad():
        expected = classifier(images())
    runner = folded(classifier)
    assert len(runner.folding) == count
    with runner.attached(), torch.no_grad():
        check_close(runner.outputs(images()).logits, expected.double())


@pytest.mark.parametrize(
    ("name", "count"), [("resnet20", 21), ("densenet_bc100", 48), ("resnet34", 36)]
)
def test_networks_of_the_registry(name: str, count: int) -> None:
    assert len(folded(network(name)).folding) == count


def _hooked(net: Any) -> None:
    net.bn1.register_forward_hook(lambda module, inputs, output: None)


def _training(net: Any) -> None:
    net.bn1.train = lambda mode=True: net.bn1
    net.bn1.training = True


@pytest.mark.parametrize(
    "change",
    [
        _hooked,
        _training,
        lambda net: net.conv1.register_full_backward_hook(lambda *given: None),
        lambda net: nn.utils.parametrizations.weight_norm(net.conv1),
        lambda net: setattr(net, "bn1", nn.BatchNorm2d(8, track_running_stats=False).eval()),
        lambda net: setattr(net.conv1, "forward", net.conv1.forward),
    ],
    ids=["hook", "training mode", "backward hook", "weight norm", "batch statistics", "forward"],
)
def test_modules_that_others_watch_or_change_are_left_alone(
    change: Callable[[Any], Any],
) -> None:
    classifier = of_parts(plain)
    change(classifier.network.module)
    assert len(folded(classifier).folding) == 1


@pytest.mark.parametrize("around", ["convolution", "BatchNorm"])
def test_a_hook_on_a_module_around_one_gets_what_it_got(around: str) -> None:
    """It gets the convolution's own output."""

    def flow(net: Any, x: Tensor) -> Tensor:
        return net.around_bn(net.wrapped(net.bn1(net.conv1(x)).relu())).relu()  # type: ignore[no-any-return]

    classifier, seen = of_parts(flow), []
    module: Any = classifier.network.module
    module.around_bn = nn.Sequential(module.bn2)
    assert len(folded(classifier).folding) == 2
    if around == "convolution":
        module.wrapped.register_forward_hook(lambda *given: seen.append(given[-1].clone()))
    else:
        module.around_bn.register_forward_pre_hook(lambda *given: seen.append(given[-1][0].clone()))
    runner = folded(classifier)
    assert len(runner.folding) == 1
    with torch.no_grad():
        classifier(images())
        with runner.attached():
            runner.outputs(images())
    check_close(seen[-1], seen[-2])


def test_a_hook_on_all_modules_leaves_all_alone() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
    try:
        assert not len(folded(of_parts(plain)).folding)
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_alone(dtype: torch.dtype) -> None:
    classifier = of_parts(plain).to(dtype)
    with evaluating(classifier):
        assert not len(find_folding(classifier, images(4).to(dtype)))


def test_a_compiled_network_is_left_alone() -> None:
    classifier = of_parts(plain)
    classifier.network.module.conv1.compile(backend="eager")
    assert not len(folded(classifier).folding)


def test_a_network_that_does_not_run_is_left_alone() -> None:
    assert not len(folded(of_parts(lambda n, x: n.bn1(n.conv1(x)).reshape(1, 2))).folding)


def test_a_network_that_draws_random_numbers_is_left_alone() -> None:
    noisy = of_parts(lambda n, x: F.dropout(n.bn1(n.conv1(x)), 0.5))
    assert not len(folded(noisy).folding)


# --- what changes ------------------------------------------------------------------------------


def test_one_map_less_is_read_and_the_model_comes_back() -> None:
    classifier = network()
    before = copy.deepcopy(classifier.state_dict())
    own = {module: dict(vars(module)) for module in classifier.modules()}
    runner = folded(classifier)
    normalized: list[int] = []
    for part in classifier.modules():
        if isinstance(part, nn.BatchNorm2d):
            part._check_input_dim = lambda x: normalized.append(len(x))  # type: ignore[method-assign]
    with runner.attached(), torch.no_grad():
        runner.outputs(images())
        assert not normalized
    with torch.no_grad():
        classifier(images())
    assert len(normalized) == 21
    for part in classifier.modules():
        vars(part).pop("_check_input_dim", None)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert {module: dict(vars(module)) for module in classifier.modules()} == own


def test_the_model_comes_back_after_an_error() -> None:
    classifier = network()
    runner = folded(classifier)
    with pytest.raises(RuntimeError), runner.attached():
        runner.outputs(torch.zeros(2, 7, 16, 16))
    assert not any("forward" in vars(module) for module in classifier.modules())


def test_feature_layers_features_and_gradients_are_the_same_up_to_rounding() -> None:
    classifier = network()
    capture = Capture(taps=True, tap_maps=True)
    seen = []
    for runner in (folded(classifier, capture), NetworkRunner(classifier, batch_size=6)):
        runner.capture = capture
        with runner.attached():
            given = images().requires_grad_()
            outputs = runner.outputs(given)
            outputs.logits.logsumexp(dim=1).sum().backward()
            seen.append({"features": outputs.features, "gradient": given.grad, **outputs.tap_maps})
    ours, expected = seen
    assert ours.keys() == expected.keys() > {"stem", "stage1"}
    for name, value in ours.items():
        assert value is not None
        assert expected[name] is not None
        check_close(value, expected[name])
        assert name == "gradient" or not torch.equal(value, expected[name])  # folded indeed


def test_a_convolution_that_is_a_feature_layer_is_as_it_was() -> None:
    """Also where a module around it gives its output."""
    for tap in ("conv2", "wrapped"):

        def flow(net: Any, x: Tensor, tap: str = tap) -> Tensor:
            y: Tensor = net.bn2(net.get_submodule(tap)(net.bn1(net.conv1(x)).relu()))
            return y

        classifier = of_parts(flow, taps=(tap,))
        runner = folded(classifier, Capture(taps=True))
        assert len(runner.folding) == 1
        with runner.attached(), torch.no_grad():
            outputs = runner.outputs(images())
            module = classifier.network.module
            normalized = classifier.normalized(images())
            expected = module.conv2(module.bn1(module.conv1(normalized)).relu()).mean(dim=(2, 3))
        check_close(outputs.taps[tap], expected)


@register("reads", needs=("layers",))
class Reads(Detector):
    """The means of all convolutions and activation functions."""

    def choose_layers(self, layers: Any, taps: Any) -> Any:
        return layers

    def reduce_layer(self, activation: Tensor) -> Tensor:
        return activation.mean(dim=(2, 3))

    def score(self, outputs: Outputs) -> Tensor:
        self.seen = dict(outputs.layers)
        return torch.stack([each.sum(dim=1) for each in outputs.layers.values()]).sum(dim=0)


def test_detectors_of_convolutions_read_what_the_convolution_gave() -> None:
    """And the scores of others do not depend on whether one reads them, bit for bit."""
    classifier, energy, reads = network("resnet8"), oodbench.load_detector("energy"), Reads()
    readers, errors = layer_readers(classifier, {"reads": reads}, images(4))
    assert not errors
    data = ImageArray((255 * images()).byte().numpy())
    given: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        given[name] = output.mean(dim=(2, 3))

    of_convolutions = watched(
        classifier.network, record, lambda name, module: isinstance(module, nn.Conv2d)
    )
    with torch.no_grad(), of_convolutions:
        classifier(torch.from_numpy(data.images) / 255)
    scores = []
    for detectors, capture in (
        ({"energy": energy, "reads": reads}, Capture(readers=tuple(readers))),
        ({"energy": energy}, Capture()),
    ):
        runner = folded(classifier, capture)
        assert len(runner.folding) == 9
        with runner.attached():
            found = score_split(runner, data, detectors, dataset="id")
        assert not found.errors
        scores.append(found.scores["energy"])
    assert (scores[0] == scores[1]).all()
    assert len(given) == 9
    for name, value in given.items():
        check_close(reads.seen[name], value)


def test_a_pass_with_another_flow_is_repeated_without_folding() -> None:
    """A network whose flow depends on the images."""

    def flow(net: Any, x: Tensor) -> Tensor:
        y = net.conv1(x)
        bright = bool(x.mean() > 0.5)
        return (net.other(y) if bright else net.bn1(y)).relu()

    classifier = of_parts(flow)
    runner = folded(classifier)
    assert len(runner.folding) == 1
    bright = 0.5 + images() / 2
    with torch.no_grad():
        expected = classifier(images()), classifier(bright)
        with runner.attached():
            check_close(runner.outputs(images()).logits, expected[0].double())
            assert len(runner.folding) == 1
            assert torch.equal(runner.outputs(bright).logits, expected[1].double())
            assert not len(runner.folding)
            assert torch.equal(runner.outputs(images()).logits, expected[0].double())
