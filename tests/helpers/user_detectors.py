"""Detectors that users of `oodbench.evaluate` wrote, some of them broken."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, PerturbingDetector, register
from oodbench.detector import Batches


@register("typed", needs=("features", "taps", "input_gradient"))
class Typed(PerturbingDetector):
    """Notes the types of what it sees; the first tap is read after a step."""

    epsilon = 0.01

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def perturbation_losses(self, outputs: Outputs) -> dict[str, Tensor]:
        name = next(iter(outputs.taps))
        return {name: outputs.taps[name].mean(1), "logits": outputs.logits.amax(1)}

    def score(self, outputs: Outputs) -> Tensor:
        self.seen |= {outputs.features.dtype, *(tap.dtype for tap in outputs.taps.values())}
        return outputs.features.sum(1)


@register("learner", needs=("fit", "labels", "features"))
class Learner(Detector):
    """The class means of the features; raises if it is asked to keep as many as there are."""

    def __init__(self, dim: int = 2) -> None:
        self.dim = dim

    def fit(self, batches: Batches) -> None:
        features, labels = [], []
        for outputs in batches:
            if self.dim >= outputs.features.shape[1]:
                raise ValueError(f"dim {self.dim} is not below {outputs.features.shape[1]}")
            assert outputs.labels is not None
            features.append(outputs.features)
            labels.append(outputs.labels)
        self.features, self.labels = torch.cat(features), torch.cat(labels)
        means = [self.features[self.labels == c].mean(0) for c in range(batches.num_classes)]
        self.means = torch.stack(means)

    def score(self, outputs: Outputs) -> Tensor:
        return -torch.cdist(outputs.features.double(), self.means.double()).amin(dim=1)


@register("holding", needs=("features", "validation", "labels"))
class Holding(Learner):
    """The same of validation images."""

    def fit_validation(self, batches: Batches) -> None:
        Learner.fit(self, batches)


@register("ensemble", needs=("taps", "tap_maps", "feature_map", "features"))
class Ensemble(Detector):
    """Looks at everything there is."""

    def score(self, outputs: Outputs) -> Tensor:
        assert outputs.feature_map is not None
        assert list(outputs.taps) == list(outputs.tap_maps)
        return sum(tap.mean(1) for tap in outputs.taps.values()) + outputs.feature_map.mean(
            (1, 2, 3)
        )


@register("constant")
class Constant(Detector):
    """Every image has the same score."""

    def score(self, outputs: Outputs) -> Tensor:
        return torch.zeros(len(outputs))


@register("loudest")
class Loudest(Detector):
    """The largest logit."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


@register("raising")
class Raising(Detector):
    """Cannot score."""

    def score(self, outputs: Outputs) -> Tensor:
        raise ZeroDivisionError("its own fault")
