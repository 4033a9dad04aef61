"""Classifiers that oodbench did not write, with their last layer and their taps named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.detector import Language
from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.losses import DistanceHead
from oodbench.models.classifier import Network

RESERVED = frozenset({"logits", "features"})
"""What the engine calls a network's output and the input of its last layer."""


class AdaptedNetwork(Network):
    """A classifier of any kind, with its taps and its last layer named.

    Args:
        module: maps normalized images [B, channels, H, W] to logits [B, C].
        tap_names: names of modules inside it whose output is a tap, in order.
        head_name: name of the module inside it that is its last layer; None if it is not known.
        opaque_head: whether the logits differ from what the last layer's weights give.
    """

    output_hint = "Wrap it in a module that returns the logits alone."

    def __init__(
        self,
        module: nn.Module,
        tap_names: Sequence[str],
        head_name: str | None,
        *,
        opaque_head: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.tap_names = tuple(tap_names)
        self.head_name = head_name
        self.opaque_head = opaque_head

    # Properties and no sub-modules: a layer that is registered twice is stored twice.
    @property
    def head(self) -> nn.Module | None:  # type: ignore[override]
        """The last layer, where it is in the module; None if it is not known."""
        return None if self.head_name is None else self.module.get_submodule(self.head_name)

    @property
    def tap_modules(self) -> dict[str, nn.Module]:
        """Name -> module whose output is the tap, in order."""
        return {name: self.module.get_submodule(name) for name in self.tap_names}

    @property
    def language(self) -> Language | None:  # type: ignore[override]
        """The text side of the module; None if it is no vision-language model."""
        return self.module.language if isinstance(self.module, Network) else None

    @property
    def has_local_features(self) -> bool:  # type: ignore[override]
        """Whether the module gives features of patches."""
        return isinstance(self.module, Network) and self.module.has_local_features

    def watch_local_features(self, take: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """Call `take` with features of patches [B, P, D] in each forward pass."""
        return self.module.watch_local_features(take) if isinstance(self.module, Network) else []

    @property
    def name(self) -> str:
        """The name of the module in messages."""
        return type(self.module).__name__

    def call(self, images: Tensor) -> Any:
        """What the module returns for normalized images."""
        return self.module(images)

    def logits_of(self, returned: Any, images: Tensor) -> Any:
        """The logits in what the module returned, or whatever is in their place."""
        return as_logits(returned, images)

    def check_classes(self, classes: int) -> None:
        """Refuse a number of logits that the last layer does not give.

        Raises:
            UserError: if the numbers differ.
        """
        expected = getattr(self.head, "out_features", classes)
        if classes != expected:
            raise UserError(
                f"The network {self.name} returned {classes} logits, and "
                f"its last layer '{self.head_name}' gives {expected}.",
                "Its last layer must be the one that was made last and that gives the logits.",
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, channels, H, W].

        Raises:
            UserError: if the module returns something else, or another number of logits than
                expected.
        """
        logits = self.logits_of(self.call(images), images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            returned, hint = described(logits), self.output_hint
            if isinstance(logits, Tensor):
                returned = f"a tensor of shape {list(logits.shape)}"
                if logits.ndim == 1 and len(images) == 1:
                    returned += " for a batch of one image"
                    hint = (
                        "Something in it, such as squeeze(), drops the axis of a batch of one: "
                        "use flatten(1) there, or a batch size that leaves no image over."
                    )
            raise UserError(
                f"The network {self.name} returned {returned}, not logits [images, classes].", hint
            )
        self.check_classes(logits.shape[1])
        return logits


def as_logits(value: Any, images: Tensor) -> Any:
    """Logits as a tensor [B, C]: from numpy, and without axes of size one after the classes.

    Args:
        value: a tensor, an array, or anything else, which is returned as it is.
        images: the images of the batch; an array is moved to their device.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.as_tensor(value, device=images.device)
    if isinstance(value, Tensor) and value.ndim > 2 and value.shape[2:].numel() == 1:
        value = value.flatten(1)
    return value


def described(returned: Any) -> str:
    """The type of a value that a model returned, with the names of its entries."""
    text = kind_of(returned)
    if isinstance(returned, Mapping):
        return f"{text} with the keys {', '.join(map(repr, returned))}"
    return f"{text} of {len(returned)}" if isinstance(returned, tuple | list) else text


def adapt(module: nn.Module, *, taps: Sequence[str] = (), head: str | None = None) -> Network:
    """A trained classifier as a network of oodbench; the module itself is not changed.

    Args:
        module: maps normalized images [B, channels, H, W] to logits [B, C].
        taps: names of modules inside it (`module.named_modules()`) whose output is a tap, in the
            order of the network. There is no default: the ends of stages are not known
            before the network runs. Without taps, detectors that need them do not run.
        head: name of its last layer; default: its last linear (or distance) layer, in the order in
            which its constructor made them.

    Returns:
        A network that shares the module's weights.

    Raises:
        UserError: if a name is unknown, or no last layer is found.
    """
    if isinstance(module, Network) and not taps and head is None:
        return module
    if head is None:
        head = last_layer(module)
    else:
        _check_names(module, (head,))
    check_taps(module, taps)
    # Only running the network shows whether a convolution is followed by linear steps only.
    opaque = not isinstance(module.get_submodule(head), nn.Linear | DistanceHead)
    return AdaptedNetwork(module, taps, head, opaque_head=opaque)


def last_layer(module: nn.Module) -> str:
    """Name of the last linear or distance layer in the order of registration.

    Raises:
        UserError: if there is none.
    """
    layers = (nn.Linear, DistanceHead)
    found: list[str] = [name for name, part in module.named_modules() if isinstance(part, layers)]
    if not found:
        raise UserError(
            f"The network {type(module).__name__} has no linear layer, and so no known last layer.",
            "Use a network that ends in a torch.nn.Linear, or name its last layer with "
            "oodbench.models.adapt(module, head=...).",
        )
    return found[-1]


def check_taps(module: nn.Module, taps: Sequence[str]) -> None:
    """Refuse taps that are not modules, or have a name that the engine uses.

    Raises:
        UserError: if there is such a tap.
    """
    _check_names(module, taps)
    for tap in taps:
        if tap in RESERVED:
            inside = [f"{tap}.{name}" for name, _ in module.get_submodule(tap).named_children()]
            raise UserError(
                f"No tap can be called '{tap}': that name is taken.",
                f"Name a module inside it, such as '{inside[-1]}'." if inside else "",
            )


def _check_names(module: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            # For a hint, names at the same depth are enough.
            level = [other for other in known if other.count(".") <= name.count(".")]
            raise UserError(
                f"The network {type(module).__name__} has no module '{name}'.",
                did_you_mean(name, level),
            )
