"""The fields of the records of a run, from the classes that read and write them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Any

from documentation.markdown_text import cell, code, table
from oodbench.storage import records

_KINDS = (
    ("records.jsonl", "Quality", records.QualityRecord),
    ("costs.jsonl", "Costs", records.CostRecord),
    ("training.jsonl", "Training", records.TrainingRecord),
    ("differences.jsonl", "Differences", records.DifferenceRecord),
)


def reference() -> str:
    """Markdown with a section for each file of records."""
    parts = []
    described: dict[str, str] = {}  # records share fields, which the first one describes
    for file, title, kind in _KINDS:
        text = inspect.cleandoc(kind.__doc__ or "")
        about, _, attributes = text.partition("\nAttributes:\n")
        described = described | _attributes(attributes, [f.name for f in dataclasses.fields(kind)])
        parts.append(f"## {title}: `{file}`\n\n{cell(about)}\n")
        hints = typing.get_type_hints(kind)
        rows = [
            (f"`{field.name}`", _type(hints[field.name]), cell(described[field.name]))
            for field in dataclasses.fields(kind)
        ]
        parts.append(table(("Field", "Value", "Meaning"), rows))
    return "\n".join(parts)


def _attributes(text: str, fields: Sequence[str]) -> dict[str, str]:
    """Field -> its text, of the section of a docstring; "a, b:" and "a .. c:" describe several."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + text):
        names, colon, about = entry.strip().partition(": ")
        first, dots, last = names.partition(" .. ")
        named = fields[fields.index(first) : fields.index(last) + 1] if dots else names.split(", ")
        for name in named if colon else ():
            found[name] = " ".join(about.split())
    return found


def _type(hint: Any) -> str:
    """A type in words; None is `null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(code(value).lower() for value in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "object"
    if arguments:
        return " or ".join(_type(each) for each in arguments)
    return {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "`true` or `false`",
        type(None): "`null`",
        Any: "any value",
    }[hint]
