"""Checks of the arguments of the public functions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oodbench.errors import UserError, shown

MOST_SEEDS = 1000
"""More than that is a mistake: each is a training."""


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number, which True and 2.0 are not.

    Args:
        name: of the argument.
        value: what was given.
        least: the smallest that makes sense.
        most: the largest; None: there is none.

    Raises:
        UserError: if it is none, or not in this range.
    """
    index = getattr(value, "__index__", None)  # numpy has whole numbers of its own
    if index is not None and not isinstance(value, bool):
        number = int(index())
        if number >= least and (most is None or number <= most):
            return number
    limit = f"from {least}" if most is None else f"from {least} to {most:,}"
    raise UserError(f"{name}: expected a whole number {limit}, not {shown(value)}.")


def device_name(value: Any) -> str:
    """The name of a device, whether or not this machine has it.

    Raises:
        UserError: if it is none.
    """
    if not isinstance(value, str) or not re.fullmatch(r"auto|(cpu|cuda)(:[0-9]{1,3})?", value):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:i, not {shown(value)}.")
    return value


def truth(name: str, value: Any) -> bool:
    """True or False, and not what is taken for one of them.

    Raises:
        UserError: if it is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}: expected True or False, not {shown(value)}.")
    return value


def path(name: str, value: Any) -> Path:
    """A path that a file or a folder may have.

    Raises:
        UserError: if it is none.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise UserError(f"{name}: expected a path, not {shown(value)}.")
    return Path(value)


def names(name: str, value: Any) -> list[str]:
    """Several names; a single one is a list of one.

    Raises:
        UserError: if it is something else, or names nothing.
    """
    if isinstance(value, str):
        value = [value]
    found = list(value) if isinstance(value, Iterable) else [value]
    if not found or not all(isinstance(each, str) and each.strip() for each in found):
        raise UserError(f"{name}: expected a list of names, not {shown(value)}.")
    return found


def visible_name(name: str, value: Any) -> str:
    """A name for a table: text without line feeds and the like.

    Raises:
        UserError: if it is none.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"{name}: expected a name of printable characters, not {shown(value)}.")
    return value
