"""Detectors on features that can also be fitted on several feature layers, and combine them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Batches, Detector, Outputs
from oodbench.detector.info import PENULTIMATE
from oodbench.numerics.input_checks import one_of
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.statistics.layer_scores import ReferenceScores

Combine = Literal["mean", "standardized", "fisher"]

SAMPLE = 5000
"""Largest number of images whose scores make layers comparable, a random sample of more."""


class LayerwiseDetector(Detector):
    """A detector on penultimate features that can be used on several feature layers.

    A subclass writes the method for one feature vector an image: `fit_features` reads
    `outputs.features`, which are those of one layer, and `score_features` scores such vectors. With
    `layers`, each layer has a detector of its own, fitted on the layer averaged over space; all
    layers are fitted in one pass. Declare `layerwise=True`.

    The scores s_l of the L layers are combined, as in the library oodeel (deel-ai):

    - "mean": the mean of s_l. Layers with large scores decide.
    - "standardized": the mean of (s_l - m_l) / sigma_l, with mean and standard deviation of s_l on
      in-distribution images.
    - "fisher": 2 sum_l log p_l, which is minus Fisher's statistic; p_l = (1 + n_l) / (N + 1), and
      n_l of N in-distribution images have a score of at most s_l. Images below all N in every layer
      are tied. Brown's correction for dependent layers, which oodeel applies, keeps this order.

    The in-distribution images of m_l, sigma_l and p_l are the validation images, which the network
    was not trained on. If there are none, a random tenth of the training images takes their place,
    and the layers are fitted on the others; the network has seen these images, so its scores of
    them are higher than those of new images. At most `SAMPLE` images are kept. Test images are
    never used.

    Args:
        layers: None for the penultimate features; names of feature layers, "features" for the
            penultimate ones; or "all" for all feature layers.
        combine: how the scores of the layers are combined; no effect without `layers`.

    Attributes:
        parts: layer -> the detector that is fitted on it; only with `layers`.
    """

    layerwise = True

    def __init__(
        self, layers: str | Sequence[str] | None = None, combine: Combine = "mean"
    ) -> None:
        self.layers = layers if layers is None or isinstance(layers, str) else tuple(layers)
        self.combine = one_of("combine", combine, Combine)
        if self.layers == () or len(set(self._asked())) < len(self._asked()):
            raise ValueError(f"layers must name at least one layer, and each once, not {layers!r}")
        if self.layers is not None and hasattr(type(self), "info"):
            self.info = type(self).info.given({"layers": self.layers, "combine": combine})

    def fit_features(self, batches: Batches) -> None:
        """Fit on one pass over the training images, of which `outputs.features` is read."""
        raise NotImplementedError

    def score_features(self, features: Tensor) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution.

        Args:
            features: of one layer, shape [B, D].
        """
        raise NotImplementedError

    def fit(self, batches: Batches) -> None:
        """Fit on the penultimate features, or on each layer; in one pass.

        Raises:
            ValueError: if a layer is unknown, or the detector cannot be fitted on it.
        """
        if self.layers is None:
            self.fit_features(batches)
            return
        started = iter(batches)
        first = next(started, None)
        if first is None:
            raise ValueError("no training images to fit on")
        others = {**self.parameters, "layers": None, "combine": "mean"}
        self.parts = {name: type(self)(**others) for name in self._layers_of(first)}
        batches.fit_each(
            {name: part.fit_features for name, part in self.parts.items()},
            lambda name, outputs: outputs.replaced(features=_layer(outputs, name)),
            itertools.chain([first], started),
        )

    def fit_validation(self, batches: Batches) -> None:
        """Keep features of in-distribution images, whose scores make layers comparable."""
        if self.layers is None or self.combine == "mean":
            return
        samples = {
            name: batches.shared(RowSample, SAMPLE, of=f"{name}, for combined layers")
            for name in self.parts
        }
        for outputs in batches:
            for name, sample in samples.items():
                batches.once(sample.add, _layer(outputs, name))
        self.samples = samples
        self.references = self._references()

    def score(self, outputs: Outputs) -> Tensor:
        """The score of the penultimate features, or that of the layers together, shape [B]."""
        if self.layers is None:
            return self.score_features(outputs.features)
        scores = {
            name: part.score_features(_layer(outputs, name)).double()
            for name, part in self.parts.items()
        }
        if self.combine == "mean":
            return torch.stack([*scores.values()]).mean(dim=0)
        known = self.references
        if self.combine == "standardized":
            standardized = [known[name].standardized(each) for name, each in scores.items()]
            return torch.stack(standardized).mean(dim=0)
        log_p_values = [known[name].log_p_values(each) for name, each in scores.items()]
        return 2 * torch.stack(log_p_values).sum(dim=0)

    def with_parameters(self, **parameters: Any) -> Self:
        """A copy with other hyperparameters, on the same layers.

        Raises:
            ValueError: if the layers or their combination are to change: `fit` depends on them.
        """
        for name in ("layers", "combine"):
            if name in parameters and parameters[name] != getattr(self, name):
                raise ValueError(
                    f"'{name}' cannot be tuned: a detector is fitted for one value. Compare "
                    "several methods that have different values"
                )
        clone = super().with_parameters(**parameters)
        if "parts" in vars(clone):
            clone.parts = {
                name: part.with_parameters(**_without_layers(parameters))
                for name, part in self.parts.items()
            }
        if "references" in vars(clone):
            clone.references = clone._references()
        return clone

    def _references(self) -> dict[str, ReferenceScores]:
        """The scores of the sample by each layer's detector, with the present parameters."""
        found = {}
        for name, sample in self.samples.items():
            score = self.parts[name].score_features
            blocks = [score(block) for block in sample.blocks] or [torch.empty(0)]
            try:
                found[name] = ReferenceScores.of(torch.cat(blocks))
            except ValueError as error:
                raise ValueError(f"layer '{name}': {error}") from error
        return found

    def _asked(self) -> tuple[str, ...]:
        return (self.layers,) if isinstance(self.layers, str) else self.layers or ()

    def _layers_of(self, outputs: Outputs) -> Iterator[str]:
        """The names of the layers, "all" resolved.

        Raises:
            ValueError: if a name is unknown.
        """
        asked = self._asked()
        taps = () if asked == (PENULTIMATE,) else tuple(outputs.taps)
        obstacle = self.info.layers_obstacle({"layers": self.layers}, taps)
        if obstacle is not None:
            raise ValueError(obstacle)
        for name in asked:
            yield from taps if name == "all" else (name,)


def _layer(outputs: Outputs, name: str) -> Tensor:
    """A layer averaged over space, or the penultimate features, shape [B, D]."""
    return outputs.features if name == PENULTIMATE else outputs.taps[name]


def _without_layers(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in parameters.items() if name not in ("layers", "combine")}
