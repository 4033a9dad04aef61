"""Which scored images a page shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.report.score_page.score_log import ScoreLog

SHOWN = 24
"""Most images of a group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Images that are shown together.

    Attributes:
        name: of the group.
        about: what they have in common, a sentence.
        indices: of the files, in order.
        total: number of images that it could have.
    """

    name: str
    about: str
    indices: tuple[int, ...]
    total: int


def groups(log: ScoreLog) -> tuple[Group, ...]:
    """The groups of a page; those without images are left out."""
    return tuple(group for group in _groups(log) if group.indices)


def _groups(log: ScoreLog) -> Iterator[Group]:
    scored = log.scored
    everything = np.flatnonzero(scored)
    if log.threshold is not None:
        wrong = scored & log.outside & log.accepted
        yield _group(
            log,
            wrong,
            "Accepted OOD images",
            "Known to be OOD, and at or above the threshold; highest score first.",
            highest=True,
        )
        yield _group(
            log,
            scored & log.inside & ~log.accepted,
            "Rejected ID images",
            "Known to be ID, and below the threshold; lowest score first.",
            highest=False,
        )
    yield _group(
        log,
        log.misclassified & log.accepted,
        "Misclassified and accepted" if log.threshold is not None else "Misclassified",
        "The model gives another class than the true one; highest score first.",
        highest=True,
    )
    if log.threshold is not None and np.isfinite(log.threshold.value):
        distance = np.abs(log.scores[everything] - log.threshold.value)
        near = everything[np.argsort(distance, kind="stable")[:SHOWN]]
        ordered = near[np.argsort(-log.scores[near], kind="stable")]
        yield Group(
            "Nearest to the threshold",
            "The decisions that a small change would turn; highest score first.",
            tuple(map(int, ordered)),
            len(everything),
        )
    yield _group(log, scored, "Least in-distribution", "Lowest score first.", highest=False)
    yield _group(log, scored, "Most in-distribution", "Highest score first.", highest=True)


def _group(log: ScoreLog, of: NDArray[np.bool_], name: str, about: str, *, highest: bool) -> Group:
    found = np.flatnonzero(of)
    order = np.argsort(-log.scores[found] if highest else log.scores[found], kind="stable")
    return Group(name, about, tuple(map(int, found[order[:SHOWN]])), len(found))
