"""Networks by name, and the wrapper that normalizes their input."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import models
from oodbench.data import ImageArray
from oodbench.engine.meters import PassMeter
from oodbench.engine.passes.capture import FEATURES, LOGITS, Capture
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.errors import UserError
from oodbench.losses import (
    DisMax2022Head,
    DisMax2022Loss,
    DisMaxHead,
    DisMaxLoss,
    IsoMaxPlusHead,
    IsoMaxPlusLoss,
    LogitNormHead,
    LogitNormLoss,
    Loss,
    SoftMaxHead,
    SoftMaxLoss,
    T2FNormHead,
)
from oodbench.models.classifier import Classifier, Network
from oodbench.models.registry import HEADS, NETWORKS, is_callable_name
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train


def block_parameters(in_channels: int, out_channels: int) -> int:
    """Two 3x3 convolutions and their norms; a 1x1 convolution and norm where the shape changes."""
    main = 9 * in_channels * out_channels + 9 * out_channels * out_channels + 2 * 2 * out_channels
    changes = in_channels != out_channels
    return main + (in_channels * out_channels + 2 * out_channels if changes else 0)


def resnet_parameters(blocks: int, in_channels: int, head: int) -> int:
    stem = 9 * in_channels * 16 + 2 * 16
    stage1 = blocks * block_parameters(16, 16)
    stage2 = block_parameters(16, 32) + (blocks - 1) * block_parameters(32, 32)
    stage3 = block_parameters(32, 64) + (blocks - 1) * block_parameters(64, 64)
    return stem + stage1 + stage2 + stage3 + head


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3)])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(("head", "head_parameters"), [("softmax", 650), ("dismax", 640)])
def test_parameter_counts(
    name: str, blocks: int, in_channels: int, head: str, head_parameters: int
) -> None:
    network = models.create(name, 10, head, in_channels)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == resnet_parameters(blocks, in_channels, head_parameters)


def test_resnet20_has_the_published_size() -> None:
    """0.27 M (He et al. 2016, table 6), and 2,752 for the two projection shortcuts."""
    without_projections = resnet_parameters(3, 3, 650) - (16 * 32 + 64) - (32 * 64 + 128)
    assert without_projections == 269_722
    network = models.create("resnet20", 10)
    assert sum(p.numel() for p in network.parameters()) == 269_722 + 2_752


# Published sizes: Lee et al. 2018 and Macedo et al. 2019 use these two networks.
@pytest.mark.parametrize(
    ("name", "head", "num_classes", "parameters"),
    [
        ("resnet34", "softmax", 10, 21_282_122),
        ("resnet34", "softmax", 100, 21_328_292),
        ("resnet34", "dismax", 10, 21_282_112),
        ("resnet34", "dismax", 100, 21_328_192),
        ("densenet_bc100", "softmax", 10, 769_162),
        ("densenet_bc100", "softmax", 100, 800_032),
        ("densenet_bc100", "dismax", 10, 769_152),
        ("densenet_bc100", "dismax", 100, 799_932),
    ],
)
def test_networks_of_the_paper_have_their_sizes(
    name: str, head: str, num_classes: int, parameters: int
) -> None:
    network = models.create(name, num_classes, head)
    assert sum(p.numel() for p in network.parameters()) == parameters
    body = {"resnet34": 21_276_992, "densenet_bc100": 765_732}[name]
    assert sum(p.numel() for p in network.head.parameters()) == parameters - body


def test_resnet18_by_its_blocks() -> None:
    stages = [(64, 64), (64, 128), (128, 256), (256, 512)]
    blocks = sum(block_parameters(i, o) + block_parameters(o, o) for i, o in stages)
    network = models.create("resnet18", 10)
    found = sum(p.numel() for p in network.parameters())
    assert found == 27 * 64 + 2 * 64 + blocks + 512 * 10 + 10


def convolution_multiply_adds(network: nn.Module, images: Tensor) -> int:
    total = 0

    def hook(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += output[0].numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        network.eval()(images)
    return total


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_as_declared(name: str) -> None:
    network = models.create(name, 10)
    assert convolution_multiply_adds(network, torch.rand(1, 3, 32, 32)) == NETWORKS[name].macs_32


def test_multiply_adds_of_the_paper_s_networks() -> None:
    counts = [NETWORKS[name].macs_32 for name in ("resnet34", "densenet_bc100")]
    assert counts == [pytest.approx(1159.4e6, abs=5e4), pytest.approx(287.9e6, abs=5e4)]


TAPS = {
    "resnet8": {"stem": (16, 32), "stage1": (16, 32), "stage2": (32, 16), "stage3": (64, 8)},
    "resnet18": {
        "stem": (64, 32),
        "stage1": (64, 32),
        "stage2": (128, 16),
        "stage3": (256, 8),
        "stage4": (512, 4),
    },
    "densenet_bc100": {
        "stem": (24, 32),
        "transition1": (108, 16),
        "transition2": (150, 8),
        "norm": (342, 8),
    },
}
"""Name -> channels, pixels across."""
TAPS |= {"resnet20": TAPS["resnet8"], "resnet34": TAPS["resnet18"]}
TAPS["resnet18_32x32"] = {
    tap.replace("stage", "layer").replace("stem", "relu"): shape
    for tap, shape in TAPS["resnet18"].items()
}
TAPS["wrn40_2"] = {"conv1": (16, 32), "block1": (32, 32), "block2": (64, 16), "relu": (128, 8)}
TAPS |= {
    f"resnet{depth}_option_a": {
        "relu": (16, 32),
        "layer1": (16, 32),
        "layer2": (32, 16),
        "layer3": (64, 8),
    }
    for depth in (20, 32, 44, 56)
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_taps_are_in_order_and_have_their_shapes(name: str, head: str) -> None:
    network = models.create(name, 7, head, in_channels=3).eval()
    assert network.tap_names == tuple(TAPS[name])
    assert tuple(network.tap_modules) == network.tap_names
    shapes: list[tuple[int, ...]] = []
    last: list[Tensor] = []
    for module in network.tap_modules.values():

        def tap(module: nn.Module, inputs: object, output: Tensor) -> None:
            shapes.append(tuple(output.shape))
            last[:] = [output]

        module.register_forward_hook(tap)
    features: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [(2, width, side, side) for width, side in TAPS[name].values()]
    torch.testing.assert_close(features[0], last[0].mean(dim=(2, 3)), msg="the last tap's mean")


def test_taps_are_after_their_rectifiers() -> None:
    """But DenseNet's first, which is the raw convolution, and the two after pooling."""
    for name, raw in (("resnet34", []), ("densenet_bc100", ["stem"])):
        network = models.create(name, 3).eval()
        names, found = {module: tap for tap, module in network.tap_modules.items()}, []
        for module in names:
            module.register_forward_hook(
                lambda module, inputs, output, found=found: found.append((module, output.min()))
            )
        with torch.no_grad():
            network(torch.randn(1, 3, 32, 32))
        lowest = {names[module]: minimum.item() for module, minimum in found}
        rectified = [tap for tap in lowest if not tap.startswith("transition") and tap not in raw]
        assert all(lowest[tap] >= 0 for tap in rectified), lowest
        assert all(lowest[tap] < 0 for tap in raw), lowest


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 20), (33, 48)])
def test_images_of_other_sizes(name: str, height: int, width: int) -> None:
    network = models.create(name, 4, in_channels=1)
    with torch.no_grad():
        logits = network(torch.rand(2, 1, height, width))
    assert logits.shape == (2, 4)
    assert torch.isfinite(logits).all()


def test_a_dense_layer_keeps_what_it_was_given() -> None:
    network = models.create("densenet_bc100", 3).eval()
    block = network.get_submodule("block1")
    x = torch.rand(1, 24, 8, 8)
    with torch.no_grad():
        y = block(x)
    assert y.shape == (1, 24 + 16 * 12, 8, 8)
    torch.testing.assert_close(y[:, :24], x, rtol=0, atol=0)
    assert (y[:, 24:] < 0).any(), "what is added is not rectified"


@pytest.mark.parametrize("name", ["resnet34", "densenet_bc100"])
def test_depth_is_the_name_s(name: str) -> None:
    """Convolutions (projections of shortcuts aside) and the last layer."""
    network = models.create(name, 10)
    layers = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in path
    ]
    assert len(layers) == int(name.removeprefix("resnet").removeprefix("densenet_bc"))


def test_initial_convolutions_are_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    network = models.create("resnet20", 10)
    weight = network.get_submodule("stage3.2.conv2").weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=2e-2)
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))


def test_initial_dense_convolutions_are_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    network = models.create("densenet_bc100", 10)
    for path, fan_out in (("block2.3.conv2", 9 * 12), ("block3.15.conv1", 48)):
        weight = network.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=3e-2)
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match="no network 'resnet9'") as raised:
        models.create("resnet9", 10)
    assert "resnet8" in raised.value.hint
    with pytest.raises(UserError, match="no head 'dismaxx'") as raised:
        models.create("resnet8", 10, head="dismaxx")
    assert "'dismax'" in raised.value.hint
    with pytest.raises(UserError, match="no option 'alfa'") as raised:
        models.create_loss("dismax", alfa=10)
    assert "'alpha'" in raised.value.hint
    with pytest.raises(UserError, match="no option 'alpha'"):
        models.create_loss("softmax", alpha=10)


@pytest.mark.parametrize(
    ("head", "layer", "loss"),
    [
        ("softmax", SoftMaxHead, SoftMaxLoss),
        ("dismax", DisMaxHead, DisMaxLoss),
        ("isomax_plus", IsoMaxPlusHead, IsoMaxPlusLoss),
        ("dismax2022", DisMax2022Head, DisMax2022Loss),
        ("logitnorm", LogitNormHead, LogitNormLoss),
        ("t2fnorm", T2FNormHead, SoftMaxLoss),
    ],
)
def test_heads_come_with_their_losses(head: str, layer: type[nn.Module], loss: type[Loss]) -> None:
    network = models.create("resnet8", 3, head)
    assert type(network.head) is layer
    assert type(models.create_loss(head)) is loss
    kind = Classifier(network, mean=(0.5,), std=(0.5,)).describe_head().kind
    assert kind == models.head_info(head).kind
    has_temperature = "temperature" in dict(network.head.named_buffers())
    assert models.head_info(head).calibrated == has_temperature


def test_loss_options() -> None:
    for head in ("dismax", "isomax_plus", "dismax2022"):
        loss = models.create_loss(head, alpha=3.0)
        assert isinstance(loss, DisMaxLoss)
        assert loss.alpha == 3.0
    loss = models.create_loss("dismax2022", mixed_quadrants=1.0)
    assert loss.labeled(4) == 2
    with pytest.raises(UserError, match="head 'dismax2022': mixed_quadrants must not be negative"):
        models.create_loss("dismax2022", mixed_quadrants=-1.0)
    loss = models.create_loss("logitnorm", tau=0.5)
    assert isinstance(loss, LogitNormLoss)
    assert loss.tau == 0.5


def test_loss_options_that_the_head_takes() -> None:
    head = models.create("resnet8", 3, "t2fnorm", loss_options={"tau": 0.5}).head
    assert isinstance(head, T2FNormHead)
    assert head.tau.item() == 0.5
    assert type(models.create_loss("t2fnorm", tau=0.5)) is SoftMaxLoss
    assert type(models.create("resnet8", 3, "logitnorm", loss_options={"tau": 0.5}).head) is (
        LogitNormHead
    )
    with pytest.raises(UserError, match="head 't2fnorm': tau must be positive"):
        models.create("resnet8", 3, "t2fnorm", loss_options={"tau": -1.0})
    with pytest.raises(UserError, match="head 't2fnorm' has no option 'tua'") as raised:
        models.create("resnet8", 3, "t2fnorm", loss_options={"tua": 1.0})
    assert "'tau'" in raised.value.hint


@pytest.mark.parametrize("head", HEADS)
def test_every_head_counts_as_a_pass_s_last_share(head: str) -> None:
    network = models.create("resnet8", 10, head).eval()
    images = torch.rand(2, 3, 8, 8)
    meter = PassMeter(network, images)
    with meter.counting(len(images)), torch.no_grad():
        network(images)
    assert meter.forwards == pytest.approx(1, rel=1e-12)
    convolutions = convolution_multiply_adds(network, images)
    assert meter._per_image == convolutions + 64 * 10


class ShowsInput(Network):
    """Gives back what it was given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.tap_names = ()
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_classifier_normalizes_by_channel() -> None:
    classifier = Classifier(ShowsInput(nn.Identity()), mean=(0.5, 0.25), std=(0.5, 0.125))
    images = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2).expand(3, 2, 2, 2)
    first = torch.tensor([[-1.0, -0.5], [0.0, 1.0]])
    second = torch.tensor([[-2.0, 0.0], [2.0, 6.0]])
    expected = torch.stack([first, second]).expand(3, 2, 2, 2)
    torch.testing.assert_close(classifier(images), expected, rtol=0, atol=0)
    torch.testing.assert_close(classifier.normalized(images), expected, rtol=0, atol=0)


def test_normalization_is_stored_with_the_weights_and_follows_the_type() -> None:
    classifier = Classifier(ShowsInput(nn.Identity()), mean=(0.5,), std=(0.25,))
    assert classifier.dtype == torch.float32
    assert classifier.double().dtype == torch.float64
    state = classifier.state_dict()
    assert state["mean"].item() == 0.5
    assert state["std"].item() == 0.25


def test_describe_head() -> None:
    def described(layer: nn.Module) -> tuple[str, Tensor | None, Tensor | None]:
        head = Classifier(ShowsInput(layer), mean=(0.5,), std=(0.5,)).describe_head()
        for part in (head.weight, head.bias):
            assert part is None or not part.requires_grad
        return head.kind, head.weight, head.bias

    linear = nn.Linear(4, 3)
    kind, weight, bias = described(linear)
    assert kind == "linear"
    torch.testing.assert_close((weight, bias), (linear.weight.detach(), linear.bias.detach()))
    kind, weight, bias = described(nn.Linear(4, 3, bias=False))
    assert (kind, bias) == ("linear", None)
    dismax = DisMaxHead(4, 3)
    nn.init.normal_(dismax.prototypes)
    kind, weight, bias = described(dismax)
    assert (kind, bias) == ("dismax", None)
    torch.testing.assert_close(weight, dismax.prototypes.detach())
    for layer in (IsoMaxPlusHead(4, 3), DisMax2022Head(4, 3)):
        kind, weight, bias = described(layer)
        assert (kind, bias) == ("dismax", None)
        torch.testing.assert_close(weight, layer.prototypes.detach(), msg="as stored")
    scaled = T2FNormHead(4, 3, tau=0.5)
    kind, weight, bias = described(scaled)
    assert kind == "linear"
    torch.testing.assert_close((weight, bias), (2 * scaled.weight.detach(), scaled.bias.detach()))
    assert described(nn.Sequential(nn.Linear(4, 3))) == ("other", None, None)


# --- "module:callable" and modules of one's own ------------------------------------------------

NETWORK_FILE = """
from torch import nn

def small(width=4, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 1000),
    )

def without_linear():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def fails():
    raise RuntimeError("no weights here")

def no_module():
    return "small"

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return self.net(x), x

class FirstIsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(12, 1000)
        self.auxiliary = nn.Linear(12, 1000)

    def forward(self, x):
        return self.classifier(x.flatten(1))

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes a module into the working directory; its name is new in this process."""
    monkeypatch.chdir(tmp_path)

    def write(content: str, stem: str) -> str:
        (tmp_path / f"{stem}.py").write_text(content)
        return stem

    return write


@pytest.fixture
def nets(own_module: Callable[[str, str], str], request: pytest.FixtureRequest) -> str:
    stem = "".join(char if char.isalnum() else "_" for char in request.node.name)
    return own_module(NETWORK_FILE, f"nets_{stem}")


@pytest.mark.parametrize("head", HEADS)
def test_network_of_the_working_directory(nets: str, head: str) -> None:
    network = models.create(
        f"{nets}:small", 5, head, 2, taps=("1", "2"), options={"width": 6, "in_channels": 2}
    )
    assert type(network.head) is type(models.create("resnet8", 5, head).head)
    classifier = Classifier(network, mean=(0.5, 0.5), std=(0.2, 0.2)).eval()
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture(taps=True))
    images = torch.rand(4, 2, 8, 8)
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(images)
        early = runner.activation(images, "1")
    assert outputs.logits.shape == (4, 5)
    assert outputs.features.shape == (4, 12)
    assert {name: tuple(tap.shape) for name, tap in outputs.taps.items()} == {
        "1": (4, 6),
        "2": (4, 12),
    }
    torch.testing.assert_close(early, outputs.taps["1"])
    torch.testing.assert_close(outputs.taps["2"], outputs.features)
    assert outputs.head.kind == models.head_info(head).kind
    assert outputs.head.weight is not None
    assert outputs.head.weight.shape == (5, 12)


def test_working_directory_is_looked_in_last_and_left_alone(
    nets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(Path.cwd()))])
    before = list(sys.path)
    models.create(f"{nets}:small", 3)
    assert sys.path == before
    Path("math.py").write_text("raise AssertionError")
    with pytest.raises(UserError, match="math has no callable 'small'"):
        models.create("math:small", 3)


def test_weights_of_an_adapted_network_are_stored_once_and_load_again(nets: str) -> None:
    first = models.create(f"{nets}:small", 5, "dismax2022", taps=("1",))
    state = first.state_dict()
    addresses = [tensor.data_ptr() for tensor in state.values()]
    assert len(addresses) == len(set(addresses))
    second = models.create(f"{nets}:small", 5, "dismax2022", taps=("1",))
    second.load_state_dict(state)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(first(images), second(images), rtol=0, atol=0)
    assert first.get_buffer("head.temperature") is first.head.temperature


def test_adapted_network_can_be_trained(nets: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (labels[:, None, None, None] / 3 + 0.1 * generator.random((60, 3, 6, 6))).astype("f4")
    spec = ModelSpec(
        network=f"{nets}:small",
        taps=("1",),
        head="dismax",
        training=TrainingSpec(epochs=1, batch_size=20, learning_rate=0.05),
    )
    device = torch.device("cpu")
    classifier, history = train(spec, 3, ImageArray(images, labels), seed=0, device=device)
    assert len(history) == 1
    assert isinstance(classifier.network.head, DisMaxHead)
    assert classifier.network.head.prototypes.count_nonzero() > 0


@pytest.mark.parametrize(
    ("network", "message", "hint"),
    [
        ("{nets}:smal", "has no callable 'smal'", "'small'"),
        ("{nets}:number", "has no callable 'number'", ""),
        ("{nets}:fails", "with no options: RuntimeError: no weights here", ""),
        ("{nets}:no_module", "the callable made a str", ""),
        ("{nets}:without_linear", "no linear layer", "adapt"),
        ("no_such_package.nets:small", "no module 'no_such_package'", "working directory"),
        ("torchvision:resnet19", "no callable 'resnet19'", "'resnet18'"),
        ("torchvision:squeezenet1_1", "no linear layer", "adapt"),
        ("resnet18:", "no network 'resnet18:'", "module:callable"),
    ],
)
def test_what_is_no_network_is_said(nets: str, network: str, message: str, hint: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        models.create(network.format(nets=nets), 5)
    assert hint in raised.value.hint


def test_errors_of_the_user_s_module_are_said(own_module: Callable[[str, str], str]) -> None:
    own_module("import no_such_thing", "imports_what_is_not_there")
    with pytest.raises(
        UserError, match=r"cannot be imported: ModuleNotFoundError: .*no_such_thing"
    ):
        models.create("imports_what_is_not_there:make", 5)
    own_module("1 +", "has_bad_syntax")
    with pytest.raises(UserError, match="cannot be imported: SyntaxError"):
        models.create("has_bad_syntax:make", 5)


def test_options_that_a_callable_does_not_take_are_said(nets: str) -> None:
    with pytest.raises(UserError, match=r"with widht=3: TypeError: .*widht"):
        models.create(f"{nets}:small", 5, options={"widht": 3})


def test_named_networks_take_no_taps_and_no_options() -> None:
    with pytest.raises(UserError, match="'resnet8' takes no taps and no options"):
        models.create("resnet8", 5, taps=("stem",))
    with pytest.raises(UserError, match="'resnet8' takes no taps and no options"):
        models.create("resnet8", 5, options={"blocks_per_stage": 2})


def test_unknown_taps_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match="ResNet has no module 'layr1'") as raised:
        models.create("torchvision:resnet18", 5, taps=("layr1",))
    assert "'layer1'" in raised.value.hint
    assert "." not in raised.value.hint, "names of the same depth are enough"
    with pytest.raises(UserError, match=r"has no module 'layer1\.5'") as raised:
        models.create("torchvision:resnet18", 5, taps=("layer1.5",))
    assert "'layer1.0'" in raised.value.hint


@pytest.mark.parametrize("taken", [LOGITS, FEATURES])
def test_taps_cannot_have_the_engine_s_names(taken: str) -> None:
    module = nn.Module()
    module.add_module(taken, nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    module.add_module("fc", nn.Linear(3, 2))
    with pytest.raises(UserError, match=f"No tap can be called '{taken}'") as raised:
        models.adapt(module, taps=(taken,))
    assert f"'{taken}.1'" in raised.value.hint
    assert models.adapt(module, taps=(f"{taken}.1",)).tap_names == (f"{taken}.1",)


@pytest.mark.parametrize(
    ("name", "last", "features"),
    [
        ("resnet18", "fc", 512),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("vgg11_bn", "classifier.6", 4096),
    ],
)
def test_torchvision_classifiers(name: str, last: str, features: int) -> None:
    network = models.create(f"torchvision:{name}", 7, "dismax").eval()
    assert network.tap_names == ()
    assert network.head is network.get_submodule(f"module.{last}")
    assert isinstance(network.head, DisMaxHead)
    assert network.head.in_features == features
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def test_torchvision_s_weights_are_fresh_and_follow_the_seed() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = models.create("torchvision:resnet18", 3)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_a_network_returns_must_be_its_last_layer_s_logits(nets: str) -> None:
    with pytest.raises(UserError, match="Pair returned a tuple of 2, not logits"):
        models.create(f"{nets}:Pair", 5)(torch.rand(1, 3, 4, 4))
    with pytest.raises(UserError, match=r"returned 1000 logits.*'auxiliary' gives 5"):
        models.create(f"{nets}:FirstIsLast", 5)(torch.rand(1, 3, 2, 2))


def test_adapt_keeps_a_trained_module_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = models.adapt(module, taps=("1",))
    assert network.head is module[3]
    assert network.tap_modules == {"1": module[1]}
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(network(images), module(images), rtol=0, atol=0)
    head = Classifier(network, mean=(0.5,) * 3, std=(0.5,) * 3).describe_head()
    assert head.kind == "linear"
    torch.testing.assert_close(head.weight, module[3].weight.detach())
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert models.adapt(network) is network


def test_adapt_finds_or_is_told_the_last_layer() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    assert models.adapt(nn.Sequential(body, DisMaxHead(6, 3))).head.__class__ is DisMaxHead
    convolutional = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity()
    )
    with pytest.raises(UserError, match="no linear layer"):
        models.adapt(convolutional)
    network = models.adapt(convolutional, head="3")
    head = Classifier(network, mean=(0.5,) * 3, std=(0.5,) * 3).describe_head()
    assert head.kind == "other"
    assert network(torch.rand(2, 3, 4, 4)).shape == (2, 5)
    with pytest.raises(UserError, match="no module 'fc'"):
        models.adapt(convolutional, head="fc")


def test_code_version_follows_the_file(own_module: Callable[[str, str], str]) -> None:
    stem = own_module(NETWORK_FILE, "nets_code_version")
    before = models.code_version(f"{stem}:small")
    assert before == models.code_version(f"{stem}:without_linear")
    own_module(NETWORK_FILE + "# another line", stem)
    assert models.code_version(f"{stem}:small") != before
    assert models.code_version("torchvision:resnet18").startswith("torchvision 0.")
    assert models.code_version("resnet8") == "", "the engine's own code is addressed otherwise"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision:resnet18", True),
        ("package.nets:make_net", True),
        ("resnet18", False),
        ("resnet18:", False),
        (":make", False),
        ("a:b:c", False),
        ("a-b:c", False),
        ("../a:c", False),
    ],
)
def test_names_of_callables(name: str, expected: bool) -> None:
    assert is_callable_name(name) == expected


# --- torchvision classifiers in the engine -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "taps", "side", "dims"),
    [
        ("torchvision:mobilenet_v3_small", {}, ("features.1", "features.8"), 64, (16, 48)),
        (
            "torchvision.models:VisionTransformer",
            {
                "image_size": 16,
                "patch_size": 8,
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 12,
                "mlp_dim": 24,
            },
            ("encoder.layers.encoder_layer_0", "encoder"),
            16,
            (12, 12),
        ),
    ],
)
def test_other_makes_run_in_the_engine(
    name: str, options: dict[str, int], taps: tuple[str, ...], side: int, dims: tuple[int, ...]
) -> None:
    """Taps are one vector an image, passes are counted, a stop at a tap is a share of a pass."""
    network = models.create(name, 5, taps=taps, options=options)
    classifier = Classifier(network, (0.5,) * 3, (0.25,) * 3).eval()
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture(taps=True))
    meter = PassMeter(network, classifier.normalized(images))
    with runner.attached(), meter.counting(4), torch.no_grad():
        outputs = runner.outputs(images)
        assert [tuple(tap.shape) for tap in outputs.taps.values()] == [(4, d) for d in dims]
        assert meter.forwards == pytest.approx(1)
        torch.testing.assert_close(runner.activation(images, taps[0]), outputs.taps[taps[0]])
        assert 1 < meter.forwards < 2
