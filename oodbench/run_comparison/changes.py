"""What differs between two runs, as frozen values that every report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from oodbench.errors import ExitCode


class Verdict(StrEnum):
    """How the head compares with the base."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference shown"
    NEW = "new"
    GONE = "gone"
    NOT_COMPARABLE = "not comparable"


Test = Literal["DeLong", "paired bootstrap", "spread over seeds", "intervals of the records", ""]
"""How a difference was tested, from the strongest to the weakest; empty if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two runs.

    Attributes:
        folder: where it is stored.
        benchmark, version: of the benchmark.
        id_dataset: the ID data set.
        seeds: of its records.
        methods: names of its methods.
        has_scores: whether scores of all its finished methods are stored.
        revision: revision of oodbench that made it; None if it is not known.
        written: when it was made, ISO 8601 in UTC; None if it is not known.
    """

    folder: Path
    benchmark: str
    version: int
    id_dataset: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    has_scores: bool
    revision: str | None = None
    written: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One method and metric on one OOD set, on a group of them, or over all.

    Attributes:
        method: its name on leaderboards.
        metric: as in records.
        column: an OOD set, a group such as "near", or "mean" of all OOD sets.
        kind: which of these.
        base, head: means over seeds, fractions in [0, 1]; None where there is none. If both are
            there and comparable, over the seeds that both have.
        difference: head - base; None if it is not known.
        ci_low, ci_high: 95 % confidence interval of the difference.
        p_value: two-sided, of no difference.
        p_adjusted: the same after Holm's correction over all that is tested.
        test: how it was tested.
        verdict: what the test says, with the direction of the metric taken into account.
        reason: why the two cannot be compared; else empty.
    """

    method: str
    metric: str
    column: str
    kind: Literal["set", "group", "mean", "id"]
    base: float | None = None
    head: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    test: Test = ""
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChange:
    """Costs of one method in both runs.

    Attributes:
        method: its name on leaderboards.
        base_forwards, head_forwards, base_backwards, head_backwards: passes per image, counted.
        base_relative, head_relative: batched time over the baseline's of the same run.
        slower: head_relative / base_relative; None where one is missing.
        scatter: of the repetitions of these times, range over median, the largest of both runs;
            None if it is not known.
        verdict: from the passes, which are counted and exact; times alone decide nothing.
        reason: why the two cannot be compared; else empty.
    """

    method: str
    base_forwards: float | None = None
    head_forwards: float | None = None
    base_backwards: float | None = None
    head_backwards: float | None = None
    base_relative: float | None = None
    head_relative: float | None = None
    slower: float | None = None
    scatter: float | None = None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """A base and a head, and everything that differs between them.

    Attributes:
        base, head: the runs.
        changes: methods in the order of the head's leaderboard, then those that are gone; none of
            a method without values in both runs.
        costs: likewise.
        level: family-wise error rate of the verdicts.
        reason: why the two runs cannot be compared at all, such as another version of the
            benchmark; else empty.
        notes: what a reader has to know: weaker tests, other weights, changed files.
        missing_seeds: method with values in both runs -> seeds that only the base has values of.
    """

    base: Side
    head: Side
    changes: tuple[Change, ...]
    costs: tuple[CostChange, ...]
    level: float
    reason: str = ""
    notes: tuple[str, ...] = ()
    missing_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, verdict: Verdict) -> Sequence[Change]:
        """The changes with one verdict."""
        return [change for change in self.changes if change.verdict == verdict]


Severity = Literal["failure", "warning", "incomparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a gate reports.

    Attributes:
        severity: "failure" fails the gate; "warning" does not; "incomparable": the gate asked for
            something that cannot be compared.
        rule: what the gate asked for, as in "max-drop auroc=0.5".
        method: empty if it concerns the whole run.
        metric, column: empty where they do not apply.
        message: one sentence with the figures.
    """

    severity: Severity
    rule: str
    method: str = ""
    metric: str = ""
    column: str = ""
    message: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate found.

    Attributes:
        findings: the most severe first.
        rules: what the gate asked for, as in "max-drop auroc=0.5".
    """

    findings: tuple[Finding, ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """FINDING after a failure, INCOMPLETE if only a comparison is missing, else OK."""
        severities = {finding.severity for finding in self.findings}
        if "failure" in severities:
            return ExitCode.FINDING
        return ExitCode.INCOMPLETE if "incomparable" in severities else ExitCode.OK
