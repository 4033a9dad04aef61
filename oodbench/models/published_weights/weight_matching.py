"""The weights of a file by the names of a network: without the prefixes of wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What DataParallel, torch.compile, Lightning modules and others put before names."""

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
