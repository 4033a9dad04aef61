"""What a forward pass captures beside logits and features: taps, maps, reduced layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from oodbench.detector import Detector
from oodbench.detector.info import PENULTIMATE
from oodbench.engine.passes.dropout_passes import DropoutPasses
from oodbench.models.layers import Layer

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
        dropout: how passes with dropout continue from the shared one.
    """

    taps: bool = False
    tap_maps: bool = False
    feature_map: bool = False
    map_name: str | None = None
    readers: tuple[LayerReader, ...] = ()
    kept: tuple[str, ...] = ()
    local_features: bool = False
    dropout: DropoutPasses | None = None

    @staticmethod
    def of(
        needs: Set[str],
        map_name: str | None = None,
        readers: Iterable[LayerReader] = (),
        kept: Iterable[str] = (),
        dropout: DropoutPasses | None = None,
    ) -> Capture:
        """What detectors need that declare `needs`."""
        feature_map = "feature_map" in needs
        return Capture(
            "taps" in needs,
            "tap_maps" in needs,
            feature_map,
            map_name if feature_map else None,
            tuple(readers) if "layers" in needs else (),
            tuple(kept),
            "local_features" in needs,
            dropout if "dropout_logits" in needs else None,
        )


NOTHING = Capture()


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

    @property
    def overwritten(self) -> bool:
        """Whether the network has worked in place on a map that it gave before."""
        return any(self.tap_maps[name]._version != old for name, old in self.versions.items())


def pooled(activation: Tensor) -> Tensor:
    """An activation averaged over places, shape [B, D].

    Args:
        activation: shape [B, D], [B, tokens, D] (a transformer's) or [B, D, ...] (a map).
    """
    if activation.ndim == 3:
        return activation.mean(dim=1)
    return activation.flatten(2).mean(dim=2) if activation.ndim > 3 else activation
