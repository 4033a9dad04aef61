"""The structure that was found in a user's model: stored, and given to the same model again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from oodbench.deploy.artifact.artifact_description import StructurePart
from oodbench.errors import UserError
from oodbench.models.classifier import Network
from oodbench.models.structure.user_network import UserNetwork


def structure_part(network: Network) -> StructurePart | None:
    """What an artifact keeps of a network; None for one that names its layers itself."""
    if not isinstance(network, UserNetwork):
        return None
    given = {
        "output": network.output,
        "inputs": network.inputs,
        "features": network.features_function,
    }
    return StructurePart(
        taps=list(network.tap_names),
        head=network.head_name,
        features=network.features_name,
        opaque_head=network.opaque_head,
        channel_axes=dict(network.channel_axes),
        tap_reason=network.tap_reason,
        head_note=network.head_note,
        output=None if callable(network.output) else network.output,
        inputs=None if callable(network.inputs) else network.inputs,
        functions=[name for name, value in given.items() if callable(value)],
    )


def network_with(
    module: nn.Module, structure: StructurePart, num_classes: int, functions: Mapping[str, Any]
) -> UserNetwork:
    """A module with the structure that was found in it.

    Args:
        module: the same as then.
        structure: of an artifact.
        num_classes: C.
        functions: name of an argument -> function of the user's.

    Raises:
        UserError: a function is missing.
    """
    for name in structure.functions:
        if functions.get(name) is None:
            raise UserError(
                f"The detector was fitted with a function as {name}=, which an artifact cannot "
                "hold.",
                f"Give it again: load_fitted(folder, model, {name}=...).",
            )
    given = {name: functions[name] for name in structure.functions}
    return UserNetwork(
        module,
        structure.taps,
        structure.head,
        num_classes,
        features_name=structure.features,
        opaque_head=structure.opaque_head,
        channel_axes=structure.channel_axes,
        tap_reason=structure.tap_reason,
        output=given.get("output", structure.output),
        head_note=structure.head_note,
        inputs=given.get("inputs", structure.inputs),
        features_function=given.get("features"),
    )
