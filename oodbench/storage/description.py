"""Base classes of the descriptions of runs and suites: frozen values in JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, ValidationError

from oodbench.errors import UserError
from oodbench.files import canonical_json, digest, parsed_json, write_atomic
from oodbench.written_values import WrittenValues

_SEAL = "seal"
"""Key of the digest of all other values of a description."""


class DescriptionPart(WrittenValues):
    """Frozen values; types are checked strictly, unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class Description(DescriptionPart):
    """The contents of a JSON file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The description in a file.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it cannot be read, or is not a description of this schema.
        """
        try:
            return cls.model_validate(parsed_json(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise
        except ValidationError as error:
            raise UserError(f"Cannot read {path}: {problem_of(error)}.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"Cannot read {path}: {error}.") from error

    def write(self, path: Path) -> None:
        """Write the description to a file, with a digest of its values.

        Raises:
            UserError: if the file cannot be written.
        """
        content = self.model_dump(exclude=self._omitted())
        write_atomic(path, json.dumps(sealed(content), indent=2, allow_nan=False) + "\n")

    def _omitted(self) -> set[str]:
        """Fields that are not written."""
        return set()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a description with a digest of them."""
    values = {key: value for key, value in content.items() if key != _SEAL}
    return {**values, _SEAL: digest(canonical_json(values))}


def is_sealed(path: Path) -> bool | None:
    """Whether the values of a description are those that were written.

    Returns:
        None if the file has no digest of them, as those of older versions.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it cannot be read.
    """
    try:
        content: dict[str, Any] = parsed_json(path.read_text(encoding="utf-8"))
        return sealed(content) == content if _SEAL in content else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error


def problem_of(error: ValidationError) -> str:
    """The first fault that a validation found: where, and what."""
    first = error.errors(include_url=False, include_context=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
