"""Types of the values of records: each accepts possible values alone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from oodbench.specs.names import method_obstacle

_ROUNDING = 1e-9
_MOST = 1e30
"""Upper limit of times and numbers of operations: larger values cannot have been measured."""


def _showable(value: Any) -> Any:
    """Parameters of a detector, checked: texts that can be encoded, numbers of 64 bits."""
    if isinstance(value, dict):
        for key, each in value.items():
            _showable(key), _showable(each)
    elif isinstance(value, list):
        for each in value:
            _showable(each)
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, int | float) and not abs(value) <= 2**63:
        raise ValueError("not a number of 64 bits")
    return value


def _printable(text: str) -> str:
    """A name that a terminal shows as it is."""
    if not text.isprintable():
        raise ValueError("not printable")
    return text


def _folder(name: str) -> str:
    """The name of a method, which its folder of scores has."""
    if method_obstacle(name) is not None:
        raise ValueError("not a name of a method")
    return name


Fraction = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
Amount = Annotated[float, Field(ge=0, le=_MOST)]
Number = Annotated[float, Field(ge=-_MOST, le=_MOST)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
MethodText = Annotated[str, AfterValidator(_folder)]
Parameters = Annotated[dict[str, Any], AfterValidator(_showable)]
PartCounts = Annotated[list[Count], Field(min_length=2, max_length=2)]
"""Numbers of accepted images and of images."""
