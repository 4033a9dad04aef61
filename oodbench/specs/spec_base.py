"""Base class and field types that all specs share.

Nothing here opens a file or holds a tensor. Unknown keys and wrong types are errors: `yes`, `"1"`
and 1.0 are not accepted as integers. `oodbench.specs.yaml_file` turns these errors into messages
with file, line and key.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from oodbench.errors import kind_of, shown
from oodbench.specs.names import method_obstacle, obstacle, shortened
from oodbench.written_values import WrittenValues

SplitName = Literal["train", "validation", "test"]
WORDS = {"title", "summary", "published", "default_detectors", "metrics"}
"""Keys of a benchmark and of a suite that do not affect scores and the metrics of every run."""


class Spec(WrittenValues):
    """Base class of specs: immutable, strict about keys and types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )
    _file: Path | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same values; the files that they were read from do not matter."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @property
    def file(self) -> Path | None:
        """The file that the spec was read from; None if it was created in Python."""
        return self._file

    def read_from(self, path: Path) -> Self:
        """Remember the file that the spec was read from; returns the spec itself."""
        self._file = path
        return self


def _file_name(name: str) -> str:
    problem = obstacle(name)
    if problem is not None:
        raise ValueError(f"'{shortened(name)}' cannot name a file: {problem}")
    return name


LIMITED = "not the benchmark: limited to "


def _run_name(name: str) -> str:
    """Check a file name that may end with a limit's label (`LimitSpec.labeled`)."""
    _file_name(name.partition(f" ({LIMITED}")[0])
    return name


def _method_name(name: str) -> str:
    problem = method_obstacle(name)
    if problem is not None:
        raise ValueError(f"'{shortened(name)}' cannot name a folder: {problem}")
    return name


def _path(path: str) -> str:
    if any(ord(char) < ord(" ") for char in path):
        raise ValueError(f"{path!r} is no path: it has a control character")
    return path


def _no_truth(value: Any) -> Any:
    """Refuse true, which equals 1 in Python."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth", "input should be 1")
    return value


def number_obstacle(value: Any) -> str | None:
    """Why a number cannot be used (not finite, too large); None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return "input should be a finite number"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "input should be a number of at most 64 bits"
    return None


def recordable(values: dict[str, Any]) -> dict[str, Any]:
    """Check that values can be written to `run.json`; returns them unchanged.

    Raises:
        ValueError: a value is a number that is not finite or too large, or is not one of: text,
            number, true, false, null, a list of these, a mapping from text to these.
    """
    for key, value in values.items():
        _check_recordable(value, key)
    return values


def _check_recordable(value: Any, key: str) -> None:
    problem = number_obstacle(value)
    if problem is not None:
        raise ValueError(f"{key}: {problem}, not {shown(value)}")
    if isinstance(value, dict):
        for inner, each in value.items():
            if not isinstance(inner, str):
                raise ValueError(f"{key}: the key {inner!r} is no text; write it in quotes")
            _check_recordable(each, f"{key}.{inner}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            _check_recordable(each, f"{key}.{index}")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{key}: {kind_of(value)} cannot be recorded; write text in quotes, as in '{value}'"
        )


LARGEST = 2**63 - 1
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
ImageCount = Annotated[int, Field(gt=0, le=10**9)]
BatchSize = Annotated[int, Field(gt=0, le=10**6)]
Side = Annotated[int, Field(gt=0, le=2**16)]
"""Number of channels, or height or width of an image in pixels."""
Scale = Annotated[float, Field(ge=1e-9, le=1e9)]
"""A positive number; it, its inverse and their squares fit into float32."""
NonNegativeScale = Annotated[float, Field(ge=0, le=1e9)]
SchemaVersion = Annotated[Literal[1], BeforeValidator(_no_truth)]
Text = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, AfterValidator(_file_name)]
"""A valid name of a file or folder on every system."""
RunName = Annotated[str, AfterValidator(_run_name)]
"""A valid name of a run directory."""
MethodName = Annotated[str, AfterValidator(_method_name)]
"""A valid name of a folder with scores."""
PathText = Annotated[str, Field(min_length=1), AfterValidator(_path)]
Options = Annotated[dict[str, Any], AfterValidator(recordable)]
"""Keyword arguments; the function that takes them checks them."""

T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]
"""A list in YAML and JSON; its items are checked strictly."""
