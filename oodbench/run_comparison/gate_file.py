"""Where the gate of a project is written: a file of its own, `oodbench.toml`, `pyproject.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.errors import UserError, did_you_mean, shown
from oodbench.run_comparison.gate import Gate
from oodbench.specs.yaml_file import read_mapping

SECTION = "gate"
PROJECT_FILE, PYPROJECT = "oodbench.toml", "pyproject.toml"


def read_gate(path: Path) -> Gate:
    """The gate in a file: its section `gate`, or `tool.oodbench.gate` of a pyproject.toml.

    Args:
        path: a TOML or YAML file, known by its suffix.

    Raises:
        UserError: if the file cannot be read, has no such section, or has a key that is not known.
    """
    content, place = _section_above(path)
    if SECTION not in content:
        raise UserError(
            f"{path} has no section {place}{SECTION}.",
            "Write [gate] in TOML or gate: in YAML, with max_drop, max_slower, fail_on, allow_cost "
            "and strict below it.",
        )
    return Gate.read(content[SECTION], f"{path}: {place}{SECTION}")


def project_gate(folder: Path) -> Gate | None:
    """The gate of a project: in `oodbench.toml` or `pyproject.toml`; None if neither has one.

    Raises:
        UserError: if both have one, or as `read_gate`.
    """
    found = []
    for name in (PROJECT_FILE, PYPROJECT):
        path = folder / name
        if path.is_file() and SECTION in _section_above(path)[0]:
            found.append(path)
    if len(found) == 2:
        raise UserError(
            f"{found[0]} and {found[1]} both have a gate.", "Keep one, or choose with --gate FILE."
        )
    return read_gate(found[0]) if found else None


def combined_gate(
    path: Path | None, options: Gate, *, allow_cost: bool | None, strict: bool | None
) -> Gate:
    """The gate of a file with what the options replace; without any rule, "worse" fails.

    A limit of `max_drop` replaces that of the same metric, method and column.

    Args:
        path: the file; None: that of the project in the working directory, if it has one.
        options: what the options say.
        allow_cost: replaces that of the file, unless it is None.
        strict: likewise.
    """
    found = read_gate(path) if path is not None else project_gate(Path())
    written = found or Gate()
    combined = written.model_copy(
        update={
            "max_drop": written.max_drop | options.max_drop,
            "max_slower": options.max_slower or written.max_slower,
            "fail_on": options.fail_on or written.fail_on,
            "allow_cost": written.allow_cost if allow_cost is None else allow_cost,
            "strict": written.strict if strict is None else strict,
        }
    )
    if combined.max_drop or combined.max_slower or combined.fail_on:
        return combined
    return combined.model_copy(update={"fail_on": ("worse",)})


def _section_above(path: Path) -> tuple[Mapping[str, Any], str]:
    """The keys among which `gate` is, and their place in the file.

    Raises:
        UserError: if there is another key. In pyproject.toml, other tools have theirs.
    """
    content = _content(path)
    place = ""
    if path.name == PYPROJECT:
        tool = content.get("tool")
        content = tool.get("oodbench", {}) if isinstance(tool, Mapping) else {}
        place = "tool.oodbench."
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: tool.oodbench: expected a table, not {shown(content)}.")
    for key in content:
        if key != SECTION:
            hint = did_you_mean(str(key), [SECTION])
            if str(key).replace("-", "_") in Gate.model_fields:
                hint = f"It belongs below [{place}{SECTION}]."
            raise UserError(f"{path}: there is no key {shown(f'{place}{key}')}.", hint)
    return content, place


def _content(path: Path) -> Mapping[str, Any]:
    if path.suffix in (".yaml", ".yml"):
        return read_mapping(path)
    if path.suffix != ".toml":
        raise UserError(f"{path}: a gate is in a file that ends in .toml, .yaml or .yml.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"Cannot read {path}: {reason}.") from error
