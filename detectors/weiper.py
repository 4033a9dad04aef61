"""WeiPer: weight perturbations of class projections (Granz, Heurich & Landgraf, NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Head, Outputs, register
from oodbench.number_checks import not_negative, positive
from oodbench.numerics.input_checks import at_least, one_of, require_images
from oodbench.numerics.perturbed_head import PerturbedHead
from oodbench.numerics.row_sample import FEATURE_SAMPLE, RowSample
from oodbench.numerics.statistics.histograms import Bins

FEATURE_EPSILON, LOGIT_EPSILON = 0.01, 0.025
"""Added to every bin before divergences are taken, as in the authors' code."""

LOGITS = 5 * 10**8
"""Logits of the sample: its images are fewer than `FEATURE_SAMPLE` from 500 classes on."""

LOWEST_GAP = -80.0
"""exp of less is nothing beside 1, and slow: it may be below the normal numbers of float32."""


Preset = Literal["by_classes", "cifar10", "cifar100", "imagenet", "imagenet_vit"]


class Settings(NamedTuple):
    """The arguments of `WeiPer` that the authors chose for each data set."""

    distance: float
    bins: int
    lambda_1: float
    lambda_2: float
    smoothing: int
    logit_smoothing: int


PUBLISHED: Mapping[str, Settings] = {
    "cifar10": Settings(1.8, 100, 2.5, 0.1, 4, 15),
    "cifar100": Settings(2.4, 100, 0.1, 1.0, 4, 40),
    "imagenet": Settings(2.4, 100, 2.5, 0.25, 40, 15),
    "imagenet_vit": Settings(2.0, 80, 2.5, 0.1, 40, 15),
}


@dataclass(frozen=True)
class Histograms:
    """Mean histograms of the training images, shape [bins] each, and their bins."""

    feature_bins: Bins
    logit_bins: Bins
    features: Tensor
    logits: Tensor


@register(
    "weiper",
    label="WeiPer",
    title="WeiPer+KLD: histograms of features and of perturbed logits",
    paper="WeiPer: OOD Detection using Weight Perturbations of Class Projections",
    authors=("Maximilian Granz", "Manuel Heurich", "Tim Landgraf"),
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2405.17164",
    code="https://github.com/mgranz/weiper",
    needs=("features", "head", "fit"),
    family="shaping",
    search_space={
        "preset": ("by_classes", "cifar10", "cifar100", "imagenet", "imagenet_vit"),
    },
)
class WeiPer(Detector):
    """-(D_z + lambda_1 D_w - lambda_2 MSP), from r copies of the last layer, drawn once.

    A copy has each row w_c moved by delta ||w_c|| in a random direction. D_z = KL(p, q) + KL(q, p)
    compares two histograms of the D features: that of the image, q, after a moving average, and the
    mean one of the training images, p. D_w is the same for the r C logits of the copies. MSP is the
    mean over the copies of the largest probability. Bins are of equal width between the smallest
    and the largest training value; values outside count in the total, not in a bin.

    This is the authors' WeiPer+KLD. Their code takes the range and the mean histograms from all
    training images, in two passes; here they are those of all, or of a uniform sample of 10,000
    (5,000 at 1,000 classes).

    A histogram of D features says little if D is small: with 64 features, as in the network of
    `digits`, MSP alone is the better score.

    An image costs r C D multiply-adds: 0.2 G at 1,000 classes and 2,048 features, 5 % of a forward
    pass of ResNet-50. r C D bytes are kept, 205 MB there.

    Args:
        preset: the authors' values, in the order of the next arguments: "cifar10" 1.8, 100, 2.5,
            0.1, 4, 15; "cifar100" 2.4, 100, 0.1, 1, 4, 40; "imagenet" (ResNet-50) 2.4, 100, 2.5,
            0.25, 40, 15; "imagenet_vit" (ViT-B) 2.0, 80, 2.5, 0.1, 40, 15. "by_classes" takes those
            of CIFAR-10 for fewer than 30 classes, of CIFAR-100 for fewer than 300, else those of
            "imagenet".
        distance: delta. None, here and below: the preset's.
        bins: bins of a histogram.
        lambda_1: weight of D_w.
        lambda_2: weight of MSP.
        smoothing: length of the moving average for the features.
        logit_smoothing: the same for the logits.
        copies: r; 100 in the paper.
        seed: seed of the directions.
    """

    def __init__(
        self,
        preset: Preset = "by_classes",
        distance: float | None = None,
        bins: int | None = None,
        lambda_1: float | None = None,
        lambda_2: float | None = None,
        smoothing: int | None = None,
        logit_smoothing: int | None = None,
        copies: int = 100,
        seed: int = 0,
    ) -> None:
        self.preset = one_of("preset", preset, Preset)
        self.distance = distance if distance is None else positive("distance", distance)
        self.bins = bins if bins is None else at_least("bins", bins, 1)
        self.lambda_1 = lambda_1 if lambda_1 is None else not_negative("lambda_1", lambda_1)
        self.lambda_2 = lambda_2 if lambda_2 is None else not_negative("lambda_2", lambda_2)
        self.smoothing = smoothing if smoothing is None else at_least("smoothing", smoothing, 1)
        self.logit_smoothing = (
            logit_smoothing
            if logit_smoothing is None
            else at_least("logit_smoothing", logit_smoothing, 1)
        )
        self.copies = at_least("copies", copies, 1)
        self.seed = seed

    def fit(self, batches: Batches) -> None:
        """Directions of the copies, and the mean histograms, from a sample drawn in one pass.

        Raises:
            ValueError: if there are no images, or their features do not vary.
        """
        images = max(1000, LOGITS // (self.copies * batches.num_classes))
        self.sample = batches.shared(RowSample, min(images, FEATURE_SAMPLE))
        head = Head("other")
        for outputs in batches:
            batches.once(self.sample.add, outputs.features)
            head = outputs.head
        require_images(self.sample.seen)
        self.perturbed = PerturbedHead(head, self.copies, self.seed)
        self.histograms: dict[tuple[float, int], Histograms] = {}
        self._histograms(self._settings(batches.num_classes))

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the weighted divergences, plus the weighted probability, shape [B]."""
        settings = self._settings(outputs.logits.shape[1])
        mean = self._histograms(settings)
        counts = outputs.logits.new_zeros(len(outputs), settings.bins + 2)
        probabilities = torch.zeros_like(counts[:, 0])
        for rows, logits in self.perturbed.logits(outputs.features, settings.distance):
            counts[rows] += mean.logit_bins.counts(logits.flatten(1))
            gaps = (logits - logits.amax(dim=2, keepdim=True)).clamp_min_(LOWEST_GAP)
            probabilities[rows] += gaps.exp_().sum(dim=2).double().reciprocal().sum(dim=1)
        features = mean.feature_bins.shares(outputs.features.double())
        logits = counts[:, 1:-1] / counts.sum(dim=1, keepdim=True)
        from_features = divergence(features, mean.features, settings.smoothing, FEATURE_EPSILON)
        from_logits = divergence(logits, mean.logits, settings.logit_smoothing, LOGIT_EPSILON)
        confidence = probabilities / self.copies
        return settings.lambda_2 * confidence - from_features - settings.lambda_1 * from_logits

    def _settings(self, classes: int) -> Settings:
        by_classes = "cifar10" if classes < 30 else "cifar100" if classes < 300 else "imagenet"
        preset = PUBLISHED[by_classes if self.preset == "by_classes" else self.preset]
        own = {name: getattr(self, name) for name in Settings._fields}
        return preset._replace(**{name: value for name, value in own.items() if value is not None})

    def _histograms(self, settings: Settings) -> Histograms:
        """Of the sample; computed once for each distance and number of bins."""
        key = settings.distance, settings.bins
        if key not in self.histograms:
            blocks = self.sample.blocks
            spans = [_span(block) for block in blocks]
            logit_spans = [
                _span(logits)
                for block in blocks
                for _, logits in self.perturbed.logits(block, settings.distance)
            ]
            feature_bins, logit_bins = (
                Bins(min(lows), max(highs), settings.bins)
                for lows, highs in (zip(*each, strict=True) for each in (spans, logit_spans))
            )
            counts = blocks[0].new_zeros(2, settings.bins + 2, dtype=torch.int64)
            for block in blocks:
                counts[0] += feature_bins.counts(block.double()).sum(dim=0)
                for _, logits in self.perturbed.logits(block, settings.distance):
                    counts[1] += logit_bins.counts(logits.flatten(1)).sum(dim=0)
            shares = counts[:, 1:-1] / counts.double().sum(dim=1, keepdim=True)
            self.histograms[key] = Histograms(feature_bins, logit_bins, *shares)
        return self.histograms[key]


def divergence(shares: Tensor, mean: Tensor, smoothing: int, epsilon: float) -> Tensor:
    """KL(p, q) + KL(q, p) of smoothed histograms q and a mean histogram p, shape [B].

    Args:
        shares: shares of each image, before smoothing, shape [B, K].
        mean: shares of the training images, shape [K].
        smoothing: length of the moving average; beyond the ends, the last bin is repeated.
        epsilon: added to every bin; then both sum to 1.
    """
    before = (smoothing - 1) // 2
    padded = F.pad(shares[:, None], (before, smoothing - 1 - before), mode="replicate")
    q = F.avg_pool1d(padded, smoothing, stride=1).squeeze(1) + epsilon
    p = mean + epsilon
    q, p = q / q.sum(dim=1, keepdim=True), p / p.sum()
    return ((p - q) * (p.log() - q.log())).sum(dim=1)


def _span(values: Tensor) -> tuple[float, float]:
    low, high = values.aminmax()
    return float(low), float(high)
