"""The methods that both libraries have, with equal parameters, and the lists that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from speed.contest.case import CLASSES, STD
from torch import Tensor, nn

import oodbench
from oodbench.detector import Detector, head_obstacle
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog


class Parts:
    """The network in the parts that pytorch-ood's detectors are made of, on normalized images."""

    def __init__(self, classifier: Classifier) -> None:
        self.model = classifier.network
        self.layers = list(self.model.tap_modules.values())
        self.fc: nn.Linear = self.model.head
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = self._features  # one object: their cache tells producers apart by it

    def maps(self, x: Tensor) -> Tensor:
        """Maps before pooling, shape [B, D, H, W]."""
        for layer in self.layers:
            x = layer(x)
        return x

    def _features(self, x: Tensor) -> Tensor:
        """Penultimate features, shape [B, D]."""
        return self.maps(x).mean(dim=(2, 3))

    def from_maps(self, maps: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        return self.fc(maps.mean(dim=(2, 3)))


@dataclass(frozen=True)
class Pair:
    """One method in both libraries.

    Attributes:
        name: its class in pytorch-ood.
        make: makes it there.
        ours: parameters of oodbench's detector.
        validation: fitted on validation images.
        core: of logits or pooled features: one of the thirteen that one starts with.
    """

    name: str
    make: Callable[[Any, Parts], Any]
    ours: Mapping[str, Any]
    validation: bool = False
    core: bool = False


def pair(
    name: str,
    make: Callable[[Any, Parts], Any] | None = None,
    *,
    validation: bool = False,
    core: bool = False,
    **ours: Any,
) -> Pair:
    return Pair(name, make or (lambda cls, parts: cls(parts.model)), ours, validation, core)


def of_features(cls: Any, parts: Parts) -> Any:
    return cls(parts.features)


def of_features_and_head(cls: Any, parts: Parts) -> Any:
    return cls(parts.features, parts.fc)


def of_maps(cls: Any, parts: Parts) -> Any:
    return cls(backbone=parts.maps, head=parts.from_maps)


STEP = 0.0014

PAIRS: Mapping[str, Pair] = {
    "baseline": pair("MaxSoftmax", core=True),
    "max_logit": pair("MaxLogit", core=True),
    "energy": pair("EnergyBased", core=True),
    "entropy": pair("Entropy", core=True),
    "gen": pair("GEN", core=True),
    "kl_matching": pair("KLMatching", validation=True, core=True),
    "mahalanobis_single": pair("Mahalanobis", of_features, core=True),
    "relative_mahalanobis": pair("RMD", of_features, core=True),
    "knn": pair("KNN", of_features, core=True, k=50),
    "vim": pair(
        "ViM",
        lambda cls, parts: cls(parts.features, d=32, w=parts.fc.weight, b=parts.fc.bias),
        core=True,
        dim=32,
    ),
    "dice": pair(
        "DICE",
        lambda cls, parts: cls(parts.features, w=parts.fc.weight, b=parts.fc.bias, p=0.65),
        core=True,
        p=0.65,
    ),
    "she": pair("SHE", of_features_and_head, core=True),
    "react": pair("ReAct", of_maps, core=True, on="map", percentile=0.9),
    "temperature_scaling": pair("TemperatureScaling", validation=True),
    "openmax": pair("OpenMax", tail_size=25, alpha=10),
    "nnguide": pair("NNGuide", of_features_and_head, k=10),
    "fdbd": pair("fDBD", of_features_and_head),
    "nci": pair("NCI", of_features_and_head),
    "lts": pair("LTS", of_features_and_head),
    "pnml": pair("PNML", of_features_and_head),
    "ash": pair("ASH", of_maps, on="map", percentile=0.65),
    "scale": pair("SCALE", of_maps, on="map", percentile=0.65),
    "vra": pair("VRA", of_maps),
    "rankfeat": pair("RankFeat", of_maps),
    "gram": pair(
        "Gram",
        lambda cls, parts: cls(
            head=nn.Sequential(parts.pool, parts.fc),
            feature_layers=parts.layers,
            num_classes=CLASSES,
        ),
        powers=4,
        layers="taps",
        divide_by_confidence=False,
    ),
    # --- with gradients, or of several layers: compared one by one
    "odin": pair(
        "ODIN",
        lambda cls, parts: cls(parts.model, norm_std=list(STD), eps=STEP, temperature=1000.0),
        epsilon=STEP,
        temperature=1000.0,
    ),
    "mahalanobis": pair("MultiMahalanobis", lambda cls, parts: cls(parts.layers), epsilon=0.0),
}

OURS = tuple(
    name
    for name, status in Catalog().detectors.items()
    if status.info is not None
    and status.info.shares_forward
    and head_obstacle(status.info.needs, "linear", "resnet20") is None
)
"""Every detector of oodbench that needs one forward pass, and no other head."""

WITHOUT_GRADIENTS = tuple(name for name in PAIRS if name not in ("odin", "mahalanobis"))
CORE = tuple(name for name, each in PAIRS.items() if each.core)
ALL = f"all {len(WITHOUT_GRADIENTS)} detectors of both"
CATALOG = f"all {len(OURS)} detectors of oodbench"
COMPARED = {f"{len(CORE)} detectors marked *": CORE, ALL: WITHOUT_GRADIENTS}
LISTS = {**COMPARED, CATALOG: OURS}
OVER_BARE = dict(zip(LISTS, (0.9, 1.1, 1.5), strict=True))
"""Goals: at most this many times the bare forward."""

SHARED = {list_name: f"{list_name}, shared" for list_name in COMPARED}


def our_detector(name: str) -> Detector:
    """A detector, with pytorch-ood's parameters if it has the detector."""
    return oodbench.load_detector(name, **(PAIRS[name].ours if name in PAIRS else {}))
