"""Planted outputs: what a trained network would give, made without one.

In- and out-of-distribution images differ in everything that a detector may read, so a detector with
the right sign separates them.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Batches, Head, Language, Outputs
from oodbench.engine.passes.capture import FEATURES

Kind = Literal["linear", "dismax"]
"""Of the last layer; "dismax" has distances between directions."""

Split = Literal["fit", "other", "validation", "positives", "negatives", "id", "ood"]

IMAGES = "(images)"
"""Place of the images in `input_gradients` of planted outputs."""

_SEEDS = {"fit": 1, "validation": 2, "positives": 3, "negatives": 4, "id": 5, "ood": 6, "other": 7}
_COUNTS = {  # images; the largest k of a search space of a built-in detector is 500
    "fit": 600,
    "other": 600,
    "validation": 200,
    "positives": 60,
    "negatives": 60,
    "id": 90,
    "ood": 90,
}
_EARLY = 20  # units of the early tap


@dataclass(frozen=True, slots=True)
class PlantedNetwork:
    """A network that exists by its outputs only.

    Attributes:
        kind: of the last layer.
        classes: C.
        own: units that stand for a class, each for one.
        silent: units that in-distribution images hardly move. All units together, D, are a multiple
            of ten.
        spatial: whether there is a map before pooling; otherwise maps have one place.
    """

    kind: Kind = "linear"
    classes: int = 5
    own: int = 8
    silent: int = 10
    spatial: bool = True

    @property
    def units(self) -> int:
        """D, the number of penultimate features."""
        return self.classes * self.own + self.silent

    @property
    def described(self) -> str:
        """Words for messages."""
        head = "DisMax head" if self.kind == "dismax" else "linear head"
        maps = "" if self.spatial else ", no map before pooling"
        return f"a {head}, {self.classes:,} classes{maps}"

    def outputs(self, split: Split, dtype: torch.dtype = torch.float64) -> Outputs:
        """Outputs like those of a trained network with rectified features.

        In-distribution: the units of an image's class are strongly active, the others weakly; two
        groups of units are active in two halves of the map. Out-of-distribution ("negatives",
        "ood"): few units are active, and weakly, except for some that are silent otherwise; all in
        one place. The logits are float64 in any case. For detectors that look at gradients, the
        features are the images: they lie, as [B, 2, D/10, 5], where the gradients come to be (see
        `with_graph`), and for detectors that move images as the logits of `perturbed`. So do the
        taps where the logits of replaced ones, or what is made of their gradients, come to be.

        Args:
            split: "fit" or "validation" with labels, some of them wrong; "positives", "negatives",
                "id", "ood" without; "other" is "fit" with features of another scale, none of them
                silent.
            dtype: of features, maps and weights.
        """
        return _outputs(self, split, dtype)

    def head(self, like: Tensor) -> Head:
        """The last layer, in the type and on the device of a tensor."""
        weight, bias = _last_layer(self)
        return Head(self.kind, weight.to(like), bias.to(like) if self.kind == "linear" else None)

    def logits(self, features: Tensor) -> Tensor:
        """Logits of features, shape [B, C], float64."""
        head = self.head(features)
        if self.kind == "linear":
            return head.logits(features)
        assert head.weight is not None
        directions = F.normalize(features.double(), dim=1)
        distances = torch.cdist(directions, F.normalize(head.weight.double(), dim=1)) / 2**0.5
        return -(distances + distances.mean(dim=1, keepdim=True)) / 0.1

    def with_graph(self, outputs: Outputs, images: Tensor, before: Tensor | None = None) -> Outputs:
        """Outputs with a graph that leads to the images; every value stays as it is.

        Args:
            outputs: as a detector may see them.
            images: shape [B, 2, D/10, 5], requiring a gradient: the features.
            before: the images that `outputs` are of, if these are others.
        """
        features = images.flatten(1)
        old = features.detach() if before is None else before.flatten(1)
        change, logits = features - old, self.logits(features)
        early = change.double() @ _mixing(self.units).to(features.device) / 10
        changes = {"early": early.to(features.dtype), "late": change}

        def moved(values: Tensor, by: Tensor) -> Tensor:
            return values + by.reshape(*by.shape, *(1,) * (values.ndim - 2))

        graph: dict[str, Any] = {"logits": outputs.logits + (logits - self.logits(old))}
        if hasattr(outputs, "features"):
            graph["features"] = outputs.features + change
        if hasattr(outputs, "feature_map"):
            assert outputs.feature_map is not None
            graph["feature_map"] = moved(outputs.feature_map, change)
        for attribute in ("taps", "tap_maps"):
            if hasattr(outputs, attribute):
                taps = getattr(outputs, attribute).items()
                graph[attribute] = {name: moved(tap, changes[name]) for name, tap in taps}
        made: dict[str, Any] = {"input_gradients": {}, "tap_gradients": {}, "perturbed": None}
        graph |= {name: value for name, value in made.items() if hasattr(outputs, name)}
        return outputs.replaced(**graph)

    def features_of_tap(self, name: str, activation: Tensor) -> Tensor:
        """The penultimate features behind a tap's map; those of the early one by least squares."""
        pooled = activation.mean(dim=(2, 3)) if activation.ndim > 2 else activation
        if name != "early":
            return pooled
        units: Tensor = 10 * torch.linalg.pinv(_mixing(self.units))
        return pooled @ units.to(activation)


PLANTED = PlantedNetwork()
MANY_CLASSES = PlantedNetwork(classes=30, own=2)
VERY_MANY_CLASSES = PlantedNetwork(classes=1200, own=1)
TWO_CLASSES = PlantedNetwork(classes=2, own=20)


class PlantedBatches(Batches):
    """Outputs in batches of one size.

    Args:
        outputs: of a split.
        num_classes: C.
        size: images in a batch.
    """

    def __init__(self, outputs: Outputs, num_classes: int = PLANTED.classes, size: int = 100):
        self.outputs, self.num_classes, self.size = outputs, num_classes, size

    def __iter__(self) -> Iterator[Outputs]:
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


def copied(outputs: Outputs, on: str | None = None) -> Outputs:
    """A copy of outputs and of the head.

    Args:
        outputs: as a detector may see them.
        on: device; default: that of the outputs.
    """

    def copy(tensor: Tensor) -> Tensor:
        return tensor.clone() if on is None else tensor.to(on)

    made = outputs.map(copy)
    if not hasattr(outputs, "head"):
        return made
    head = outputs.head
    weight = None if head.weight is None else copy(head.weight)
    bias = None if head.bias is None else copy(head.bias)
    return made.replaced(head=Head(head.kind, weight, bias))


def joined(first: Outputs, second: Outputs) -> Outputs:
    """Two batches as one, maps included."""
    both = (first, second)
    maps: dict[str, Any] = {}
    names = ("feature_map", "tap_maps", "layers", "replaced_logits", "local_features")
    for name in (*names, "rotation_logits"):
        if hasattr(first, name):
            parts = [getattr(batch, name) for batch in both]
            if isinstance(parts[0], Tensor):
                maps[name] = torch.cat(parts)
                continue
            maps[name] = {each: torch.cat([part[each] for part in parts]) for each in parts[0]}
    return Outputs.concatenate(both).replaced(**maps)


@functools.lru_cache(maxsize=64)
def _outputs(network: PlantedNetwork, split: Split, dtype: torch.dtype) -> Outputs:
    generator = torch.Generator().manual_seed(_SEEDS[split])
    count, units, classes = _COUNTS[split], network.units, network.classes
    ood = split in ("negatives", "ood")
    labels = torch.arange(count) % classes

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    pattern, silent = _pattern(network), network.silent
    if ood:
        features = torch.cat(
            [0.6 * (normal(units - silent) - 1).relu(), 2 * (normal(silent) - 0.5).relu()], dim=1
        )
    else:
        features = (0.5 + pattern[labels] + 0.2 * normal(units)).relu()
        features[:, -silent:] = 0.05 * normal(silent).abs()
        features *= 1 + 0.1 * normal(1).clamp(-2, 2)
    if split == "other":
        features = 3 * features
        features[:, -silent:] += 2
    feature_map = features[:, :, None, None]
    if network.spatial:
        left, right = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 2.0]).double()
        even = torch.arange(units)[:, None] % 2 == 0
        place = torch.where(even, left, left if ood else right)
        feature_map = (features[:, :, None] * place)[:, :, None, :].repeat(1, 1, 2, 1)
    early = (features @ _mixing(units) / 10)[:, :, None, None] + 0.1 * normal(_EARLY, 3, 3)
    given = None
    if split in ("fit", "validation", "other"):
        given = labels.clone()
        given[::40] = (given[::40] + 1) % classes  # or a calibrated temperature would be zero
    outputs = Outputs(
        logits=torch.empty(0),
        features=features,
        taps={"early": early.mean(dim=(2, 3)), "late": features},
        labels=given,
        head=network.head(features.to(dtype)),
        feature_map=feature_map,
        tap_maps={"early": early, "late": feature_map},
        input_gradients={IMAGES: features.reshape(count, 2, -1, 5)},
        replaced_logits={"early": early, "late": feature_map},
        local_features=feature_map.flatten(2).transpose(1, 2),
        tap_gradients={"early": early, "late": feature_map, FEATURES: features},
        perturbed=Outputs(features, features),
        rotation_logits=_rotations(count, ood),
    ).map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return outputs.replaced(logits=network.logits(outputs.features), language=_language(network))


def planted_language(class_features: Tensor) -> Language:
    """A text encoder that gives each text a direction of its own, with every unit positive.

    Args:
        class_features: text features of the classes, of any length, shape [C, D].
    """
    classes, units = class_features.shape
    names = tuple(f"class {index}" for index in range(classes))
    encode = functools.partial(_encode, units)  # outputs with it can be pickled
    return Language(names, F.normalize(class_features.double(), dim=1), encode, 100.0)


def _encode(units: int, texts: Sequence[str]) -> Tensor:
    return _encoded(units, tuple(texts)).clone()


@functools.lru_cache(maxsize=4)  # lists of words are long
def _encoded(units: int, texts: tuple[str, ...]) -> Tensor:
    codes = torch.tensor([zlib.crc32(text.encode()) % 10_007 for text in texts]).double()
    waves = torch.sin(codes[:, None] * (1 + torch.arange(units)))
    return F.normalize(1 + waves, dim=1)


@functools.cache
def _language(network: PlantedNetwork) -> Language:
    return planted_language(_pattern(network))


def _rotations(count: int, ood: bool) -> Tensor:
    """Logits of a rotation head, [B, 4, 4]; right more often for ID images."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.randn(count, 4, 4, generator=generator, dtype=torch.float64)
    return noise + (1.0 if ood else 4.0) * torch.eye(4, dtype=torch.float64)


@functools.cache
def _mixing(units: int) -> Tensor:
    """What the early tap sees of the units, shape [D, D_early]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(units, _EARLY, generator=generator, dtype=torch.float64)


def _pattern(network: PlantedNetwork) -> Tensor:
    """How much more active a unit is for a class, shape [C, D]."""
    units = torch.arange(network.units)
    strength = torch.where(units % 2 == 0, 3.0, 2.0).double()
    return strength * (units // network.own == torch.arange(network.classes)[:, None])


@functools.cache
def _last_layer(network: PlantedNetwork) -> tuple[Tensor, Tensor]:
    pattern, classes, silent = _pattern(network), network.classes, network.silent
    own = (pattern > 0).double()
    own[:, -silent:] = 0
    others = 1 - own
    others[:, -silent:] = 0
    bias = torch.linspace(-0.1, 0.1, classes, dtype=torch.float64)
    weight = 3 * (own / network.own - others / network.own / (classes - 1))
    return (weight, bias) if network.kind == "linear" else (pattern + 0.5 * (own + others), bias)
