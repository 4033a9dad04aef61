"""Names of networks and heads. Imports no torch: lists and plans read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oodbench.detector import HeadKind


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network that `oodbench.models.create` makes.

    Attributes:
        summary: one line for lists.
        factory: "module:callable", called with make_head, in_channels and `options`.
        options: fixed arguments of the factory.
        macs_32: multiply-adds of its convolutions for one image of 3x32x32; they grow with the
            number of pixels. None: not known.
    """

    summary: str
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    macs_32: float | None = None


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """A last layer and its loss.

    Attributes:
        kind: what a detector sees of it (`oodbench.detector.Head.kind`). "dismax" stands for
            all heads whose logits are minus distances to prototypes; features and prototypes may
            be normalized, and logits scaled, or shifted equally for all classes.
        layer, loss: names of the classes in `oodbench.losses`.
        loss_options: names of the loss's options.
        calibrated: whether the layer has a `temperature`, to be set on validation data after
            training.
    """

    kind: HeadKind
    layer: str
    loss: str
    loss_options: tuple[str, ...] = ()
    calibrated: bool = False


NETWORKS: Mapping[str, NetworkInfo] = {
    "resnet8": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=1, widths 16/32/64; 4 taps",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 1},
        12_500_992,
    ),
    "resnet20": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=3, widths 16/32/64; 4 taps",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 3},
        40_812_544,
    ),
    "resnet18": NetworkInfo(
        "ResNet-18 for small images (3x3 stem, no pooling), widths 64/128/256/512; 5 taps",
        "oodbench.models.resnet:large_resnet",
        {"blocks": (2, 2, 2, 2)},
        555_417_600,
    ),
    "resnet34": NetworkInfo(
        "ResNet-34 for small images (3x3 stem, no pooling), widths 64/128/256/512; 5 taps",
        "oodbench.models.resnet:large_resnet",
        {"blocks": (3, 4, 6, 3)},
        1_159_397_376,
    ),
    "densenet_bc100": NetworkInfo(
        "DenseNet-BC for small images, 100 layers, growth 12; 4 taps",
        "oodbench.models.densenet:densenet",
        {"depth": 100, "growth": 12},
        287_926_272,
    ),
}

HEADS: Mapping[str, HeadInfo] = {
    "softmax": HeadInfo("linear", "SoftMaxHead", "SoftMaxLoss"),
    "dismax": HeadInfo("dismax", "DisMaxHead", "DisMaxLoss", ("alpha",)),
    "isomax_plus": HeadInfo("dismax", "IsoMaxPlusHead", "IsoMaxPlusLoss", ("alpha",)),
    "dismax2022": HeadInfo(
        "dismax",
        "DisMax2022Head",
        "DisMax2022Loss",
        ("alpha", "mixed_quadrants"),
        calibrated=True,
    ),
}

_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_callable_name(network: str) -> bool:
    """Whether a name of a network has the form "module:callable", and so is not one of NETWORKS.

    "torchvision:NAME" stands for torchvision.models:NAME.
    """
    return _CALLABLE.fullmatch(network) is not None
