"""Results of checks, and the lines that show them. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from oodbench.errors import counted

Status = Literal["passed", "failed", "not applicable", "not run"]

MARKS: dict[Status, str] = {
    "passed": "ok",
    "failed": "FAIL",
    "not applicable": "n/a",
    "not run": "-",
}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check.

    Attributes:
        name: of the check.
        status: whether the detector passed.
        idea: the requirement, one sentence.
        seen: of a failure what was seen, of a check that did not run why not.
        remedy: of a failure what to do; may be empty.
        place: of a detector that raised, file and line of its code, as in "mine.py, line 12".
        line: that line.
        traceback: of a failure, for debugging.
        like: of a failure, the name of an earlier check that failed with the same message.
    """

    name: str
    status: Status
    idea: str
    seen: str = ""
    remedy: str = ""
    place: str = ""
    line: str = ""
    traceback: str = ""
    like: str = ""


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """Results of all checks of one detector.

    Attributes:
        detector: its name.
        results: one for each check, in order.
    """

    detector: str
    results: tuple[CheckResult, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    def __str__(self) -> str:
        lines = [line for result in self.results for line in lines_of(result)]
        return "\n".join([*lines, *repeated(self.results), summary(self.results)])


class ConformanceError(AssertionError):
    """A detector does not conform.

    Args:
        report: the results of all checks.
    """

    def __init__(self, report: ConformanceReport) -> None:
        failures = [line for result in report.failures for line in lines_of(result)]
        found = f"detector '{report.detector}': {summary(report.results)}"
        super().__init__("\n".join([found, *failures, *repeated(report.results)]))
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.report,)


def lines_of(result: CheckResult) -> list[str]:
    """A line for the check; for a failure also what to do, and the line of the detector's code.

    None for a failure like an earlier one: `repeated` names them together.
    """
    if result.like:
        return []
    said = result.idea
    if result.status != "passed":
        said = result.seen if result.status == "failed" else f"{result.status}: {result.seen}"
    lines = [f"{MARKS[result.status]:<4} {result.name:<20} {said}"]
    if result.status == "failed":
        if result.line:
            lines.append(f"{'':<25} {result.place}: {result.line}")
        if result.remedy:
            lines.append(f"{'':<25} To do: {result.remedy}")
    return lines


def repeated(results: Iterable[CheckResult]) -> list[str]:
    """A line for the checks that failed like an earlier one, for each of these."""
    names: dict[str, list[str]] = {}
    for result in results:
        if result.like:
            names.setdefault(result.like, []).append(result.name)
    return [
        f"{MARKS['failed']:<4} {counted(len(found), 'more check'):<20} as in {first}: "
        + ", ".join(found)
        for first, found in names.items()
    ]


def summary(results: Iterable[CheckResult]) -> str:
    """Numbers of checks, as in "24 passed, 1 failed, 3 not applicable"."""
    numbers = Counter(result.status for result in results)
    total = counted(sum(numbers.values()), "check")
    return f"{total}: " + ", ".join(
        f"{numbers[status]} {status}" for status in MARKS if numbers[status]
    )
