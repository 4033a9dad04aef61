"""Networks by name, and the wrapper that normalises their input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from oodbench import models
from oodbench.errors import UserError
from oodbench.losses import DisMaxHead, DisMaxLoss, SoftMaxHead, SoftMaxLoss
from oodbench.models.classifier import Classifier, Network
from oodbench.models.registry import HEADS, NETWORKS


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_taps_are_in_order_and_have_their_shapes(name: str, head: str) -> None:
    network = models.create(name, 7, head, in_channels=3).eval()
    assert network.tap_names == ("stem", "stage1", "stage2", "stage3")
    shapes: list[tuple[int, ...]] = []
    for tap in network.tap_names:
        network.get_submodule(tap).register_forward_hook(
            lambda module, inputs, output: shapes.append(tuple(output.shape))
        )
    features: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [(2, 16, 32, 32), (2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    assert features[0].shape == (2, 64)


def test_initial_convolutions_are_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    network = models.create("resnet20", 10)
    weight = network.get_submodule("stage3.2.conv2").weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=2e-2)
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))


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


def test_heads_come_with_their_losses() -> None:
    assert isinstance(models.create("resnet8", 3, "softmax").head, SoftMaxHead)
    assert isinstance(models.create("resnet8", 3, "dismax").head, DisMaxHead)
    assert isinstance(models.create_loss("softmax"), SoftMaxLoss)
    loss = models.create_loss("dismax", alpha=3.0)
    assert isinstance(loss, DisMaxLoss)
    assert loss.alpha == 3.0


class ShowsInput(Network):
    """Gives back what it was given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.tap_names = ()
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_classifier_normalises_by_channel() -> None:
    classifier = Classifier(ShowsInput(nn.Identity()), mean=(0.5, 0.25), std=(0.5, 0.125))
    images = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2).expand(3, 2, 2, 2)
    first = torch.tensor([[-1.0, -0.5], [0.0, 1.0]])
    second = torch.tensor([[-2.0, 0.0], [2.0, 6.0]])
    expected = torch.stack([first, second]).expand(3, 2, 2, 2)
    torch.testing.assert_close(classifier(images), expected, rtol=0, atol=0)
    torch.testing.assert_close(classifier.normalised(images), expected, rtol=0, atol=0)


def test_normalisation_is_stored_with_the_weights_and_follows_the_type() -> None:
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
    assert described(nn.Sequential(nn.Linear(4, 3))) == ("other", None, None)
