"""What a detector declares: its names, its paper, its needs and its search space."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

Need = Literal[
    "features",  # the penultimate features (the input of the last layer)
    "feature_map",  # the map whose spatial mean is the penultimate features
    "taps",  # every feature layer, averaged over space: a feature ensemble
    "tap_maps",  # every feature layer before the average
    "layers",  # every convolution and activation, reduced during the forward pass
    "labels",  # true labels while fitting
    "head",  # the weights of a linear last layer
    "dismax_head",  # a network trained with a DisMax-type (distance) head
    "input_gradient",  # a `PerturbingDetector`: a gradient step on the image before it is scored
    "perturbed",  # the outputs after that step beside those before it, also while fitting
    "input_gradients",  # gradients of losses with respect to the image, used by `score`
    "tap_gradients",  # gradients with respect to feature layers, reduced, also while fitting
    "replaced_logits",  # the network's logits after the detector replaced a feature layer's output
    "language",  # a vision-language model: text features of the classes, and its text encoder
    "local_features",  # features of the patches of an image, in the space of its text features
    "member_logits",  # the logits of each member of an ensemble; not while fitting
    "dropout_logits",  # the logits of several passes with dropout; not while fitting
    "rotations",  # the rotation head's logits of the image in four orientations
    "fit",  # a pass over the training images before scoring
    "validation",  # a pass over labeled validation images, after `fit`
    "calibration",  # a model of the detector's own, trained on tuning data
]
NEEDS: tuple[str, ...] = get_args(Need)

PENULTIMATE = "features"
"""Name of the penultimate features among feature layers; no feature layer can have it."""

Family = Literal[
    "logits", "features", "shaping", "layers", "gradients", "sampling", "heads", "vision-language"
]
FAMILIES: Mapping[Family, str] = MappingProxyType(
    {
        "logits": "Logits and probabilities",
        "features": "Penultimate features",
        "shaping": "Shaped features and weights",
        "layers": "Feature layers",
        "gradients": "Gradients and perturbed images",
        "sampling": "Several passes or networks",
        "heads": "Networks trained for detection",
        "vision-language": "Vision-language models",
    }
)
"""Family of detectors -> its title in lists, in their order."""

_FAMILY_OF_NEEDS: Mapping[Family, frozenset[str]] = MappingProxyType(
    {
        "vision-language": frozenset({"language", "local_features"}),
        "heads": frozenset({"dismax_head", "rotations"}),
        "shaping": frozenset({"replaced_logits"}),
        "layers": frozenset({"taps", "tap_maps", "layers"}),
        "gradients": frozenset({"input_gradient", "input_gradients", "tap_gradients"}),
        "sampling": frozenset({"dropout_logits", "member_logits"}),
        "features": frozenset({"features", "feature_map"}),
    }
)
"""Family -> needs, of which a detector of this family has one; the first that fits."""


def family_of(needs: Set[str]) -> Family:
    """The family of a detector that declares none."""
    return next((family for family, some in _FAMILY_OF_NEEDS.items() if some & needs), "logits")


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What `register` declares of a detector. Every field is a literal in the detector's file.

    Attributes:
        name: the detector's name, equal to the stem of its file. Records hold this name.
        label: short name in the names of methods ("MSP" in "SoftMax+MSP").
        title: full title for lists.
        aliases: other names that work wherever the name does.
        paper: title of the paper.
        authors: the paper's authors, in order.
        venue, year, url: where the paper was published, when, and its address.
        code: address of the authors' repository; empty if there is none, or none is known.
        needs: what it needs beyond the logits (see `Need`).
        search_space: parameter -> values tried when it is tuned.
        family: what it works on, which lists are ordered by.
        nonnegative_features: whether its formula assumes that features are not negative, as those
            of a ReLU are. Reports warn where they are negative.
        layerwise: whether it is a `LayerwiseDetector`, with the parameters `layers` and `combine`.
    """

    name: str
    label: str
    title: str
    aliases: tuple[str, ...] = ()
    paper: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""
    year: int | None = None
    url: str = ""
    code: str = ""
    needs: frozenset[str] = frozenset()
    search_space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    family: Family = "logits"
    nonnegative_features: bool = False
    layerwise: bool = False

    def given(self, arguments: Mapping[str, Any]) -> DetectorInfo:
        """The declaration of a detector with some arguments: a layerwise one reads its layers.

        Args:
            arguments: of the constructor.
        """
        layers = arguments.get("layers") if self.layerwise else None
        if layers is None:
            return self
        names = {layers} if isinstance(layers, str) else set(layers)
        needs = self.needs - {"features"}
        needs |= {"features" if name == PENULTIMATE else "taps" for name in names}
        if arguments.get("combine", "mean") != "mean":
            needs |= {"validation"}
        return replace(self, needs=needs)

    def layers_obstacle(self, arguments: Mapping[str, Any], taps: Collection[str]) -> str | None:
        """Why a layerwise detector with some arguments cannot run on a network, or None.

        Args:
            arguments: of the constructor.
            taps: names of the network's feature layers.
        """
        layers = arguments.get("layers") if self.layerwise else None
        names = (layers,) if isinstance(layers, str) else layers or ()
        for name in names:
            if name not in ("all", PENULTIMATE, *taps):
                known = ", ".join([*taps, PENULTIMATE])
                return f"layers: the network has no feature layer '{name}'. It has: {known}"
        return None

    @property
    def reference(self) -> str:
        """Venue and year, as in "ICLR 2018"."""
        return f"{self.venue} {self.year or ''}".strip()

    @property
    def shares_forward(self) -> bool:
        """Whether one forward pass of one network gives all that it needs.

        A detector that replaces feature layers counts, since it may replace none.
        """
        own_passes = {
            "input_gradient",
            "perturbed",
            "input_gradients",
            "tap_gradients",
            "dropout_logits",
            "member_logits",
        }
        return self.needs.isdisjoint(own_passes)

    @property
    def export_obstacle(self) -> str | None:
        """Why its score is not exported with the network as one graph; None if it is.

        A detector with the need "input_gradient" is exported if its `epsilon` is 0.
        """
        reasons = {
            "input_gradient": "moves images along a gradient; a graph has forward passes only",
            "input_gradients": "takes gradients of the images; a graph has forward passes only",
            "tap_gradients": "takes gradients of feature layers; a graph has forward passes only",
        }
        return next((reasons[need] for need in reasons if need in self.needs), None)

    @property
    def cost_class(self) -> str:
        """Cost of one image at inference, in passes of the network, as declared."""
        if "input_gradient" in self.needs:
            return "forward + backward + forward" + (" per tap" if "taps" in self.needs else "")
        parts = {
            "input_gradients": " + backward",
            "tap_gradients": " + part of a backward",
            "replaced_logits": " + part of a forward",
            "dropout_logits": " + part of a forward per sample",
        }
        first = "4 forwards" if "rotations" in self.needs else "forward"
        return first + "".join(parts[need] for need in parts if need in self.needs)
