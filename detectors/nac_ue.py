"""NAC-UE: neuron activation coverage (Liu et al., ICLR 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Outputs, register
from oodbench.detector.base import sum_over_places
from oodbench.numerics.input_checks import at_least, one_of, require_images

Preset = Literal["auto", "cifar10", "cifar100", "imagenet", "vit"]


class Layer(NamedTuple):
    """Parameters of a layer: images that fill a bin (O), number of bins (M), steepness (alpha)."""

    full: int
    bins: int
    steepness: float


PRESETS: Mapping[str, tuple[Layer, ...]] = {
    "cifar10": (
        Layer(50, 50, 100),
        Layer(100, 500, 1000),
        Layer(5, 50, 0.001),
        Layer(100, 500, 0.001),
    ),
    "cifar100": (Layer(50, 50, 50), Layer(500, 1000, 10), Layer(500, 50, 1), Layer(5, 50, 0.005)),
    "imagenet": (
        Layer(10, 50, 3000),
        Layer(500, 50, 300),
        Layer(50, 500, 0.01),
        Layer(5000, 1000, 1),
    ),
    "vit": (Layer(500, 50, 100), Layer(50, 500, 1), Layer(10, 500, 10), Layer(10, 1000, 1)),
}
"""Published parameters, from the last layer to the first: in a ResNet avgpool, layer3, layer2,
layer1; in a ViT-B/16 the last normalization, and `ln_2` of the blocks 11, 10, 9."""


@register(
    "nac_ue",
    label="NAC-UE",
    title="NAC-UE: how often training images have a neuron's state",
    aliases=("nac",),
    paper=(
        "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization"
    ),
    authors=("Yibing Liu", "Chris Xing Tian", "Haoliang Li", "Lei Ma", "Shiqi Wang"),
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2306.02879",
    code="https://github.com/BierOne/ood_coverage",
    needs=("tap_gradients", "fit"),
    search_space={"preset": ("auto", "cifar10", "cifar100", "imagenet", "vit")},
    family="gradients",
)
class NACUE(Detector):
    """Mean over layers and neurons of min(n / O, 1), with n the training images in the same bin.

    The state of a neuron (a channel) is a = sigmoid(alpha s g): s is the sum of its activation over
    places, and g that of the gradient of -1/C sum_c log p_c with respect to it. States are counted
    in M - 2 bins, which are narrow near 1/2; the published code has another one, above 1, which
    stays empty. n is the count of the bin that an image's state is in. Places of a transformer are
    its tokens, all of them, as in the published code.

    The layers are the penultimate features, and the feature layers before the last one from the
    last to the first, four in all: in a ResNet those of the paper. A preset has O, M and alpha of
    each.

    Args:
        preset: "cifar10", "cifar100", "imagenet" (ResNets), or "vit". "auto" takes the first of
            the first three with at least as many classes as the network, or else "imagenet".
            The layers of "vit" are not those that are found by themselves: name `ln_2` of the
            blocks 9, 10 and 11 of a ViT-B/16, and its last normalization, with taps.
        fitting_images: number of training images that are counted at most. The published code takes
            as many of each class; 50,000 for a ViT.
    """

    def __init__(self, preset: Preset = "auto", fitting_images: int = 1000) -> None:
        self.preset = one_of("preset", preset, Preset)
        self.fitting_images = at_least("fitting_images", fitting_images, 1)

    def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
        """The layers, from the last to the first.

        Raises:
            ValueError: if there is none.
        """
        before = [tap for tap in taps if tap != "features"]
        if "features" in taps:  # the mean of the last one over places
            before = [*before[:-1], "features"]
        if not before:
            raise ValueError("needs feature layers, and there are none: name them with taps")
        return before[:-5:-1]

    def tap_loss(self, outputs: Outputs) -> Tensor:
        """The divergence of p from the uniform distribution, up to a constant, shape [B]."""
        return -F.log_softmax(outputs.logits, dim=1).mean(dim=1)

    def reduce_gradient(self, name: str, activation: Tensor, gradient: Tensor) -> Tensor:
        """S g, shape [B, D]."""
        return sum_over_places(activation) * sum_over_places(gradient)

    def fit(self, batches: Batches) -> None:
        """Count states, for every preset."""
        counts: dict[str, list[Tensor]] = {}
        for outputs in batches:
            states = [*outputs.tap_gradients.values()]
            for name, layers in PRESETS.items():
                pairs = [*zip(states, layers, strict=False)]
                totals = counts.setdefault(name, [_empty(*pair) for pair in pairs])
                for total, (state, layer) in zip(totals, pairs, strict=True):
                    bins = _bins(state, layer).T
                    total.scatter_add_(1, bins, torch.ones_like(bins, dtype=total.dtype))
        require_images(len(counts))
        self.counts, self.classes = counts, batches.num_classes

    def score(self, outputs: Outputs) -> Tensor:
        """Mean coverage, shape [B], in [0, 1]."""
        preset: str = self.preset
        if preset == "auto":
            few = "cifar10" if self.classes <= 10 else "cifar100"
            preset = few if self.classes <= 100 else "imagenet"
        coverage = [
            (counts.gather(1, _bins(state, layer).T) / layer.full).clamp_max(1).mean(dim=0)
            for state, counts, layer in zip(
                outputs.tap_gradients.values(), self.counts[preset], PRESETS[preset], strict=False
            )
        ]
        return torch.stack(coverage).mean(dim=0)


def _bins(state: Tensor, layer: Layer) -> Tensor:
    """The bin of sigmoid(alpha s g), shape [B, D], for s g of that shape.

    The limits below 1/2 are log_1000 of equal steps from 1 to sqrt(1000); those above mirror them.
    """
    steps = torch.linspace(1, 1000**0.5, layer.bins // 2, dtype=torch.float64)[1:-1]
    below = steps.log() / math.log(1000)
    limits = torch.cat([below, below.new_tensor([0.5]), 1 - below.flip(0)]).to(state.device)
    return torch.bucketize(torch.sigmoid(layer.steepness * state), limits, right=True)


def _empty(state: Tensor, layer: Layer) -> Tensor:
    """No image in any bin, shape [D, M - 2]."""
    return state.new_zeros(state.shape[1], layer.bins - 2, dtype=torch.float64)
