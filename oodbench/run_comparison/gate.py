"""The gate of a CI job: what a comparison of two runs must not show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from oodbench.errors import UserError, did_you_mean, listed, shown
from oodbench.report.tables.cost_tables import SCATTER_LIMIT
from oodbench.run_comparison.changes import (
    Change,
    Finding,
    GateResult,
    RunComparison,
    Severity,
    Verdict,
)
from oodbench.run_comparison.drop_rules import check_metric, drops, figures, finding, incomparable

FailOn = Literal["worse", "missing", "any"]

_SEVERITIES: tuple[Severity, ...] = ("failure", "incomparable", "warning")


def _several(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class Gate(BaseModel):
    """What fails a comparison.

    Attributes:
        max_drop: METRIC, METRIC@METHOD or METRIC@COLUMN -> the largest drop, in percentage points;
            a column is an OOD set, a group, or "mean". A rule for a method comes before one for a
            column, and that before one for all. A metric that is better if lower drops by rising.
        max_slower: largest relative time of a method in the head over that in the base. Times whose
            repetitions scatter by more than `SCATTER_LIMIT` fail nothing.
        fail_on: "worse": a verdict "worse"; "missing": a method, OOD set or seed that only the base
            has values of; "any": any verdict but "no difference shown", and missing seeds.
        allow_cost: whether the numbers of passes may change.
        strict: whether a drop that chance explains fails too.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    max_drop: dict[str, Annotated[float, Field(ge=0, le=100)]] = {}
    max_slower: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    fail_on: Annotated[tuple[FailOn, ...], BeforeValidator(_several)] = ()
    allow_cost: bool = False
    strict: bool = False

    @classmethod
    def read(cls, content: Any, where: str) -> Self:
        """A gate of a section of TOML or YAML; dashes in keys are read as underscores.

        Args:
            content: the section.
            where: the file and section, for messages.

        Raises:
            UserError: if a key is not known, or a value is not possible.
        """
        if not isinstance(content, Mapping):
            raise UserError(f"{where}: expected keys with values, not {shown(content)}.")
        keys: dict[str, Any] = {}
        for name, value in content.items():
            key = str(name).replace("-", "_")
            if key in keys:
                raise UserError(f"{where}: {shown(key)} is given twice.")
            keys[key] = value
            if key not in cls.model_fields:
                raise UserError(
                    f"{where}: there is no key {shown(key)}.", did_you_mean(key, cls.model_fields)
                )
        try:
            gate = cls.model_validate(keys)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"]))
            if first["type"] == "dict_type":
                raise UserError(
                    f"{where}: {place}: expected limits by metric, not {shown(first['input'])}.",
                    f"Write them as in {place} = {{auroc = 0.5}}.",
                ) from error
            raise UserError(
                f"{where}: {place}: {first['msg']}, not {shown(first['input'])}."
            ) from error
        for rule in gate.max_drop:
            check_metric(rule, where)
        return gate

    @classmethod
    def of_options(
        cls,
        max_drop: Iterable[str] = (),
        max_slower: float | None = None,
        fail_on: Iterable[str] = (),
        *,
        allow_cost: bool = False,
        strict: bool = False,
    ) -> Self:
        """A gate of the options of the command line.

        Args:
            max_drop: "METRIC=X", "METRIC@METHOD=X" or "METRIC@COLUMN=X".
            max_slower: as the attribute.
            fail_on: names.
            allow_cost: as the attribute.
            strict: as the attribute.

        Raises:
            UserError: if one of them is not possible.
        """
        drops: dict[str, float] = {}
        for text in max_drop:
            rule, equals, number = text.rpartition("=")
            if rule in drops:
                raise UserError(f"--max-drop: {shown(rule)} is given twice.", "Give one limit.")
            try:
                drops[rule] = float(number)
            except ValueError:
                equals = ""
            if not equals or not rule:
                raise UserError(
                    "--max-drop: expected METRIC=X, METRIC@METHOD=X or METRIC@COLUMN=X, not "
                    f"{shown(text)}.",
                    "X is in percentage points, as in --max-drop auroc=0.5.",
                )
        content = {
            "max_drop": drops,
            "max_slower": max_slower,
            "fail_on": tuple(fail_on),
            "allow_cost": allow_cost,
            "strict": strict,
        }
        return cls.read(content, "options of the gate")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that it names: they have to be compared."""
        return tuple(dict.fromkeys(rule.partition("@")[0] for rule in self.max_drop))

    @property
    def rules(self) -> tuple[str, ...]:
        """What it asks for, as on the command line."""
        return (
            *(f"max-drop {rule}={limit:g}" for rule, limit in self.max_drop.items()),
            *([] if self.max_slower is None else [f"max-slower {self.max_slower:g}"]),
            *(f"fail-on {kind}" for kind in self.fail_on),
            *(["allow-cost"] if self.allow_cost else []),
            *(["strict"] if self.strict else []),
        )


def check(comparison: RunComparison, gate: Gate) -> GateResult:
    """What a gate finds in a comparison.

    Raises:
        UserError: if a rule names a metric, method or column that neither run has.
    """
    if comparison.reason:
        message = f"The runs cannot be compared: {comparison.reason}."
        finding = Finding(severity="incomparable", rule="compare", message=message)
        return GateResult((finding,), gate.rules)
    found = [
        *_nothing(comparison),
        *drops(comparison, gate.max_drop, gate.strict),
        *_slower(comparison, gate),
        *_passes(comparison, gate),
        *(each for kind in gate.fail_on for each in _verdicts(comparison, kind)),
        *(each for kind in gate.fail_on if kind != "worse" for each in _seeds(comparison, kind)),
    ]
    found.sort(key=lambda each: _SEVERITIES.index(each.severity))
    return GateResult(tuple(found), gate.rules)


def _nothing(comparison: RunComparison) -> Iterator[Finding]:
    """That nothing at all can be compared."""
    verdicts = {each.verdict for each in comparison.changes}
    if verdicts == {Verdict.NOT_COMPARABLE}:
        reasons = dict.fromkeys(each.reason for each in comparison.changes)
        yield Finding(
            severity="incomparable",
            rule="compare",
            message=f"Nothing can be compared: {listed(reasons, 2)}.",
        )


def _slower(comparison: RunComparison, gate: Gate) -> Iterator[Finding]:
    limit = gate.max_slower
    if limit is None:
        return
    rule = f"max-slower {limit:g}"
    measured = [
        each for each in comparison.costs if each.verdict not in (Verdict.NEW, Verdict.GONE)
    ]
    if not measured:
        yield Finding(
            severity="incomparable", rule=rule, message="No method has costs in both runs."
        )
    missing: dict[str, list[str]] = {}
    for each in measured:
        if each.slower is None:
            reason = each.reason or "no relative time is recorded"
            missing.setdefault(reason, []).append(each.method)
        elif each.slower > limit:
            scatter = each.scatter or 0.0
            decides = scatter <= SCATTER_LIMIT
            unsteady = (
                " This is only a warning, since repetitions of the time vary by "
                f"{scatter:.0%}, more than {SCATTER_LIMIT:.0%}. Measure again on a quiet machine."
            )
            yield Finding(
                severity="failure" if decides else "warning",
                rule=rule,
                method=each.method,
                message=(
                    f"{each.method} takes {each.slower:.2f} times as long as in the base, more "
                    f"than {limit:g} ({each.base_relative:.2f} -> {each.head_relative:.2f} times "
                    f"the baseline).{'' if decides else unsteady}"
                ),
            )
    for reason, methods in missing.items():
        message = f"Times of {listed(methods, 3)} cannot be compared: {reason}."
        yield _of_methods(methods, "incomparable", rule, message)


def _passes(comparison: RunComparison, gate: Gate) -> Iterator[Finding]:
    if gate.allow_cost:
        return
    rule = "passes per image"
    unknown: dict[str, list[str]] = {}
    for each in comparison.costs:
        if each.verdict == Verdict.NOT_COMPARABLE and each.base_forwards is not None:
            unknown.setdefault(each.reason, []).append(each.method)
        elif each.verdict in (Verdict.BETTER, Verdict.WORSE):
            yield Finding(
                severity="failure",
                rule=rule,
                method=each.method,
                message=(
                    f"{each.method} takes other passes per image: forward "
                    f"{each.base_forwards:g} -> {each.head_forwards:g}, backward "
                    f"{each.base_backwards:g} -> {each.head_backwards:g}."
                ),
            )
    for reason, methods in unknown.items():
        message = f"Passes per image of {listed(methods, 3)} were not compared: {reason}."
        yield _of_methods(methods, "warning", rule, message)


def _verdicts(comparison: RunComparison, kind: FailOn) -> Iterator[Finding]:
    rule = f"fail-on {kind}"
    absent: dict[tuple[str, str], list[Change]] = {}
    unknown: list[Change] = []
    for each in comparison.changes:
        if each.verdict == Verdict.NOT_COMPARABLE and each.head is not None is not each.base:
            unknown.append(each)
        elif what := _what(each, kind):
            if each.difference is None:
                absent.setdefault((each.method, what), []).append(each)
            else:
                yield finding("failure", rule, each, f"{what} ({figures(each)})")
    for (method, what), changes in absent.items():
        columns = list(dict.fromkeys(each.column for each in changes))
        where = "" if "mean" in columns else f" on {listed(columns)}"
        yield Finding(
            severity="failure", rule=rule, method=method, message=f"{method} {what}{where}."
        )
    if kind != "missing":
        yield from incomparable(rule, unknown)


def _seeds(comparison: RunComparison, kind: FailOn) -> Iterator[Finding]:
    """That methods have fewer seeds in the head: one finding for all that lack the same ones."""
    methods: dict[tuple[int, ...], list[str]] = {}
    for method, seeds in comparison.missing_seeds.items():
        methods.setdefault(seeds, []).append(method)
    for seeds, found in methods.items():
        has = "has" if len(found) == 1 else "have"
        number = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {listed(seeds)}"
        message = f"{listed(found, 3)} {has} no values of {number} in the head."
        yield _of_methods(found, "failure", f"fail-on {kind}", message)


def _of_methods(methods: Sequence[str], severity: Severity, rule: str, message: str) -> Finding:
    """A finding about several methods, which has the name of a method if it is about one alone."""
    method = methods[0] if len(methods) == 1 else ""
    return Finding(severity=severity, rule=rule, method=method, message=message)


def _what(change: Change, kind: FailOn) -> str:
    """What a gate finds of a change, as a predicate; empty if it is fine."""
    verdict = change.verdict
    if verdict in (Verdict.WORSE, Verdict.BETTER):
        finds = kind == "any" or (kind == "worse" and verdict == Verdict.WORSE)
        return f"is {verdict}" if finds else ""
    if kind == "worse":
        return ""
    if verdict == Verdict.NOT_COMPARABLE and change.base is not None and change.head is None:
        return f"has no value in the head ({change.reason})"
    if verdict == Verdict.GONE:
        return "is only in the base"
    return "is only in the head" if verdict == Verdict.NEW and kind == "any" else ""
