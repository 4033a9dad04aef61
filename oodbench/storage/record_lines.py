"""Records as lines of JSON, written and read.

No values are accepted but those that the classes of the records declare: for a file that was edited
or written by another tool, a report shows possible values or an error, not a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from oodbench.errors import UserError
from oodbench.files import canonical_json, parsed_json
from oodbench.metrics import of_id_images
from oodbench.storage.records import (
    ID_ACCURACY,
    SCHEMA_VERSION,
    CostRecord,
    DifferenceRecord,
    QualityRecord,
    Record,
    TrainingRecord,
)

ADDED_LATER = frozenset(
    {"csid", "fit_split", "same_source", "tie_fraction", "time_scatter"}
    | {"tuning_ood", "untuned", "weights"}
    | {"accepted_counts", "n_validation", "threshold", "validation_use"}
)
"""Fields that older versions did not write; a line without them gets their defaults."""

_LEFT_OUT = (
    *("weights", "csid", "fit_split", "tuning_ood", "same_source"),
    *("threshold", "n_validation", "accepted_counts", "validation_use"),
)
"""Fields that are not written where they are None: other records stay as they were."""

R = TypeVar("R", QualityRecord, CostRecord, TrainingRecord, DifferenceRecord)


def to_lines(records: Iterable[Record]) -> str:
    """JSON, one record a line, keys sorted."""
    return "".join(canonical_json(_values(record)) + "\n" for record in records)


def _values(record: Record) -> dict[str, Any]:
    # Not dataclasses.asdict, which copies every value deeply.
    values = {name: getattr(record, name) for name in record.__slots__}
    for name in _LEFT_OUT:
        if values.get(name, "") is None:  # as before it was recorded: digests stay the same
            del values[name]
    return values


def read_lines(kind: type[R], path: Path) -> list[R]:
    """Records of a file; an empty list if there is no file.

    Raises:
        UserError: if a line is not a record; it names file, line and value.
    """
    records = []
    for number, line in enumerate(text_lines(path), start=1):
        try:
            records.append(parse_line(kind, line))
        except (ValueError, RecursionError) as error:  # a RecursionError has no useful text
            problem = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise UserError(
                f"{path}:{number}: not a record of this version of oodbench ({problem}).",
                "The file was changed after the run: run again with --resume, or restore it.",
            ) from error
    return records


def text_lines(path: Path) -> list[str]:
    """Lines of a file of records, not parsed; an empty list if there is no file.

    Raises:
        UserError: if the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"Cannot read {path}: {problem}.") from error
    return lines if lines[-1] else lines[:-1]


def parse_line(kind: type[R], line: str) -> R:
    """The record of a line.

    Raises:
        ValueError: if it is none; the message begins with the field that is wrong.
        RecursionError: if it is nested too deeply.
    """
    content = parsed_json(line)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {_shown(content.get('schema_version'))}")
    try:
        _FORMS[kind.__name__].model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise ValueError(f"'{key}' is missing") from error
        if first["type"] == "extra_forbidden":
            raise ValueError(f"there is no '{_shown(key)[1:-1]}'") from error
        raise ValueError(f"{key} is {_shown(content[key])}") from error
    record = kind(**content)
    if isinstance(record, QualityRecord):
        _check(record)
    return record


def _check(record: QualityRecord) -> None:
    """Check values that are possible alone but not together.

    Raises:
        ValueError: if they contradict each other.
    """
    if (record.value is None) == (record.status == "ok"):
        raise ValueError(f"value is {record.value} and status is '{record.status}'")
    of_id = record.metric == ID_ACCURACY or of_id_images(record.metric)
    if (record.ood_dataset is None) != of_id:
        raise ValueError(f"ood_dataset is {record.ood_dataset} and metric is '{record.metric}'")
    if record.status == "ok":
        for name, count in (("n_id", record.n_id), ("n_ood", record.n_ood)):
            counted = name == "n_id" or record.ood_dataset is not None
            if counted and count is None:
                raise ValueError(f"{name} is None and status is 'ok'")
    low, high = record.ci_low, record.ci_high
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ValueError(f"ci_low is {low} and ci_high is {high}")


def _form(kind: type[Record]) -> type[BaseModel]:
    """The form of a line: the keys of the class, values of exactly these types."""
    types = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {
        field.name: (
            types[field.name],
            field.default if field.name in ADDED_LATER and field.default is not MISSING else ...,
        )
        for field in fields(kind)
    }
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    return create_model(kind.__name__, __config__=strict, **values)


_FORMS = {
    kind.__name__: _form(kind)
    for kind in (QualityRecord, CostRecord, TrainingRecord, DifferenceRecord)
}


def _shown(value: Any) -> str:
    """A value in a message, on one line and not longer than a line."""
    try:
        text = ascii(value)
    except ValueError:  # more digits than Python prints
        return "a number that is too large"
    return text if len(text) <= 60 else f"{text[:57]}..."
