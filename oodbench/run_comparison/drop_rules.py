"""Rules of a gate about the largest drop of a metric, and findings about changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from oodbench.errors import UserError, did_you_mean, listed, shown
from oodbench.metrics.metric_tables import SEE_METRICS
from oodbench.report.leaderboard import SHOWN
from oodbench.run_comparison.changes import Change, Finding, RunComparison, Severity, Verdict

_NOT_IN_BASE = {Verdict.NEW, Verdict.NOT_COMPARABLE}


def drops(
    comparison: RunComparison, max_drop: Mapping[str, float], strict: bool
) -> Iterator[Finding]:
    """What rules about the largest drop find.

    Args:
        comparison: two runs.
        max_drop: rule -> points, as in `Gate`.
        strict: whether a drop that chance explains fails too.

    Raises:
        UserError: if a rule names a metric, method or column that neither run has.
    """
    rules = [_Rule(text, limit, comparison) for text, limit in max_drop.items()]
    for rule in rules:
        yield from rule.findings(rules, strict)


def check_metric(rule: str, where: str) -> None:
    """Check the metric of a rule.

    Raises:
        UserError: if it is not known; it begins with `where`.
    """
    metric = rule.partition("@")[0]
    if metric not in SHOWN:
        raise UserError(
            f"{where}: there is no metric {shown(metric)}.",
            did_you_mean(metric, SHOWN, SEE_METRICS),
        )


class _Rule:
    """A largest drop.

    Attributes:
        metric: its metric.
        name: of a method or column; empty for a rule for all.
        breadth: 0 for a method, 1 for a column, 2 for all; the narrowest rule applies.
        limit: the largest drop, in points.
        label: as in `Finding.rule`.
    """

    def __init__(self, text: str, limit: float, comparison: RunComparison) -> None:
        check_metric(text, "max-drop")
        self.metric, named, self.name = text.partition("@")
        self.limit, self.label = limit, f"max-drop {text}={limit:g}"
        self._comparison = comparison
        methods = {*comparison.base.methods, *comparison.head.methods}
        columns = {each.column for each in comparison.changes}
        self.breadth = 2 if not named else 0 if self.name in methods else 1
        if named and self.name not in methods | columns:
            raise UserError(
                f"max-drop {text}: neither run has a method, an OOD set or a group "
                f"{shown(self.name)}.",
                did_you_mean(self.name, methods | columns),
            )

    def covers(self, change: Change) -> bool:
        """Whether a change is of its metric, and of its method or column."""
        found = (change.method, change.column, self.name)[self.breadth]
        return change.metric == self.metric and found == self.name

    def findings(self, rules: Sequence[_Rule], strict: bool) -> Iterator[Finding]:
        """What it finds, except where a narrower rule applies."""
        mine = [each for each in self._comparison.changes if self.covers(each)]
        if not mine:
            yield Finding(
                severity="incomparable",
                rule=self.label,
                metric=self.metric,
                message=f"{self.metric} of {self.name or 'any method'} was not compared.",
            )
        narrower = [rule for rule in rules if rule.breadth < self.breadth]
        missing: list[Change] = []
        gone: list[str] = []
        # Values that are gone are a warning, and those that the base lacks are new, unless nothing
        # else is left that the rule is about.
        verdicts = {change.verdict for change in mine}
        nothing_left = verdicts <= {Verdict.GONE} or verdicts <= _NOT_IN_BASE
        for change in mine:
            if any(rule.covers(change) for rule in narrower):
                continue
            if change.verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.SAME):
                yield from self._drop(change, strict)
            elif (
                self.breadth == 0
                or (nothing_left and change.verdict != Verdict.NEW)
                or (change.verdict == Verdict.NOT_COMPARABLE and change.base is not None)
            ):
                missing.append(change)
            elif change.verdict == Verdict.GONE:
                gone.append(change.method)
        yield from incomparable(self.label, missing)
        for method in dict.fromkeys(gone):
            message = f"{method} has values that are only in the base; they were not checked."
            yield Finding(severity="warning", rule=self.label, method=method, message=message)

    def _drop(self, change: Change, strict: bool) -> Iterator[Finding]:
        assert change.difference is not None
        higher_is_better = SHOWN[change.metric].higher_is_better
        drop = -100 * change.difference if higher_is_better else 100 * change.difference
        # Decimal limits are no binary fractions: a drop of 0.5 points is not beyond 0.5.
        if drop <= self.limit or math.isclose(drop, self.limit, rel_tol=1e-9):
            return
        severity: Severity = "failure" if strict or change.verdict == Verdict.WORSE else "warning"
        verb = "drops" if higher_is_better else "rises"
        what = f"{verb} by {drop:.2f} points, more than {self.limit:g} ({figures(change)})"
        yield finding(severity, self.label, change, what)


def figures(change: Change) -> str:
    """Values, interval and p-value of a change, for a message."""
    parts = [f"{100 * value:.2f} %" for value in (change.base, change.head) if value is not None]
    found = [" -> ".join(parts)]
    if change.ci_low is not None and change.ci_high is not None:
        found.append(
            f"95 % CI of the difference {100 * change.ci_low:+.2f} to {100 * change.ci_high:+.2f}"
        )
    if change.p_adjusted is not None:
        p = f"p = {change.p_adjusted:.2g}" if change.p_adjusted >= 1e-4 else "p < 0.0001"
        found.append(f"{p} after Holm's correction")
    if change.verdict == Verdict.SAME:
        found.append("chance can explain it")
    return "; ".join(found)


def finding(severity: Severity, rule: str, change: Change, what: str) -> Finding:
    """A finding about one change.

    Args:
        severity: as in `Finding`.
        rule: as in `Finding`.
        change: the change.
        what: a predicate, as in "is worse".
    """
    place = "on average" if change.kind == "mean" else f"on {change.column}"
    return Finding(
        severity=severity,
        rule=rule,
        method=change.method,
        metric=change.metric,
        column=change.column,
        message=f"{SHOWN[change.metric].short_title} of {change.method} {place} {what}.",
    )


def incomparable(rule: str, changes: Sequence[Change]) -> Iterator[Finding]:
    """One finding for each reason, and for each method if there are several reasons."""
    reasons: dict[str, list[Change]] = {}
    for each in changes:
        reason = each.reason or f"values are {each.verdict}"
        reasons.setdefault(reason, []).append(each)
    for reason, found in reasons.items():
        methods = list(dict.fromkeys(each.method for each in found))
        column = found[0].column if len(found) == 1 else ""
        place = f" on {column}" if found[0].kind == "set" and column else ""
        yield Finding(
            severity="incomparable",
            rule=rule,
            method=methods[0] if len(methods) == 1 else "",
            metric=found[0].metric,
            column=column,
            message=f"{listed(methods, 3)}{place} cannot be compared: {reason}.",
        )
