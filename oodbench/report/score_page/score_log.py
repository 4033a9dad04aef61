"""Scores and decisions of the image files of one command, with the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import counted
from oodbench.metrics.thresholds import Acceptance, Threshold, counted_acceptance

UNREAD = -1
"""Prediction for a file that was not scored."""


@dataclass(eq=False)
class ScoreLog:
    """What is known of each file.

    Attributes:
        method: name of the method.
        threshold: None if there is none.
        paths: of the files.
        classes: names of the classes; empty if they are not known.
        truth: true class of each file, "" if it is not known; None if none is known.
        known: number of files that are known to be ID; all of them are OOD from there on. None if
            that is not known.
        scores: float64, one per file; NaN for files that were not scored.
        predictions: the class that the model gives each file, int64; -1 likewise.
        unreadable: (path, reason) of files that were skipped.
    """

    method: str
    threshold: Threshold | None
    paths: Sequence[str]
    classes: Sequence[str] = ()
    truth: Sequence[str] | None = None
    known: int | None = None
    scores: NDArray[np.float64] = field(init=False)
    predictions: NDArray[np.int64] = field(init=False)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = np.full(len(self.paths), np.nan)
        self.predictions = np.full(len(self.paths), UNREAD, dtype=np.int64)

    def add(
        self,
        indices: Sequence[int],
        scores: NDArray[np.float64],
        predictions: NDArray[np.int64],
    ) -> None:
        """Enter scores and predictions of a batch of files."""
        self.scores[indices] = scores
        self.predictions[indices] = predictions

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Whether a file was scored, one boolean per file."""
        found: NDArray[np.bool_] = self.predictions != UNREAD
        return found

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Whether a file is accepted; without a threshold, every scored file is."""
        value = -np.inf if self.threshold is None else self.threshold.value
        found: NDArray[np.bool_] = self.scored & (self.scores >= value)
        return found

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Whether a file is known to be OOD."""
        found = np.zeros(len(self.paths), dtype=bool)
        if self.known is not None:
            found[self.known :] = True
        return found

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether a file is known to be ID."""
        return np.full(len(self.paths), self.known is not None) & ~self.outside

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.classes[number] if self.classes else str(number)

    def truth_of(self, index: int) -> str:
        """The true class of a file; "OOD" or "ID" if that alone is known, or ""."""
        if self.known is not None and index >= self.known:
            return "OOD"
        named = self.truth[index] if self.truth is not None else ""
        return named or ("ID" if self.known is not None else "")

    @property
    def misclassified(self) -> NDArray[np.bool_]:
        """Whether a scored file has another class than the model says."""
        if self.truth is None:
            return np.zeros(len(self.paths), dtype=bool)
        wrong = [
            bool(truth) and self.class_name(number) != truth
            for truth, number in zip(self.truth, self.predictions.tolist(), strict=True)
        ]
        return np.array(wrong, dtype=bool) & self.scored & ~self.outside

    def acceptance(self, of: NDArray[np.bool_]) -> Acceptance | None:
        """How many of some files are accepted; None if none of them was scored."""
        images = int((of & self.scored).sum())
        return counted_acceptance(int((of & self.accepted).sum()), images) if images else None

    def summary(self) -> list[str]:
        """Numbers of images and decisions, one sentence each."""
        total, accepted = int(self.scored.sum()), int(self.accepted.sum())
        parts = [f"{counted(total, 'image')} scored"]
        if self.threshold is not None and total:
            share = f"{100 * accepted / total:.1f} %"
            parts.append(f"{accepted:,} accepted ({share}), {total - accepted:,} rejected")
        if self.unreadable:
            parts.append(f"{len(self.unreadable):,} skipped")
        lines = ["; ".join(parts) + "."]
        if self.threshold is not None:
            for name, of in (("ID", self.inside), ("OOD", self.outside)):
                if (found := self.acceptance(of)) is not None:
                    lines.append(
                        f"{100 * found.rate:.1f} % of the {name} images are accepted (95% interval "
                        f"{100 * found.low:.1f} to {100 * found.high:.1f})."
                    )
        if self.truth is not None and any(self.truth):
            of = self.scored & ~self.outside
            right, count = int((of & ~self.misclassified).sum()), int(of.sum())
            if count:
                lines.append(
                    f"{100 * right / count:.1f} % of the ID images are classified correctly."
                )
        return lines
