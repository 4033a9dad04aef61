"""The weights of a file in a network."""

from __future__ import annotations

from torch import nn

from oodbench.errors import counted, listed
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Network
from oodbench.models.published_weights.misfits import refuse_misfits
from oodbench.models.published_weights.weight_matching import Matched, match
from oodbench.models.published_weights.weights_file import FileWeights


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
    refuse_misfits(found, matched, own, last, what, head)
    module.load_state_dict(dict(matched.tensors), strict=False)
    return _taken(found, matched)


def _last_layer(network: Network, module: nn.Module) -> str:
    """The name of the last layer within the module; "" if it is not known."""
    head = network.head
    return next((name for name, part in module.named_modules() if part is head and name), "")


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
