"""Gram matrices (Sastry & Oore, ICML 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import max_probability
from oodbench.numerics.input_checks import at_least, require_images
from oodbench.numerics.statistics.gram import (
    evenly_spaced,
    gram_row_sums,
    most_that_fit,
    ranges_bytes,
    too_large,
)


@register(
    "gram",
    label="Gram",
    title="Deviations of Gram matrices from their ranges",
    paper="Detecting Out-of-Distribution Examples with Gram Matrices",
    authors=("Chandramouli Shama Sastry", "Sageev Oore"),
    venue="ICML",
    year=2020,
    url="https://arxiv.org/abs/1912.12510",
    code="https://github.com/VectorInstitute/gram-ood-detection",
    needs=("layers", "fit", "validation"),
)
class Gram(Detector):
    """-sum_l delta_l / E[delta_l], the deviations of every layer's Gram matrices from their ranges.

    delta_l sums, over the orders p = 1 .. powers and the channels, how far the row sum of
    (F^p F^pT)^(1/p) lies outside of [min, max] of the training images of the same predicted class,
    relative to the bound that is passed: (min - g) / (|min| + 1e-6) or (g - max) / (|max| + 1e-6).
    It is divided by the largest softmax probability. E[delta_l] is its mean over validation images,
    plus 1e-7. F are the activations of every convolution and activation function.

    Orders, constants, classes and the division are those of the authors' code. That code reads six
    activations of each residual block; activations that no module returns, such as the sum of two
    branches, are left out here. A class that is predicted for no training image has the range over
    all training images.

    With few layers, or very many training images, most images deviate nowhere and are tied at 0.

    Ranges take 2 x classes x powers x channels numbers for every layer, and at most 2 GiB in all.
    For a deep network with many classes, the detector reads as many evenly spaced layers as fit,
    and a note says how many. A forward pass keeps powers x channels numbers of an image.

    Args:
        powers: the highest order.
        layers: "auto": all convolutions and activation functions, or as many of them, evenly
            spaced, as fit the memory; "all"; a number of them, evenly spaced up to the last; or
            "taps", the feature layers. Except with "auto", layers that do not fit are an error.
        divide_by_confidence: divide deviations by the largest softmax probability, as the authors'
            code does; the paper's formula does not.
    """

    def __init__(
        self,
        powers: int = 10,
        layers: int | Literal["auto", "all", "taps"] = "auto",
        divide_by_confidence: bool = True,
    ) -> None:
        self.powers = at_least("powers", powers, 1)
        counts = isinstance(layers, int) and not isinstance(layers, bool)
        named = layers in ("auto", "all", "taps")
        if not named and not (counts and layers >= 1):  # type: ignore[operator]
            raise ValueError(
                f"layers must be auto, all, taps or a number of at least 1, not {layers}"
            )
        self.layers = layers
        self.divide_by_confidence = divide_by_confidence
        self.known: tuple[str, ...] = ()

    def choose_layers(self, layers: Sequence[str], taps: Sequence[str]) -> Sequence[str]:
        """All layers, some of them, or the taps.

        Raises:
            ValueError: if there are none.
        """
        found = taps if self.layers == "taps" else layers
        if not found:
            kind = (
                "feature layer" if self.layers == "taps" else "convolution or activation function"
            )
            raise ValueError(
                f"the network has no {kind} that is a module: name feature layers with "
                "taps=[...], and take these with layers = taps"
            )
        self.known = tuple(found)
        return evenly_spaced(found, len(found) if isinstance(self.layers, str) else self.layers)

    def reduce_layer(self, activation: Tensor) -> Tensor:
        """Row sums of every order, shape [B, powers, channels]."""
        return gram_row_sums(activation, self.powers)

    def fit(self, batches: Batches) -> None:
        """The ranges of every layer, class, order and channel, in one pass.

        Raises:
            ValueError: if there are no images, or the ranges would take more than 2 GiB.
        """
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self.dropped_layers = {}
        seen = torch.zeros(batches.num_classes, dtype=torch.bool)
        for outputs in batches:
            classes = outputs.logits.argmax(dim=1)
            seen = seen.to(classes.device)
            seen[classes] = True
            if not self.ranges:
                for layer in self._fitting(outputs.layers, batches.num_classes):
                    sums = outputs.layers[layer]
                    unset = sums.new_full((batches.num_classes, *sums.shape[1:]), torch.inf)
                    self.ranges[layer] = (unset, -unset)
            for layer, (lower, upper) in self.ranges.items():
                sums = outputs.layers[layer]
                rows = classes[:, None, None].expand_as(sums)
                lower.scatter_reduce_(0, rows, sums, "amin")
                upper.scatter_reduce_(0, rows, sums, "amax")
        require_images(int(seen.sum()))
        for lower, upper in self.ranges.values():
            lower[~seen] = lower.amin(dim=0)
            upper[~seen] = upper.amax(dim=0)

    def _fitting(self, row_sums: Mapping[str, Tensor], classes: int) -> Sequence[str]:
        """The layers whose ranges are kept; with "auto", those that do not fit are dropped.

        Raises:
            ValueError: if the ranges would take more than 2 GiB.
        """
        read, sizes = list(row_sums), ranges_bytes(row_sums, classes)
        if most_that_fit(read, sizes) == len(read):
            return read
        fitting = most_that_fit(self.known or read, sizes)
        if self.layers != "auto" or not fitting:
            number = "" if self.layers == "taps" else f"layers = {fitting}, "
            fewer = f"layers = auto, {number}or lower powers"
            raise too_large(sizes, classes, fewer if fitting else "lower powers")
        kept = evenly_spaced(read, fitting)
        why = f"the ranges of all of them and {classes} classes would not fit the memory"
        self.dropped_layers = {layer: why for layer in read if layer not in kept}
        return kept

    def fit_validation(self, batches: Batches) -> None:
        """The mean deviation of every layer, in one pass."""
        count, totals = 0, dict.fromkeys(self.ranges, torch.zeros((), dtype=torch.float64))
        for outputs in batches:
            count += len(outputs)
            for layer, deviations in self.deviations(outputs).items():
                totals[layer] = totals[layer] + deviations.sum()
        require_images(count, "validation")
        self.expected = {layer: total / count + 1e-7 for layer, total in totals.items()}

    def deviations(self, outputs: Outputs) -> dict[str, Tensor]:
        """delta_l of every layer, each of shape [B], float64."""
        classes = outputs.logits.argmax(dim=1)
        scale = max_probability(outputs.logits) if self.divide_by_confidence else 1.0
        found = {}
        for layer, (lower, upper) in self.ranges.items():
            sums = outputs.layers[layer][:, : self.powers]
            low, high = lower[classes, : self.powers], upper[classes, : self.powers]
            below = (low - sums).clamp_(min=0) / (low.abs() + 1e-6)
            above = (sums - high).clamp_(min=0) / (high.abs() + 1e-6)
            found[layer] = (below + above).sum(dim=(1, 2), dtype=torch.float64) / scale
        return found

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the normalized deviations of all layers, summed, shape [B]."""
        deviations = self.deviations(outputs)
        scaled = [deviations[layer] / self.expected[layer] for layer in deviations]
        return -torch.stack(scaled).sum(dim=0)
