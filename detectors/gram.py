"""Gram matrices (Sastry & Oore, ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.functional import max_probability
from oodbench.gram import gram_row_sums


@register(
    "gram",
    label="Gram",
    title="Deviations of Gram matrices from their ranges",
    venue="ICML",
    year=2020,
    url="https://arxiv.org/abs/1912.12510",
    needs=("tap_maps", "fit", "held_out"),
)
class Gram(Detector):
    """-sum_l delta_l / E[delta_l], the deviations of every tap's Gram matrices from their ranges.

    delta_l sums, over the orders p = 1 .. powers and the channels, how far the row sum of
    (F^p F^pT)^(1/p) lies outside of [min, max] of the training images of the same predicted class,
    relative to the bound that is passed: (min - g) / (|min| + 1e-6) or (g - max) / (|max| + 1e-6).
    E[delta_l] is its mean over held-out images, plus 1e-7. These are the authors' constants and
    classes. Unlike there, F is taken at the taps and not at every convolution and activation, and
    an image of a class that is predicted for no training image is held against the range over all
    of them.

    Ranges take 2 x classes x powers x channels numbers for every tap.

    Args:
        powers: the highest order.
        divide_by_confidence: divide deviations by the maximum softmax probability, which is in the
            authors' code and not in the formula above.
    """

    def __init__(self, powers: int = 10, divide_by_confidence: bool = False) -> None:
        if powers < 1:
            raise ValueError(f"powers must be at least 1, not {powers}")
        self.powers = powers
        self.divide_by_confidence = divide_by_confidence
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self.expected: dict[str, Tensor] = {}

    def fit(self, batches: Batches) -> None:
        """The ranges of every tap, class, order and channel, in one sweep."""
        self.ranges, self.expected = {}, {}
        seen = torch.zeros(batches.num_classes, dtype=torch.bool)
        for outputs in batches:
            classes = outputs.logits.argmax(dim=1)
            seen = seen.to(classes.device)
            seen[classes] = True
            for tap, activation in outputs.tap_maps.items():
                sums = gram_row_sums(activation, self.powers)
                if tap not in self.ranges:
                    unset = sums.new_full((batches.num_classes, *sums.shape[1:]), torch.inf)
                    self.ranges[tap] = (unset, -unset)
                rows = classes[:, None, None].expand_as(sums)
                lower, upper = self.ranges[tap]
                lower.scatter_reduce_(0, rows, sums, "amin")
                upper.scatter_reduce_(0, rows, sums, "amax")
        if not seen.any():
            raise ValueError("no training images to fit on")
        for lower, upper in self.ranges.values():
            lower[~seen] = lower.amin(dim=0)
            upper[~seen] = upper.amax(dim=0)

    def fit_held_out(self, batches: Batches) -> None:
        """The mean deviation of every tap, in one sweep."""
        count, totals = 0, dict.fromkeys(self.ranges, torch.zeros((), dtype=torch.float64))
        for outputs in batches:
            count += len(outputs)
            for tap, deviations in self.deviations(outputs).items():
                totals[tap] = totals[tap] + deviations.sum()
        if not count:
            raise ValueError("no held-out images: the expected deviations are not defined")
        self.expected = {tap: total / count + 1e-7 for tap, total in totals.items()}

    def deviations(self, outputs: Outputs) -> dict[str, Tensor]:
        """delta_l of every tap, each of shape [B], float64."""
        if not self.ranges:
            raise ValueError("Gram has no ranges yet: call fit first")
        classes = outputs.logits.argmax(dim=1)
        scale = max_probability(outputs.logits) if self.divide_by_confidence else 1.0
        found = {}
        for tap, (lower, upper) in self.ranges.items():
            sums = gram_row_sums(outputs.tap_maps[tap], self.powers)
            low, high = lower[classes], upper[classes]
            below = (low - sums).clamp_(min=0) / (low.abs() + 1e-6)
            above = (sums - high).clamp_(min=0) / (high.abs() + 1e-6)
            found[tap] = (below + above).sum(dim=(1, 2), dtype=torch.float64) / scale
        return found

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the normalised deviations of all taps, summed, shape [B]."""
        if not self.expected:
            raise ValueError("Gram has no expected deviations yet: call fit and fit_held_out first")
        deviations = self.deviations(outputs)
        return -torch.stack([deviations[tap] / self.expected[tap] for tap in deviations]).sum(dim=0)
