"""JSON with one object a line, so that a change of one method is a change of one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def json_text(content: Mapping[str, Any]) -> str:
    """Content as strict JSON: one field a line, and one line for each object of a list.

    `json.dumps(indent=...)` would write every number on its own line, in pure Python: ten times
    slower.

    Raises:
        ValueError: a number is not finite.
    """
    fields = (f"  {_compact(key)}: {_value(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _value(value: object) -> str:
    objects = isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)
    if not objects:
        return _compact(value)
    assert isinstance(value, Sequence)
    return "[\n" + ",\n".join(f"    {_compact(each)}" for each in value) + "\n  ]"


def _compact(value: object) -> str:
    return json.dumps(value, allow_nan=False)
