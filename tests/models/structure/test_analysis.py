"""Finding the last layer, the ends of stages and the map before pooling by running a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torchvision
from helpers.small_models import with_quick_weights
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import UserError
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.losses import DisMaxHead, SoftMaxHead
from oodbench.models.classifier import Classifier, Network
from oodbench.models.feature_map import find_map
from oodbench.models.structure.analysis import Analysis, analyze
from oodbench.models.structure.forward_pass import NotFiniteError
from oodbench.models.structure.user_network import unwrapped

CLASSES = 5


def some_images(size: int | tuple[int, int] = 32, channels: int = 3, count: int = 3) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, generator=generator)


def probed(module: nn.Module, images: Tensor | None = None, taps: Any = "auto") -> Analysis:
    return analyze(module.eval(), some_images() if images is None else images, taps)


def refused(module: nn.Module, images: Tensor | None = None, taps: Any = "auto") -> UserError:
    with pytest.raises(UserError) as caught:
        probed(module, images, taps)
    assert "\n" not in caught.value.message
    return caught.value


class Calls(nn.Module):
    """A network whose forward is a function of itself."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images: Tensor) -> Any:
        return self.compute(self, images)


def convolution(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def plain() -> nn.Sequential:
    """Two stages; everything that may work in place does."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5, inplace=True),
        nn.Linear(8, CLASSES),
    )


# --- networks of others ------------------------------------------------------------------------


def tiny_vit(**options: Any) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=6,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=16,
        num_classes=CLASSES,
    )


OTHERS: dict[str, tuple[int | tuple[int, int], str, tuple[str, ...], str | None]] = {
    "resnet18": (64, "fc", ("relu", "layer1", "layer2", "layer3", "layer4"), "layer4"),
    "resnet50": ((32, 64), "fc", ("relu", "layer1", "layer2", "layer3", "layer4"), "layer4"),
    "densenet121": (
        64,
        "classifier",
        (
            "features.relu0",
            "features.denseblock1",
            "features.denseblock2",
            "features.denseblock3",
            "features.norm5",
        ),
        "features",
    ),
    "mobilenet_v3_small": (
        64,
        "classifier.3",
        ("features.0", "features.1", "features.3", "features.8", "features.12"),
        None,  # a linear layer lies between the map and the last layer
    ),
    "vgg11_bn": (
        32,
        "classifier.6",
        ("features.2", "features.6", "features.13", "features.20", "features.27"),
        None,
    ),
    "convnext_tiny": (
        64,
        "classifier.2",
        ("features.1", "features.3", "features.5", "features.7"),
        None,  # a normalization lies between them
    ),
    "efficientnet_b0": (
        64,
        "classifier.1",
        ("features.1", "features.2", "features.3", "features.5", "features.8"),
        "features",
    ),
    "swin_t": (  # the first three have their channels last
        64,
        "head",
        ("features.1", "features.3", "features.5", "permute"),
        "permute",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_torchvision(name: str) -> None:
    size, head, taps, map_name = OTHERS[name]
    images = some_images(size)
    # Untrained, and without drawing weights, which takes longer than running them.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        module = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES)
        if name == "vgg11_bn":  # nine tenths of its weights tell nothing here
            module.classifier[0] = nn.Linear(512 * 7 * 7, 16)
            module.classifier[3], module.classifier[6] = nn.Linear(16, 16), nn.Linear(16, CLASSES)
    module = with_quick_weights(module).eval()
    found = probed(module, images)
    network = found.network
    assert (network.head_name, network.tap_names) == (head, taps)
    assert (found.num_classes, found.channels_last) == (CLASSES, True)
    classifier = Classifier(network, (0.0,), (1.0,)).eval()
    expected = None if map_name is None else f"module.{map_name}"
    assert find_map(classifier, images) == expected
    runner = NetworkRunner(
        classifier, batch_size=3, capture=Capture(taps=True, feature_map=True, map_name=expected)
    )
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(images)
    assert list(outputs.taps) == list(taps)
    assert outputs.feature_map is not None
    pooled = outputs.feature_map.mean(dim=(2, 3))
    torch.testing.assert_close(pooled, outputs.features, rtol=1e-4, atol=1e-5)
    logits = cast(nn.Linear, network.head)(outputs.features)
    torch.testing.assert_close(logits.double(), outputs.logits, rtol=1e-5, atol=1e-6)


def test_a_transformer_has_its_blocks_for_taps() -> None:
    found = probed(tiny_vit()).network
    assert found.head_name == "heads.head"
    blocks = [f"encoder.layers.encoder_layer_{index}" for index in (1, 2, 3, 5)]
    assert list(found.tap_names) == blocks
    assert find_map(Classifier(found, (0.0,), (1.0,)).eval(), some_images()) is None


@pytest.mark.parametrize("layers", [2, 3, 4, 5, 12])
def test_at_most_four_blocks_evenly_spaced(layers: int) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.inner = nn.Linear(8, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + self.inner(self.norm2(self.norm1(tokens)))

    module = Calls(
        lambda self, images: self.head(
            self.blocks(self.patches(images).flatten(2).transpose(1, 2))[:, 0]
        ),
        patches=nn.Conv2d(3, 8, 8, 8),
        blocks=nn.Sequential(*(Block() for _ in range(layers))),
        head=nn.Linear(8, CLASSES),
    )
    taps = probed(module).network.tap_names
    indices = [int(name.removeprefix("blocks.")) for name in taps]
    assert len(indices) == min(layers, 4)
    assert indices[-1] == layers - 1
    assert indices == sorted(set(indices))
    assert max(b - a for a, b in zip([-1, *indices], indices, strict=False)) <= -(-layers // 4)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet8", "softmax"),
        ("resnet8", "dismax"),
        ("resnet8", "t2fnorm"),
        ("densenet_bc100", "softmax"),
    ],
)
def test_networks_of_oodbench_keep_the_taps_they_name(name: str, head: str) -> None:
    network = oodbench.models.create(name, CLASSES, head)
    found = probed(network).network
    assert (found.head_name, found.tap_names) == ("head", network.tap_names)
    assert found.tap_modules == network.tap_modules
    assert found.head is network.head
    assert not found.opaque_head
    wrapped = oodbench.models.adapt(nn.Sequential(network), taps=["0.stem"])
    again = probed(wrapped).network
    assert list(again.tap_modules.values()) == [network.get_submodule("stem")]


# --- the last layer ----------------------------------------------------------------------------


@pytest.mark.parametrize("head", [nn.Linear, SoftMaxHead, DisMaxHead])
def test_the_last_layer_is_the_one_that_gives_the_logits(head: Callable[..., nn.Module]) -> None:
    module = Calls(  # made, and run, in another order
        lambda self, images: (y := self.second(self.first(images.mean((2, 3)))), self.aux(y))[0],
        second=head(4, CLASSES),
        aux=nn.Linear(CLASSES, CLASSES),
        first=nn.Linear(3, 4),
    )
    with torch.no_grad():
        next(module.get_submodule("second").parameters()).normal_()
    assert probed(module).network.head_name == "second"


def test_logits_of_another_type_or_changed_in_place() -> None:
    parts = {"fc": nn.Linear(3, CLASSES).bfloat16()}
    images = some_images().bfloat16()
    floats = Calls(lambda self, x: self.fc(x.mean((2, 3))).float(), **parts)
    assert probed(floats, images).network.head_name == "fc"
    halved = Calls(lambda self, x: self.fc(x.mean((2, 3))).div_(2), fc=nn.Linear(3, CLASSES))
    network = probed(halved).network
    assert (network.head_name, network.opaque_head) == ("fc", True)


class Low(nn.Linear):
    """A layer with an update of low rank beside its weight."""

    def __init__(self, size: float) -> None:
        super().__init__(8, CLASSES)
        self.update = nn.Parameter(torch.full((CLASSES, 8), size))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + F.linear(features, self.update)


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_a_last_layer_that_computes_something_else_is_opaque(size: float) -> None:
    module = nn.Sequential(*plain()[:8], Low(size))
    network = probed(module).network
    assert (network.head_name, network.opaque_head) == ("8", size > 0)
    classifier = Classifier(network, (0.0,), (1.0,))
    assert classifier.describe_head().kind == ("other" if size else "linear")


def test_a_hook_may_make_a_last_layer_opaque() -> None:
    module = plain()
    module[8].register_forward_hook(lambda layer, inputs, output: 3 * output)
    assert probed(module).network.opaque_head
    low = plain().to(torch.bfloat16)
    assert not probed(low, some_images().to(torch.bfloat16)).network.opaque_head
    mixed = plain()
    with torch.autocast("cpu", torch.bfloat16):
        assert not probed(mixed).network.opaque_head


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float32, 1e-4), (torch.float64, 1e-12)],
)
def test_a_small_update_of_the_last_layer_is_seen_as_far_as_the_type_allows(
    dtype: torch.dtype, size: float
) -> None:
    images = some_images().to(dtype)
    for update, opaque in ((0.0, False), (size, True)):
        torch.manual_seed(0)
        module = nn.Sequential(*plain()[:8], Low(update)).to(dtype)
        assert probed(module, images).network.opaque_head is opaque


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_in_another_type_than_the_last_layer(dtype: torch.dtype) -> None:
    for inside, outside in ((torch.float32, dtype), (dtype, torch.float32)):
        module = Calls(
            lambda self, x, outside=outside: self.net(x).to(outside), net=plain().to(inside)
        )
        network = probed(module, some_images().to(inside)).network
        assert (network.head_name, network.opaque_head) == ("net.8", False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("last", "said"), [(nn.Softmax(1), "probab"), (nn.LogSoftmax(1), "log-")])
def test_probabilities_in_half_precision(dtype: torch.dtype, last: nn.Module, said: str) -> None:
    for classes in (7, 300):
        torch.manual_seed(classes)
        module = nn.Sequential(*plain()[:8], nn.Linear(8, classes), last).to(dtype)
        assert f"returns {said}" in refused(module, some_images().to(dtype)).message


def test_a_last_layer_that_is_given_its_input_by_name() -> None:
    module = Calls(lambda self, x: self.fc(input=self.body(x)), body=plain()[:8], fc=plain()[8])
    found = probed(module)
    assert (found.network.head_name, found.network.opaque_head) == ("fc", False)
    runner = NetworkRunner(Classifier(found.network, (0.0,), (1.0,)), batch_size=3)
    images = some_images()
    with runner.attached(), torch.no_grad():
        features = runner.outputs(images).features
        torch.testing.assert_close(features, module.body(images))


def test_a_last_layer_that_is_given_places() -> None:
    """Its features are the mean over them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(self.body(x).flatten(2).transpose(1, 2)).mean(1))

    for module in (
        Calls(forward, body=plain()[:6], fc=plain()[8]),
        Calls(
            lambda self, x: self.fc(self.body(x)[:, None])[:, 0], body=plain()[:8], fc=plain()[8]
        ),
    ):
        network = probed(module).network
        assert (network.head_name, network.opaque_head) == ("fc", False)
        runner = NetworkRunner(Classifier(network, (0.0,), (1.0,)), batch_size=3)
        with runner.attached(), torch.no_grad():
            outputs = runner.outputs(some_images())
        assert outputs.features.shape == (3, 8)
        torch.testing.assert_close(outputs.head.logits(outputs.features), outputs.logits)


def test_logits_that_are_not_finite() -> None:
    module = Calls(lambda self, x: self.net(x) / torch.tensor([[1.0], [0.0], [1.0]]), net=plain())
    with pytest.raises(NotFiniteError) as caught:
        probed(module)
    assert caught.value.index == 1


def test_a_single_linear_layer_and_images_without_taps() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES))
    assert probed(module).network.tap_names == ()
    assert probed(module).network.head_name == "1"


@pytest.mark.parametrize(
    ("module", "said", "hint"),
    [
        (nn.Sequential(*plain(), nn.LogSoftmax(dim=1)), "returns log-probabilities", "'8'"),
        (nn.Sequential(*plain(), nn.Softmax(dim=1)), "returns probabilities", "'8'"),
        (
            Calls(lambda self, x: (self.net(x) + self.net(-x)).softmax(1), net=plain()),
            "returns probabilities",
            "Leave out its last softmax",
        ),
        (
            Calls(lambda self, x: {"out": self.net(x) + 1, "aux": self.net(x) + 2}, net=plain()),
            "several entries may be the logits: 'out' [3, 5], 'aux' [3, 5]",
            "output='out'",
        ),
        (
            Calls(lambda self, x: {"a": x, "b": 1}, net=plain()),
            "returned a dict with the keys 'a', 'b', not logits",
            "output=",
        ),
        (Calls(lambda self, x: None, net=plain()), "returned None", "output="),
        (
            Calls(lambda self, x: self.net(x).argmax(1), net=plain()),
            "int64 values of shape [3] for 3",
            "",
        ),
        (
            Calls(lambda self, x: self.net(x).mean(0), net=plain()),
            "float32 values of shape [5] for 3",
            "",
        ),
        (Calls(lambda self, x: self.net(x)[:2], net=plain()), "shape [2, 5] for 3 images", ""),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), "gives one logit", ""),
    ],
)
def test_what_is_not_logits(module: nn.Module, said: str, hint: str) -> None:
    error = refused(module)
    assert said in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, CLASSES, 32), nn.Flatten()), "no layer was found"),
        (Calls(lambda self, x: self.net(x) + self.net(-x), net=plain()), "no layer was found"),
        (
            Calls(lambda self, x: (self.net(-x), self.net(x))[1], net=plain()),
            "its last layer, 'net.8', runs 2 times",
        ),
        (torch.jit.trace(plain().eval(), torch.rand(3, 3, 32, 32)), "hides its layers"),
    ],
)
def test_models_without_a_known_last_layer_give_logits(module: nn.Module, why: str) -> None:
    found = probed(module)
    assert found.network.head is None
    assert why in found.network.head_note
    runner = NetworkRunner(Classifier(found.network, (0.0,), (1.0,)), batch_size=3)
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(some_images())
    assert outputs.features.shape == (3, 0)
    torch.testing.assert_close(outputs.logits.float(), found.logits)


# --- taps --------------------------------------------------------------------------------------


def auto(module: nn.Module, size: int | tuple[int, int] = 32) -> tuple[str, ...]:
    return probed(module, some_images(size)).network.tap_names


def ending(*body: nn.Module) -> nn.Sequential:
    """A body of 8 channels, and a head."""
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def test_plain_sequences() -> None:
    assert auto(plain()) == ("1", "4")
    assert auto(ending(convolution(3, 8), convolution(8, 8, 2), convolution(8, 8, 2))) == (
        "0",
        "1",
        "2",
    )
    pooling = nn.Sequential(*convolution(3, 8), nn.MaxPool2d(2))
    again = nn.Sequential(*convolution(8, 8), nn.MaxPool2d(2))
    assert auto(ending(pooling, again)) == ("0", "1"), "a block that ends in pooling ends a stage"
    assert auto(ending(convolution(3, 8))) == ("0",)


def test_what_comes_before_the_first_weights_is_no_tap() -> None:
    class Normalize(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images / 2

    assert auto(ending(Normalize(), convolution(3, 8, 2))) == ("1",)


def test_parts_of_a_block_and_side_branches_are_no_taps() -> None:
    class Bottleneck(nn.Module):
        """The first convolution keeps the resolution, as in torchvision; the last is squeezed."""

        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.step = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.squeeze, self.excite = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.step(self.reduce(x))
            return x * self.excite(self.squeeze(x)).sigmoid()

    assert auto(ending(convolution(3, 8), Bottleneck(), Bottleneck())) == ("0", "1", "2")


def test_a_backbone_called_features_is_looked_into() -> None:
    """The engine uses that name for something else."""
    module = Calls(
        lambda self, x: self.classifier(self.features(x)),
        features=nn.Sequential(*convolution(3, 8), nn.MaxPool2d(2)),
        classifier=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )
    assert auto(module) == ("features.2",)
    module.features = convolution(3, 8, 2)
    assert auto(module) == ("features.2",)


def test_a_module_that_runs_several_times_is_no_tap() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.second(self.relu(self.first(x))))
            return cast(Tensor, self.head(x.mean((2, 3))))

    assert auto(Shared()) == ("first", "second")
    error = refused(Shared(), taps=["first", "relu"])
    assert error.message.startswith("Tap 'relu' runs 2 times in one forward pass of Shared")
    block = convolution(8, 8)
    assert auto(ending(convolution(3, 8, 2), block, block)) == ("0",), "known by its first name"


def test_a_map_with_its_channels_last_is_a_tap_like_others() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.layer(x))

    module = Calls(
        lambda self, x: self.head(self.mixed(self.first(x).permute(0, 2, 3, 1)).mean((1, 2))),
        first=convolution(3, 8, 2),
        mixed=ChannelsLast(),
        head=nn.Linear(8, CLASSES),
    )
    for size in (32, (32, 64)):
        found = probed(module, some_images(size)).network
        assert (found.tap_names, found.channel_axes) == (("mixed",), {"mixed": 3})
    assert probed(module, some_images(), taps=["first"]).network.channel_axes == {}


def test_blocks_of_one_resolution() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, x + self.layer(x))

    assert auto(ending(convolution(3, 8, 4), *(Block() for _ in range(8)))) == ("2", "4", "6", "8")


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        ("plain.11", "has no module 'plain.11'"),
        ("unused", "Tap 'unused' does not run when Calls computes its logits"),
        ("pair", "Tap 'pair' returns tuple for 3 images, not a floating-point tensor"),
        ("nested", "Tap 'nested' returns dict for 3 images, not a floating-point tensor"),
        ("mask", "Tap 'mask' returns bool [3, 3, 32, 32] for 3 images"),
        ("some", "Tap 'some' returns float32 [2, 3, 32, 32] for 3 images"),
        ("total", "Tap 'total' returns float32 [3] for 3 images"),
    ],
)
def test_named_taps_that_do_not_serve(tap: str, said: str) -> None:
    module = Calls(
        lambda self, x: (
            self.pair(x),
            self.nested(x),
            self.mask(x),
            self.some(x),
            self.total(x),
            self.plain(x),
        )[-1],
        plain=plain(),
        unused=nn.Identity(),
        pair=Calls(lambda self, x: (x > 0, x.sum((1, 2, 3)))),
        nested=Calls(lambda self, x: {"masks": [x > 0], "name": "nested"}),
        mask=Calls(lambda self, x: x > 0),
        some=Calls(lambda self, x: x[:2]),
        total=Calls(lambda self, x: x.sum((1, 2, 3))),
    )
    error = refused(module, taps=["plain.1", tap])
    assert said in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("taps", "said", "hint"),
    [
        (None, "not None", "give []"),
        (3, "not 3", ""),
        ([1], "not 1", ""),
        (["0", "0"], "'0' is named twice", "once"),
        (["0", "module.0"], "'module.0' is named twice", "once"),
    ],
)
def test_taps_that_are_no_names(taps: Any, said: str, hint: str) -> None:
    error = refused(plain(), taps=taps)
    assert error.message.startswith("taps: ")
    assert said in error.message
    assert hint in error.hint


def test_taps_by_the_module_itself_or_with_the_name_of_a_wrapper() -> None:
    module = plain()
    assert refused(module, taps=[module[3]]).hint == "Name it: '3'."
    for taps in (["module.3"], ["_orig_mod.3"], ["_orig_mod.module.3"]):
        assert probed(module, taps=taps).network.tap_names == ("3",)
    wrapper = Calls(lambda self, x: self.module(x), module=module)
    assert probed(wrapper, taps=["module.3"]).network.tap_names == ("module.3",)


def test_what_is_captured_of_a_map_with_its_channels_last() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    module = Calls(
        lambda self, x: self.head(self.turned(self.first(x)).mean((1, 2))),
        first=convolution(3, 8, 2),
        turned=Turned(),
        head=nn.Linear(8, CLASSES),
    )
    classifier = Classifier(probed(module, taps=["first", "turned"]).network, (0.0,), (1.0,))
    runner = NetworkRunner(
        classifier, batch_size=3, capture=Capture.of(frozenset({"taps", "tap_maps"}))
    )
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(some_images())
    for found in (outputs.taps, outputs.tap_maps):
        torch.testing.assert_close(found["turned"], found["first"])
        assert found["turned"].shape[1] == 8


def test_named_taps_are_taken_as_given() -> None:
    assert probed(plain(), taps=["3", "7"]).network.tap_names == ("3", "7")
    assert probed(plain(), taps="3").network.tap_names == ("3",)
    assert probed(plain(), taps=()).network.tap_names == ()
    network = oodbench.models.create("resnet8", CLASSES)
    assert probed(network, taps=["stage1"]).network.tap_names == ("stage1",)


# --- that nothing is changed, and nothing fools it ---------------------------------------------


def test_nothing_is_changed() -> None:
    module = plain().eval()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    images = some_images()
    analyze(module, images, "auto")
    torch.testing.assert_close(images, some_images(), rtol=0, atol=0)
    torch.testing.assert_close(dict(module.state_dict()), weights, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks for part in module.modules())
    with pytest.raises(RuntimeError):
        analyze(module, some_images(channels=4), "auto")
    assert not any(part._forward_hooks for part in module.modules())


def test_what_is_captured_is_what_was_there_before_work_in_place() -> None:
    """ReLU(inplace=True) right after a tap changes its tensor, and is to change no capture."""
    torch.manual_seed(0)
    convolving, linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 7)
    module = nn.Sequential(
        convolving,
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        linear,
        nn.ReLU(inplace=True),
        nn.Linear(7, CLASSES),
    ).eval()
    images = some_images()
    classifier = Classifier(probed(module, images, ["0", "4"]).network, (0.0,), (1.0,)).eval()
    for grad in (True, False):
        runner = NetworkRunner(classifier, batch_size=3, capture=Capture(taps=True, tap_maps=True))
        with runner.attached(), torch.set_grad_enabled(grad):
            given = images.clone().requires_grad_(grad)
            outputs = runner.outputs(given)
        first = convolving(images)
        second = linear(F.relu(first).mean((2, 3)))
        torch.testing.assert_close(outputs.tap_maps["0"], first, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs.taps["0"], first.mean((2, 3)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs.taps["4"], second, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs.features, F.relu(second), rtol=1e-5, atol=1e-6)
        assert bool((second < 0).any())


def test_a_view_of_a_map_is_run_in_the_order_it_takes() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.body(x)
        return cast(Tensor, self.fc(x.view(x.size(0), -1)))

    parts = {"body": convolution(3, 4, 4), "fc": nn.Linear(4 * 8 * 8, CLASSES)}
    found = probed(Calls(forward, **parts))
    assert (found.network.head_name, found.channels_last) == ("fc", False)


def test_wrappers_are_taken_off() -> None:
    module = plain()
    assert unwrapped(module) is module
    assert unwrapped(nn.DataParallel(module)) is module

    class OptimizedModule(nn.Module):  # as torch.compile wraps it
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

    assert unwrapped(OptimizedModule(nn.DataParallel(module))) is module


def test_a_network_and_an_error_of_its_own_are_not_confused() -> None:
    class Broken(Network):
        tap_names = ()

        def forward(self, images: Tensor) -> Tensor:
            raise ZeroDivisionError("its own")

    with pytest.raises(ZeroDivisionError, match="its own"):
        probed(Broken())
