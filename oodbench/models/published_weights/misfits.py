"""Weights that do not fit a network: what differs first, and which network or head they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench import losses, models
from oodbench.errors import UserError, counted, listed
from oodbench.models.published_weights.weight_matching import Matched, match
from oodbench.models.published_weights.weights_file import FileWeights
from oodbench.models.registry import HEADS, NETWORKS

_COUNTERS = "num_batches_tracked"
"""Buffers of BatchNorm that evaluation does not use; files of old versions of torch lack them."""


@dataclass(frozen=True, slots=True)
class _Differences:
    """Names by which weights differ from a network's.

    Attributes:
        missing: the network has them, the weights do not.
        unexpected: the weights have them, the network does not.
        misshaped: both have them, in different shapes.
    """

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.missing, *self.unexpected, *self.misshaped])


def refuse_misfits(
    found: FileWeights,
    matched: Matched,
    own: Mapping[str, Tensor],
    last: str,
    what: str,
    head: str,
) -> None:
    """Raise an error if weights do not fit.

    Args:
        found: the file that they are from.
        matched: the weights.
        own: the network's parameters and buffers.
        last: name of its last layer; "" if it is not known.
        what: name of the network.
        head: name of the head that the network has.

    Raises:
        UserError: they are those of another architecture, of another head or of another number of
            classes.
    """
    tensors = matched.tensors
    differences = _differences(tensors, own)
    if not list(differences):
        return
    inside = f"{last}." if last else "\0"
    missing, unexpected = differences.missing, differences.unexpected
    if not missing and not unexpected and all(name.startswith(inside) for name in differences):
        name = differences.misshaped[0]
        theirs, ours = tensors[name].shape, own[name].shape
        if theirs[1:] == ours[1:]:
            raise UserError(
                f"Checkpoint {found.path} is of another number of classes: its last layer "
                f"'{last}' has {counted(theirs[0], 'class')}, the ID data set {ours[0]:,}.",
                "Choose a checkpoint that was trained on the benchmark's ID data set.",
            )
    other_head = any(name.startswith(inside) for name in unexpected) or (
        missing and head != "softmax"
    )
    if other_head and all(name.startswith(inside) for name in missing):
        there = listed(unexpected, 2)
        differs = f"it has no {listed(missing, 2)} (it has {there or 'no last layer'})"
        raise UserError(
            f"Checkpoint {found.path} does not fit head '{head}': "
            f"{differs if missing else f'it also has {there}'}.",
            _other_heads({n.removeprefix(inside) for n in tensors if n.startswith(inside)}),
        )
    raise UserError(
        f"Checkpoint {found.path} is of another architecture than network '{what}': "
        f"{_in_words(differences, tensors, own)}.",
        _other_networks(found.tensors, own)
        + (
            f" Prefix '{matched.prefix}' was removed from the names in the file."
            if matched.prefix
            else ""
        ),
    )


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> _Differences:
    shared = [name for name in tensors if name in own]
    return _Differences(
        [name for name in own if name not in tensors and not name.endswith(_COUNTERS)],
        [name for name in tensors if name not in own and not name.endswith(_COUNTERS)],
        [name for name in shared if tensors[name].shape != own[name].shape],
    )


def _in_words(
    differences: _Differences, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str:
    """How many names of each kind there are, and the first."""
    parts = []
    if missing := differences.missing:
        parts.append(f"it lacks {counted(len(missing), 'name')}, the first {missing[0]}")
    if unexpected := differences.unexpected:
        count = counted(len(unexpected), "name")
        parts.append(f"it has {count} too many, the first {unexpected[0]}")
    if misshaped := differences.misshaped:
        count, name = counted(len(misshaped), "shape"), misshaped[0]
        parts.append(
            f"{count} differ{'s' if len(misshaped) == 1 else ''}, the first of {name}: "
            f"{_shape(tensors[name])} instead of {_shape(own[name])}"
        )
    return "; ".join(parts)


def _other_networks(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Which networks for the same images have these names and shapes, but for the last layer."""
    channels = next((each.shape[1] for each in own.values() if each.ndim == 4), 3)
    fitting = [name for name in NETWORKS if _fits(name, tensors, channels)]
    if not fitting:
        return (
            "Choose the network whose names and shapes the checkpoint has (`oodbench list models`)."
        )
    also = f" (or {listed(fitting[1:])})" if fitting[1:] else ""
    return f"Its names and shapes are those of network '{fitting[0]}'{also}: choose that one."


def _fits(name: str, tensors: Mapping[str, Tensor], channels: int) -> bool:
    with torch.device("meta"):
        network = models.create(name, num_classes=2, in_channels=channels)
    own = network.state_dict()
    last = next(each for each, module in network.named_modules() if module is network.head)
    differences = _differences(match(tensors, own).tensors, own)
    return all(each.startswith(f"{last}.") for each in differences)


def _other_heads(names: set[str]) -> str:
    """Which heads have these names of weights."""
    layers = {head: getattr(losses, info.layer)(1, 1) for head, info in HEADS.items()}
    fitting = [head for head, layer in layers.items() if set(layer.state_dict()) == names]
    if not fitting:
        return f"Choose the head that it was trained with: {listed(HEADS, len(HEADS))}."
    also = f" (also of {listed(fitting[1:])})" if fitting[1:] else ""
    return (
        f"Its last layer has the names of head '{fitting[0]}'{also}: write --head {fitting[0]}, "
        f"or in YAML, head: {fitting[0]}."
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
