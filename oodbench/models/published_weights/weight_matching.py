"""The weights of a file in a network: names without the prefixes of wrappers, shapes compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from oodbench import losses
from oodbench.errors import UserError, counted, listed
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Network
from oodbench.models.published_weights.weights_file import FileWeights
from oodbench.models.registry import HEADS

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What DataParallel, torch.compile, Lightning modules and others put before names."""

_COUNTERS = "num_batches_tracked"
"""Buffers of BatchNorm that evaluation does not use; files of old versions of torch lack them."""


_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Names in torchvision's files of DenseNets: older than Python modules, which take no dots."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Weights of a file with the names of a network.

    Attributes:
        tensors: name in the network -> tensor.
        prefix: what was removed from the names.
        left: names in the file that belong to something beside the network.
    """

    tensors: Mapping[str, Tensor]
    prefix: str
    left: tuple[str, ...]


def load_weights(
    network: Network, found: FileWeights, what: str, *, head: str = "softmax"
) -> tuple[str, ...]:
    """Load the weights of a file into a network.

    Args:
        network: with its own weights, which are replaced.
        found: the weights.
        what: name of the network, for messages.
        head: name of the head that the network has.

    Returns:
        What was taken of the file, in words.

    Raises:
        UserError: the weights are those of another architecture, of another head or of another
            number of classes.
    """
    module = network.module if isinstance(network, AdaptedNetwork) else network
    own = module.state_dict()
    matched = match(found.tensors, own)
    last = _last_layer(network, module)
    _check(found, matched, own, last, what, head)
    module.load_state_dict(dict(matched.tensors), strict=False)
    return _taken(found, matched)


def match(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Matched:
    """The tensors of a file by the names of a network.

    The prefix is removed without which most names of the network are found. Names that do not
    have it stay if the network has them (a head beside a backbone); the others belong to something
    beside the network, such as a loss.

    Args:
        tensors: those of the file.
        own: the network's parameters and buffers.
    """
    names = {_OLD_DENSENET.sub(r"\1\2.", name): name for name in tensors}
    best = _without("", names, own)
    for prefix in _chains(names):
        found = _without(prefix, names, own)
        if sum(name in own for name in found[0]) > sum(name in own for name in best[0]):
            best = found
    kept, prefix, left = best
    return Matched({name: tensors[source] for name, source in kept.items()}, prefix, left)


def _chains(names: Iterable[str], before: str = "") -> Iterator[str]:
    """Prefixes that names begin with, one after another, the shorter ones first."""
    for prefix in PREFIXES:
        chain = before + prefix
        if any(name.startswith(chain) for name in names):
            yield chain
            yield from _chains(names, chain)


def _without(
    prefix: str, names: Mapping[str, str], own: Mapping[str, Tensor]
) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Names without a prefix, with their source; and the sources that belong to something else."""
    inside = {
        name.removeprefix(prefix): source
        for name, source in names.items()
        if name.startswith(prefix)
    }
    beside = {name: source for name, source in names.items() if not name.startswith(prefix)}
    kept = {name: source for name, source in beside.items() if name in own} | inside
    left = tuple(source for name, source in beside.items() if name not in own)
    return kept, prefix, left


def _last_layer(network: Network, module: nn.Module) -> str:
    """The name of the last layer within the module; "" if it is not known."""
    head = network.head
    return next((name for name, part in module.named_modules() if part is head and name), "")


def _check(
    found: FileWeights,
    matched: Matched,
    own: Mapping[str, Tensor],
    last: str,
    what: str,
    head: str,
) -> None:
    tensors = matched.tensors
    missing = [name for name in own if name not in tensors and not name.endswith(_COUNTERS)]
    unexpected = [name for name in tensors if name not in own and not name.endswith(_COUNTERS)]
    misshaped = [name for name in tensors if name in own and tensors[name].shape != own[name].shape]
    if not (missing or unexpected or misshaped):
        return
    inside = f"{last}." if last else "\0"
    if not missing and not unexpected and all(name.startswith(inside) for name in misshaped):
        name = misshaped[0]
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
    parts = [
        f"it lacks {counted(len(missing), 'name')}, the first {missing[0]}" if missing else "",
        f"it has {counted(len(unexpected), 'name')} too many, the first {unexpected[0]}"
        if unexpected
        else "",
        f"{counted(len(misshaped), 'shape')} differ{'s' if len(misshaped) == 1 else ''}, the first "
        f"of {misshaped[0]}: {_shape(tensors[misshaped[0]])} instead of "
        f"{_shape(own[misshaped[0]])}"
        if misshaped
        else "",
    ]
    raise UserError(
        f"Checkpoint {found.path} is of another architecture than network '{what}': "
        f"{'; '.join(part for part in parts if part)}.",
        "Choose the network whose names and shapes the checkpoint has (`oodbench list models`)."
        + (
            f" Prefix '{matched.prefix}' was removed from the names in the file."
            if matched.prefix
            else ""
        ),
    )


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


def _taken(found: FileWeights, matched: Matched) -> tuple[str, ...]:
    """What was taken of a file, in words; nothing if it holds the network's weights alone."""
    texts = []
    if found.entry:
        beside = f" (not {listed(map(repr, found.others))})" if found.others else ""
        texts.append(f"entry '{found.entry}'{beside}")
    if matched.prefix:
        texts.append(f"without the prefix '{matched.prefix}'")
    if matched.left:
        count = counted(len(matched.left), "other tensor")
        texts.append(f"not read: {count} ({listed(matched.left, 2)})")
    return tuple(texts)
