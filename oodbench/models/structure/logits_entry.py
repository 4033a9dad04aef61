"""The logits in what a model returns: a tensor, or one entry of a mapping, a tuple or an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from oodbench.errors import UserError
from oodbench.models.adapted_network import as_logits, described

Output = str | int | Callable[[Any], Any] | None
"""Place of the logits: a key, attribute or position, or a function; None: the returned value."""

_NAMES = ("logits", "logits_per_image")
"""Names of the entry with the logits in Transformers; the second is that of its CLIP."""

HINT = "Name the logits with output=: a key, a position, or a function of the returned value."


def logits_in(returned: Any, output: Output, images: Tensor) -> Any:
    """The logits [B, C] in the value that a model returned; any other entry is returned unchanged.

    Axes of size one after the classes are left out; numpy arrays become tensors.

    Raises:
        UserError: `output` does not name an entry.
    """
    return as_logits(_entry(returned, output), images)


def find_output(
    returned: Any,
    images: Tensor,
    model: str,
    num_classes: int | None,
    is_layers: Callable[[Tensor], bool],
) -> tuple[Output, str]:
    """Place of the logits in the value that a model returned, and a note if there was a choice.

    In this order: the value itself, if it is a tensor; the entry "logits"; the only entry that may
    be logits, [B, C] with `num_classes` columns if that is given; the only one of several that is
    the output of a last layer; the first of a tuple.

    Args:
        returned: the value that the model returned.
        images: its input.
        model: its name, for messages.
        num_classes: C, if it is known.
        is_layers: whether a tensor is the output of a linear layer of the model.

    Raises:
        UserError: no entry may be logits, or several may.
    """
    if isinstance(returned, Tensor | np.ndarray):
        return None, ""
    entries = _entries(returned)
    for name in _NAMES:
        if isinstance(entries.get(name), Tensor | np.ndarray):
            return name, ""

    def may_be_logits(value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim == 2
            and len(value) == len(images)
            and value.shape[1] > 1
            and num_classes in (None, value.shape[1])
        )

    found: dict[str | int, Tensor] = {}
    for key in entries:
        value = logits_in(entries, key, images)
        if may_be_logits(value):
            found[key] = value
    if not found:
        raise UserError(
            f"The model {model} returned {described(returned)}, not logits [images, classes].", HINT
        )
    if len(found) == 1:
        return next(iter(found)), ""
    by_layers = [key for key, value in found.items() if is_layers(value)]
    key = by_layers[0] if len(by_layers) == 1 else next(iter(found))
    if len(by_layers) != 1 and not (isinstance(returned, tuple | list) and key == 0):
        shown = ", ".join(f"{key!r} {list(value.shape)}" for key, value in found.items())
        raise UserError(
            f"The model {model} returned {described(returned)}; several entries may be the logits: "
            f"{shown}.",
            f"Choose one with output=, such as output={key!r}.",
        )
    return key, (
        f"The model returns {described(returned)}: entry {key!r}, of shape [images, "
        f"{found[key].shape[1]}], is used as the logits; choose another entry with output=."
    )


def _entries(returned: Any) -> Mapping[Any, Any]:
    """The parts of a returned value, by key, position or attribute."""
    if isinstance(returned, Mapping):
        return returned
    if isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", ())
        if set(_NAMES) & set(names):
            return dict(zip(names, returned, strict=True))
        return dict(enumerate(returned))
    if is_dataclass(returned) and not isinstance(returned, type):
        return {each.name: getattr(returned, each.name) for each in fields(returned)}
    return getattr(returned, "__dict__", {})


def _entry(returned: Any, output: Output) -> Any:
    if output is None:
        return returned
    if callable(output):
        return output(returned)
    try:
        if isinstance(output, str) and not isinstance(returned, Mapping):
            return getattr(returned, output)
        if isinstance(output, str | int) and isinstance(returned, Mapping | Sequence | Tensor):
            return returned[output]  # type: ignore[index]
    except (AttributeError, KeyError, IndexError):
        pass
    raise UserError(
        f"output: the model returned {described(returned)}, which has no {output!r}.", HINT
    )
