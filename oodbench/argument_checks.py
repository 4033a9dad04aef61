"""Checks of the arguments of the public functions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oodbench.errors import UserError, shown

MOST_SEEDS = 1000
"""Largest number of seeds that is accepted; each seed is a training."""


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Check that a value is a whole number; True and 2.0 are refused.

    Args:
        name: name of the argument.
        value: value of the argument.
        least: smallest number that is accepted.
        most: largest number that is accepted; None for no limit.

    Raises:
        UserError: if the value is not a whole number in this range.
    """
    index = getattr(value, "__index__", None)  # numpy has whole numbers of its own
    if index is not None and not isinstance(value, bool):
        number = int(index())
        if number >= least and (most is None or number <= most):
            return number
    limit = f"from {least}" if most is None else f"from {least} to {most:,}"
    raise UserError(f"{name}: expected a whole number {limit}, not {shown(value)}.")


def device_name(value: Any) -> str:
    """Check that a value is the name of a device; the machine need not have the device.

    Raises:
        UserError: if it is not a name of a device.
    """
    if not isinstance(value, str) or not re.fullmatch(r"auto|(cpu|cuda)(:[0-9]{1,3})?", value):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:i, not {shown(value)}.")
    return value


def truth(name: str, value: Any) -> bool:
    """Check that a value is True or False; 0, 1 and None are refused.

    Raises:
        UserError: if it is something else.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}: expected True or False, not {shown(value)}.")
    return value


def path(name: str, value: Any) -> Path:
    """Check that a value is a path of a file or a folder; neither need exist.

    Raises:
        UserError: if it is not a path.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise UserError(f"{name}: expected a path, not {shown(value)}.")
    return Path(value)


def names(name: str, value: Any) -> list[str]:
    """Check that a value is one name or several names; returns a list.

    Raises:
        UserError: if it is something else, or has no name.
    """
    if isinstance(value, str):
        value = [value]
    found = list(value) if isinstance(value, Iterable) else [value]
    if not found or not all(isinstance(each, str) and each.strip() for each in found):
        raise UserError(f"{name}: expected a list of names, not {shown(value)}.")
    return found


def visible_name(name: str, value: Any) -> str:
    """Check that a value is a name for a table: printable characters, no line feeds.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"{name}: expected a name of printable characters, not {shown(value)}.")
    return value
