"""JSON files with a checksum of their own content, which reveals every change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.files import canonical_json, digest, parsed_json

_SEAL = "seal"


class DamagedRecordError(Exception):
    """A record cannot be read or has changed; the message gives the reason."""


def write_checksummed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record together with its checksum."""
    path.write_bytes(_text({**record, _SEAL: digest(canonical_json(record))}))


def read_checksummed(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        DamagedRecordError: the file cannot be read or has changed since it was written.
    """
    try:
        content = path.read_bytes()
        sealed = parsed_json(content)
        record = {key: value for key, value in sealed.items() if key != _SEAL}
        written = sealed.get(_SEAL) == digest(canonical_json(record)) and content == _text(sealed)
    # ValueError: no JSON, or a number that is not finite; AttributeError: no object.
    except (OSError, ValueError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise DamagedRecordError(f"cannot read {path.name} ({reason})") from error
    if not written:
        raise DamagedRecordError(f"{path.name} is not what was written")
    return record


def _text(sealed: Mapping[str, Any]) -> bytes:
    return (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode()
