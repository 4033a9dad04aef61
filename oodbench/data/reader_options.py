"""Calling a function with a manifest's options, checked against its keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from oodbench.errors import UserError
from oodbench.specs import DatasetSpec
from oodbench.specs.yaml_file import unknown_key_hint

T = TypeVar("T")


def call(spec: DatasetSpec, split: str, reader: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function that reads a split, with the manifest's options.

    Args:
        spec: the manifest.
        split: the split.
        reader: name of the function in messages, such as "kind 'list'".
        function: takes the options as keyword-only arguments; their types are checked.
        *args: the positional arguments.

    Raises:
        UserError: an option is unknown or has the wrong type. Errors of the function get the data
            set and the split in front of their message.
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
            unknown_key_hint(unknown[0], accepted),
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
