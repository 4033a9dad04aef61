"""A check: one requirement of detectors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oodbench.testing.assertions import CheckFailed, NotApplicable
from oodbench.testing.process_state import restored
from oodbench.testing.subject import Subject, subject_of

Applies = Callable[[Subject], str | None]
"""Gives the reason why a check does not apply to a detector, or None."""


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement.

    Attributes:
        name: one or two words with an underscore between them.
        idea: the requirement, one sentence.
        remedy: what to do if it fails, unless the failure says so itself.
        function: raises `CheckFailed`, or whatever the detector raises.
        obstacle: why it does not apply to a detector, or None.
    """

    name: str
    idea: str
    remedy: str
    function: Callable[[Subject], None]
    obstacle: Applies

    def __call__(self, detector: Any) -> None:
        """Check a detector; global state of the process, such as random generators, stays as it is.

        Args:
            detector: as `check_detector` takes it.

        Raises:
            CheckFailed: an AssertionError; the detector does not conform.
            NotRun: a SkipTest: the check does not apply, or cannot be made here.
            Exception: whatever the detector raises.
        """
        subject = subject_of(detector)
        obstacle = self.obstacle(subject)
        if obstacle is not None:
            raise NotApplicable(obstacle)
        try:
            with restored():
                self.function(subject)
        except CheckFailed as failure:
            remedy = failure.remedy or self.remedy
            raise CheckFailed(failure.seen, remedy, subject.name) from failure.__cause__

    def __repr__(self) -> str:
        return self.name


def check(remedy: str, applies: Applies = lambda subject: None) -> Callable[[Any], Check]:
    """Make a check of a function, whose docstring begins with the requirement."""

    def made(function: Callable[[Subject], None]) -> Check:
        idea = inspect.cleandoc(function.__doc__ or "").splitlines()[0]
        return Check(function.__name__, idea, remedy, function, applies)

    return made


def needing(*needs: str, every: bool = False) -> Applies:
    """Applies to detectors that declare one of these needs, or every one of them."""

    def obstacle(subject: Subject) -> str | None:
        declared = [need in subject.needs for need in needs]
        if all(declared) if every else any(declared):
            return None
        said = (" and " if every else " or ").join(f"'{need}'" for need in needs)
        return f"does not declare {said} in needs"

    return obstacle
