"""Names of classes and their labels."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes in the order of their labels 0, 1, ...

    Names are sorted by code point. If they are the numbers 0 to C-1, they are sorted as numbers, so
    that each name is its label (scikit-learn's LabelEncoder would sort "10" before "2").
    """
    found = sorted(set(names))
    if all(_WHOLE.fullmatch(name) for name in found):
        by_number = sorted(found, key=int)
        if are_numbers(by_number):
            return tuple(by_number)
    return tuple(found)


def are_numbers(classes: Iterable[str]) -> bool:
    """Whether the name of each class is its label: "0", "1", ..., also with leading zeros."""
    return all(
        _WHOLE.fullmatch(name) is not None and int(name) == label
        for label, name in enumerate(classes)
    )
