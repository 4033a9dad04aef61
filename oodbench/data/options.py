"""A manifest's options, held to the arguments of the function that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

T = TypeVar("T")


def call(spec: DatasetSpec, split: str, reader: str, function: Callable[..., T], *args: Any) -> T:
    """Call what reads a split with the manifest's options.

    Args:
        spec: the manifest.
        split: the split.
        reader: what the function is called in messages, such as "kind 'list'".
        function: its keyword-only arguments are the options; they are held to their types.
        *args: its other arguments.

    Raises:
        UserError: there is no such option or it has the wrong type; or the function raises it, and
            then the data set and the split are said too.
    """
    accepted = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = [name for name in spec.options if name not in accepted]
    if unknown:
        raise UserError(
            f"data set '{spec.name}': {reader} takes no option "
            + ", ".join(f"'{name}'" for name in unknown),
            f"It takes: {', '.join(accepted) or 'none'}.",
        )
    checked = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(function)
    try:
        return checked(*args, **spec.options)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(key) for key in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise UserError(
            f"data set '{spec.name}', split '{split}': {reader} cannot use the options: {faults}",
            "Correct 'options' in the data set's manifest.",
        ) from error
    except UserError as error:
        raise UserError(
            f"data set '{spec.name}', split '{split}': {error.message}", error.hint
        ) from error
