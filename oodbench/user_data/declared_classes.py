"""Classes that data sets declare, and matching of labels between data sets.

torchvision's data sets have `classes`, the names in the order of the labels, and most of them
`class_to_idx`; those of Hugging Face have a feature with `names`. If two data sets number their
classes differently, a label has two meanings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate, default_convert

from oodbench.errors import UserError, listed, with_article
from oodbench.user_data.batch_contents import LABEL_KEYS

_DEEPEST = 32
"""Maximum depth of nested data sets; a data set may contain itself."""


_UNDECLARED = "ConcatDataset with a part that declares no classes"
"""`wrapper` of such a set: the meaning of that part's labels is not known."""


@dataclass(frozen=True, slots=True)
class DeclaredClasses:
    """Classes that a data set declares.

    Attributes:
        names: in the order of the labels.
        wrapper: type of the data set around the one with the names, if it may change labels; "" if
            there is none.
    """

    names: tuple[str, ...]
    wrapper: str = ""

    def __str__(self) -> str:
        return listed(self.names, 8)


def declared_classes(data: Any, name: str, depth: int = 0) -> DeclaredClasses | None:
    """The classes that a data set declares, or a data set inside a DataLoader, Subset or wrapper.

    Inner data sets are found by the attribute `dataset`. A `target_transform` may change labels:
    data sets with one declare nothing.

    Args:
        data: a DataLoader or a Dataset.
        name: the argument that the data were given as, for messages.
        depth: number of data sets around this one.

    Returns:
        The classes, or None if none are declared.

    Raises:
        UserError: the parts of a ConcatDataset declare different classes.
    """
    if depth > _DEEPEST or data is None:
        return None
    names = _names(data)
    if names:
        changed = _attribute(data, "target_transform") is not None
        return None if changed else DeclaredClasses(names)
    if type(data) is ConcatDataset:
        found = [declared_classes(part, name, depth + 1) for part in data.datasets]
        known = [part for part in found if part is not None]
        for part in known:
            if part.names != known[0].names:
                raise UserError(
                    f"{name}: the parts of the ConcatDataset have different classes: "
                    f"{known[0]}; and {part}.",
                    "Give all parts the same classes in the same order.",
                )
        if known and None in found:
            return DeclaredClasses(known[0].names, _UNDECLARED)
        return next((part for part in known if part.wrapper), known[0] if known else None)
    inside = declared_classes(_attribute(data, "dataset"), name, depth + 1)
    plain = type(data) is Subset or (
        type(data) is DataLoader and data.collate_fn in (default_collate, default_convert)
    )
    if inside is None or plain or inside.wrapper:
        return inside
    return DeclaredClasses(inside.names, type(data).__name__)


def matching_labels(
    declared: Mapping[str, DeclaredClasses], num_classes: int
) -> Iterator[tuple[str, list[int], str]]:
    """Match the labels of data sets with other class orders to the model's, by class name.

    The model's classes are those of `fit_data` if it has as many classes as the model, otherwise
    those of the sets that have as many.

    Args:
        declared: argument -> its classes.
        num_classes: number of the model's classes.

    Yields:
        The argument, the model's label for each of its labels ([]: labels do not change), and a
        note for readers of the scores.

    Raises:
        UserError: a set has a class that the model does not have, it is not clear which set has
            the model's classes, or a wrapper may have changed labels.
    """
    lists = {name: each.names for name, each in declared.items()}
    if len(set(lists.values())) < 2:
        yield from _fewer(declared, num_classes)
        return
    whole = {name: names for name, names in lists.items() if len(names) == num_classes}
    reference = "fit_data" if "fit_data" in whole else next(iter(whole), "")
    for name, names in lists.items():
        base = reference or next(iter(lists))
        if names == lists[base]:
            continue
        known = set(lists[base])
        distinct = len(known) == num_classes and len(set(names)) == len(names)
        rivals = base != "fit_data" and name in whole
        wrapper = declared[name].wrapper
        if rivals or not distinct or not set(names) <= known or wrapper:
            raise _disagreement(name, base, declared, wrapper)
        yield (
            name,
            [lists[base].index(each) for each in names],
            f"The classes of {name} ({declared[name]}) are not numbered as those of {base} "
            f"({declared[base]}): labels of {name} were matched by class name.",
        )


def _fewer(
    declared: Mapping[str, DeclaredClasses], num_classes: int
) -> Iterator[tuple[str, list[int], str]]:
    """A note if the sets agree and have fewer classes than the model."""
    for name, each in declared.items():
        if len(each.names) < num_classes:
            yield (
                name,
                [],
                f"{name} has {len(each.names)} classes ({each}), the model {num_classes}: label k "
                "is used as the model's class k.",
            )
            return


def _disagreement(
    name: str, base: str, declared: Mapping[str, DeclaredClasses], wrapper: str
) -> UserError:
    hint = (
        f"A label must mean the same class in both. Map the labels of {name} with a "
        "target_transform; or, if only the names differ, give both the same `classes` and "
        "`class_to_idx`."
    )
    if wrapper:
        hint = (
            f"{name} is or has {with_article(wrapper)}, which may change labels: set its attribute "
            "`classes` to the names of the classes, in the order of its labels."
        )
    return UserError(
        f"{name} and {base} have different classes: {name} has {declared[name]}; "
        f"{base} has {declared[base]}.",
        hint,
    )


def _names(data: Any) -> tuple[str, ...]:
    """Names of the classes in the order of the labels; () if a data set declares none."""
    numbers = _attribute(data, "class_to_idx")
    if isinstance(numbers, Mapping) and numbers:
        values = list(numbers.values())
        whole = all(isinstance(value, int | np.integer) for value in values)
        # Several names may belong to one class, as in ImageNet; `classes` is right then.
        if whole and sorted(values) == list(range(len(values))):
            return tuple(str(name) for name in sorted(numbers, key=lambda name: numbers[name]))
    features = _attribute(data, "features")  # of a data set of Hugging Face
    if isinstance(features, Mapping):
        named = (_attribute(features.get(key), "names") for key in LABEL_KEYS)
        return next((tuple(map(str, each)) for each in named if each), ())
    classes = _attribute(data, "classes")
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    if not isinstance(classes, list | tuple) or isinstance(data, DataLoader):
        return ()
    if not all(isinstance(name, str | int | tuple) for name in classes):
        return ()
    return tuple(_joined(name) for name in classes)


def _joined(name: str | int | Sequence[Any]) -> str:
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _attribute(data: Any, name: str) -> Any:
    """An attribute of a user's object, or None; the user's properties may raise any error."""
    try:
        return getattr(data, name, None)
    except Exception:
        return None
