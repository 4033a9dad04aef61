"""Names of classes and their labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from oodbench.errors import UserError, did_you_mean

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


def labels_of(names: Iterable[str], order: Sequence[str] | None, where: str) -> dict[str, int]:
    """The label of each class, in the order of the labels.

    Args:
        names: the classes that the images have.
        order: all classes in the order of their labels; None: `ordered_classes`.
        where: the folder or the list, for messages.

    Raises:
        UserError: a class is not in the given order, or the order names one twice.
    """
    if order is None:
        return {name: label for label, name in enumerate(ordered_classes(names))}
    labels = {name: label for label, name in enumerate(order)}
    if len(labels) < len(order):
        twice = next(name for name in order if order.count(name) > 1)
        raise UserError(f"the order of the classes has '{twice}' twice.", "Name each class once.")
    for name in sorted(set(names)):
        if name not in labels:
            raise UserError(
                f"{where}: class '{name}' is not in the order of the classes.",
                did_you_mean(name, labels),
            )
    return labels


def are_numbers(classes: Iterable[str]) -> bool:
    """Whether the name of each class is its label: "0", "1", ..., also with leading zeros."""
    return all(
        _WHOLE.fullmatch(name) is not None and int(name) == label
        for label, name in enumerate(classes)
    )
