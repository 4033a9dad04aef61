"""Columns of a leaderboard: each OOD set, and summaries of several OOD sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Column(NamedTuple):
    """One OOD set, the mean of a group, the mean of all, or the worst set; or the ID images alone.

    Attributes:
        kind: which of these it is.
        name: name of the set or group, or of the ID set; otherwise "mean" or "worst".
        sets: names of its OOD sets.
    """

    kind: Literal["mean", "worst", "group", "set", "id"]
    name: str
    sets: tuple[str, ...]


def columns_of(groups: Mapping[str, str | None]) -> tuple[Column, ...]:
    """The columns of a benchmark: the mean, the worst set, the groups, the sets.

    Args:
        groups: OOD set -> its group or None, in the order to show.
    """
    names = tuple(groups)
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        if group is not None:
            members.setdefault(group, []).append(name)
    return (
        Column("mean", "mean", names),
        Column("worst", "worst", names),
        *(Column("group", group, tuple(sets)) for group, sets in members.items()),
        *(Column("set", name, (name,)) for name in names),
    )
