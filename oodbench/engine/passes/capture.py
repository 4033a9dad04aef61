"""What a forward pass captures beside logits and features: taps, maps, reduced layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from oodbench.detector import Detector
from oodbench.detector.info import PENULTIMATE
from oodbench.engine.passes.dropout_passes import DropoutPasses
from oodbench.models.activations import in_usual_order
from oodbench.models.ensemble import MemberLogits
from oodbench.models.layers import Layer

SampledLogits = DropoutPasses | MemberLogits
"""Where several logits for each image come from."""

LOGITS = "logits"
"""Name of the place at the end of the network."""


FEATURES = PENULTIMATE
"""Name of the input of the last layer; a tap cannot have it."""


@dataclass(frozen=True, slots=True)
class LayerReader:
    """A method that reduces layers while the network runs.

    Attributes:
        method: its name.
        layers: the layers that it chose.
        detector: reduces an activation [B, ...] to a smaller tensor [B, ...].
    """

    method: str
    layers: tuple[Layer, ...]
    detector: Detector

    @property
    def read(self) -> tuple[Layer, ...]:
        """The layers that the detector has not dropped since it chose them."""
        return tuple(each for each in self.layers if each.name not in self.detector.dropped_layers)


@dataclass(frozen=True, slots=True)
class KeptTaps:
    """The feature layers whose activations a pass keeps, for what detectors do from there.

    Attributes:
        replaced: those that are replaced, and those before them.
        differentiated: those that gradients are taken for, with "features".
        errors: method -> what went wrong where a detector could not choose.
    """

    replaced: tuple[str, ...]
    differentiated: tuple[str, ...]
    errors: Mapping[str, Exception]


_READ_FEATURES = frozenset({"features", "feature_map", "tap_gradients"})
"""Needs of detectors that read the penultimate features, or may."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What a runner captures beside logits and features.

    Attributes:
        taps: every tap, pooled.
        tap_maps: every tap as it is.
        feature_map: the map before pooling.
        map_name: name of the module that gives it (`models.feature_map.find_map`); None if none
            does.
        readers: methods that reduce layers while the network runs.
        kept: taps whose output is kept, as the module gave it, until the next forward pass, so
            that `NetworkRunner.resumed` need not compute it again.
        local_features: features of patches.
        sampled: needs of several logits for each image, and where these come from.
        differentiated: taps, or "features", that gradients are taken for.
        features: the penultimate features; False leaves out a pass that they would take.
    """

    taps: bool = False
    tap_maps: bool = False
    feature_map: bool = False
    map_name: str | None = None
    readers: tuple[LayerReader, ...] = ()
    kept: tuple[str, ...] = ()
    local_features: bool = False
    sampled: tuple[tuple[str, SampledLogits], ...] = ()
    differentiated: tuple[str, ...] = ()
    features: bool = True

    @property
    def keeps_outputs(self) -> bool:
        """Whether outputs of taps are kept as they are, which the network may then change."""
        return self.tap_maps or bool(self.kept or self.differentiated)

    def absent(
        self, captured: Captured, taps: Iterable[str], reading: Set[str]
    ) -> dict[str, list[str]]:
        """Method -> layers that it chose and that did not run; "" -> taps that did not.

        Args:
            captured: in a pass.
            taps: of the network.
            reading: methods that read layers in the pass.
        """
        seen = captured.taps if self.taps else captured.tap_maps
        wanted = taps if self.taps or self.tap_maps else ()
        absent = {"": [tap for tap in wanted if tap not in seen]}
        for reader in self.readers:
            if reader.method in reading:
                reduced = captured.reduced.get(reader.method, {})
                absent[reader.method] = [e.name for e in reader.read if e.name not in reduced]
        return {method: layers for method, layers in absent.items() if layers}

    @staticmethod
    def of(
        needs: Set[str],
        map_name: str | None = None,
        readers: Iterable[LayerReader] = (),
        kept: KeptTaps | None = None,
        sampled: Iterable[tuple[str, SampledLogits]] = (),
        *,
        features_apart: bool = False,
    ) -> Capture:
        """What detectors need that declare `needs`.

        Args:
            needs: of all detectors.
            map_name: as the attribute.
            readers: as the attribute.
            kept: feature layers that are kept.
            sampled: as the attribute.
            features_apart: whether features take a pass of their own (`Network.features_apart`).
        """
        feature_map = "feature_map" in needs
        return Capture(
            "taps" in needs,
            "tap_maps" in needs,
            feature_map,
            map_name if feature_map else None,
            tuple(readers) if "layers" in needs else (),
            () if kept is None else kept.replaced,
            "local_features" in needs,
            tuple(each for each in sampled if each[0] in needs),
            () if kept is None else kept.differentiated,
            not features_apart or bool(needs & _READ_FEATURES),
        )


NOTHING = Capture()


@dataclass(frozen=True, slots=True)
class Activation:
    """A feature layer's activation in the graph of a forward pass.

    Attributes:
        value: detached, its axes in the usual order (`oodbench.models.activations`).
        edge: its place in the graph. What the network does to the activation in place comes after.
        axis: axis of its channels, where it is not the usual one.
    """

    value: Tensor
    edge: GradientEdge
    axis: int | None = None

    def in_usual_order(self, gradient: Tensor) -> Tensor:
        """A gradient with respect to the activation, with the axes of `value`."""
        return in_usual_order(gradient, self.axis)


@dataclass(slots=True)
class Captured:
    """Activations that the hooks caught in one forward pass.

    Attributes:
        images: number of images in the batch.
        versions: versions of the captured maps of taps, if these are the network's own tensors.
        calls: module -> how often it has run.
        reduced: method -> layer -> reduced activation.
        kept: tap -> what its module gave, and its version then, in the order of the calls; None for
            one that ran twice, or gave something else than a tensor.
        activations: taps, and "features", that gradients are taken for.
    """

    images: int
    features: Tensor | None = None
    feature_map: Tensor | None = None
    local_features: Tensor | None = None
    taps: dict[str, Tensor] = field(default_factory=dict)
    tap_maps: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    reduced: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, tuple[Tensor, int] | None] = field(default_factory=dict)
    activations: dict[str, Activation] = field(default_factory=dict)

    def keep(self, tap: str, given: Any) -> None:
        """Keep what a tap's module gave."""
        again = tap in self.kept
        self.kept.pop(tap, None)  # the order is that of the last call
        plain = isinstance(given, Tensor) and not given.is_inference() and not again
        self.kept[tap] = (given.detach(), given._version) if plain else None

    def unchanged(self) -> dict[str, Tensor | None]:
        """What was kept, None for what the network has worked on in place since."""
        return {
            tap: each[0] if each is not None and each[0]._version == each[1] else None
            for tap, each in self.kept.items()
        }

    def differentiate(self, name: str, output: Tensor, axis: int | None, *, copied: bool) -> None:
        """Keep what gradients are taken for.

        Args:
            name: a tap, or "features".
            output: the activation that its module gave, with its graph.
            axis: axis of its channels, where it is not the usual one.
            copied: whether the network may change it in place.
        """
        value = in_usual_order(output.detach(), axis)
        if not copied:
            self.versions[name] = value._version
        kept = Activation(value.clone() if copied else value, get_gradient_edge(output), axis)
        self.activations[name] = kept

    @property
    def overwritten(self) -> bool:
        """Whether the network has worked in place on a map that it gave before."""
        values = {**self.tap_maps, **{n: each.value for n, each in self.activations.items()}}
        return any(values[name]._version != old for name, old in self.versions.items())


def pooled(activation: Tensor) -> Tensor:
    """An activation averaged over places, shape [B, D].

    Args:
        activation: shape [B, D], [B, tokens, D] (a transformer's) or [B, D, ...] (a map).
    """
    if activation.ndim == 3:
        return activation.mean(dim=1)
    return activation.flatten(2).mean(dim=2) if activation.ndim > 3 else activation
