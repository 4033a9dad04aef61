"""Names of networks and heads. Imports no torch: lists and plans read it."""

from __future__ import annotations

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
    """

    summary: str
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """A last layer and its loss.

    Attributes:
        kind: what a detector sees of it (`oodbench.detector.Head.kind`).
        layer, loss: names of the classes in `oodbench.losses`.
        loss_options: names of the loss's options.
    """

    kind: HeadKind
    layer: str
    loss: str
    loss_options: tuple[str, ...] = ()


NETWORKS: Mapping[str, NetworkInfo] = {
    "resnet8": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=1, widths 16/32/64; 4 taps",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 1},
    ),
    "resnet20": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=3, widths 16/32/64; 4 taps",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 3},
    ),
}

HEADS: Mapping[str, HeadInfo] = {
    "softmax": HeadInfo("linear", "SoftMaxHead", "SoftMaxLoss"),
    "dismax": HeadInfo("dismax", "DisMaxHead", "DisMaxLoss", ("alpha",)),
}
