"""The gate: its rules, what it finds, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.records import cost
from helpers.stored_runs import draw, jittered, write_run

from oodbench.errors import ExitCode, UserError
from oodbench.run_comparison.changes import (
    Change,
    CostChange,
    GateResult,
    RunComparison,
    Side,
    Verdict,
)
from oodbench.run_comparison.comparison import compare_runs
from oodbench.run_comparison.gate import Gate, check

METHODS = ("A", "B")


def side(**changes: Any) -> Side:
    known: dict[str, Any] = {
        "folder": Path("run"),
        "benchmark": "toy",
        "version": 1,
        "id_dataset": "digits",
        "seeds": (0,),
        "methods": METHODS,
        "has_scores": True,
    }
    return Side(**(known | changes))


def of(method: str, column: str, difference: float, verdict: Verdict, **changes: Any) -> Change:
    """A change of the AUROC from 0.9."""
    known: dict[str, Any] = {
        "metric": "auroc",
        "kind": {"near": "group", "mean": "mean"}.get(column, "set"),
        "base": 0.9,
        "head": 0.9 + difference,
        "difference": difference,
        "ci_low": difference - 0.01,
        "ci_high": difference + 0.01,
        "p_value": 0.01,
        "p_adjusted": 0.02,
        "test": "DeLong",
    }
    return Change(method=method, column=column, verdict=verdict, **(known | changes))


def missing(method: str, column: str, verdict: Verdict, **changes: Any) -> Change:
    empty = dict.fromkeys(("difference", "ci_low", "ci_high", "p_value", "p_adjusted"))
    return replace(of(method, column, 0.0, verdict, test="", **changes), **empty)


def comparison(changes: Iterable[Change], costs: Iterable[CostChange] = ()) -> RunComparison:
    return RunComparison(
        base=side(), head=side(), changes=tuple(changes), costs=tuple(costs), level=0.05
    )


DROPPED = comparison(
    [
        of("A", "letters", -0.02, Verdict.WORSE),
        of("A", "near", -0.02, Verdict.WORSE),
        of("A", "mean", -0.02, Verdict.SAME),
        of("B", "letters", 0.01, Verdict.BETTER),
        of("B", "near", 0.001, Verdict.SAME),
        of("B", "mean", -0.004, Verdict.WORSE),
    ]
)


def gate(*max_drop: str, **changes: Any) -> Gate:
    return Gate.of_options(max_drop, **changes)


def found(result: GateResult) -> set[tuple[str, str, str]]:
    return {(each.severity, each.method, each.column) for each in result.findings}


def test_a_drop_that_is_shown_fails_and_one_by_chance_warns() -> None:
    result = check(DROPPED, gate("auroc=0.5"))
    assert found(result) == {
        ("failure", "A", "letters"),
        ("failure", "A", "near"),
        ("warning", "A", "mean"),
    }
    assert result.exit_code == ExitCode.FINDING
    first = result.findings[0]
    assert first.rule == "max-drop auroc=0.5"
    assert first.metric == "auroc"
    assert "AUROC of A on letters drops by 2.00 points, more than 0.5" in first.message
    assert "90.00 % -> 88.00 %" in first.message
    assert "-3.00 to -1.00" in first.message
    assert "p = 0.02" in first.message
    assert result.findings[-1].severity == "warning"
    assert "chance can explain it" in result.findings[-1].message


def test_strict_fails_on_chance_too() -> None:
    result = check(DROPPED, gate("auroc=0.5", strict=True))
    assert found(result) == {("failure", "A", column) for column in ("letters", "near", "mean")}


def test_a_warning_alone_is_fine() -> None:
    result = check(DROPPED, gate("auroc@mean=0.5"))
    assert found(result) == {("warning", "A", "mean")}
    assert result.exit_code == ExitCode.OK


def test_the_limit_itself_is_no_drop_beyond_it() -> None:
    assert not check(DROPPED, gate("auroc=2")).findings
    assert found(check(DROPPED, gate("auroc=1.999"))) != set()


def test_a_limit_of_0() -> None:
    result = check(DROPPED, gate("auroc@B=0"))
    assert found(result) == {("failure", "B", "mean")}


@pytest.mark.parametrize(
    ("rules", "columns"),
    [
        (["auroc@A=0.5"], {"A letters", "A near", "A mean"}),
        (["auroc@near=0.5"], {"A near"}),
        (["auroc=0.3", "auroc@A=5"], {"B mean"}),
        (["auroc=0.3", "auroc@mean=0.5"], {"A letters", "A near", "A mean"}),
        (["auroc@near=5", "auroc@A=0.5"], {"A letters", "A near", "A mean"}),
    ],
)
def test_the_most_specific_rule_applies(rules: list[str], columns: set[str]) -> None:
    result = check(DROPPED, gate(*rules))
    assert {f"{each.method} {each.column}" for each in result.findings} == columns


def test_metrics_that_are_better_if_lower_drop_by_rising() -> None:
    rises = [
        of("A", "mean", 0.03, Verdict.WORSE, metric=metric)
        for metric in ("fpr_at_95_tpr", "fpr95_ood_positive", "auroc")
    ]
    result = check(comparison(rises), gate("fpr_at_95_tpr=1", "fpr95_ood_positive=1", "auroc=1"))
    assert {each.metric for each in result.findings} == {"fpr_at_95_tpr", "fpr95_ood_positive"}
    assert "FPR95 of A on average rises by 3.00 points" in result.findings[0].message


@pytest.mark.parametrize(
    ("rule", "words", "near"),
    [
        ("aurok=1", "there is no metric 'aurok'.", "'auroc'"),
        ("auroc@Aa=1", "neither run has a method, an OOD set or a group 'Aa'.", "'A'"),
        ("auroc@leters=1", "neither run has a method, an OOD set or a group", "'letters'"),
    ],
)
def test_unknown_names(rule: str, words: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        check(DROPPED, gate(rule))
    assert words in caught.value.message
    assert near in caught.value.hint


def test_a_metric_that_was_not_compared() -> None:
    result = check(DROPPED, gate("dtacc=1"))
    assert result.exit_code == ExitCode.INCOMPLETE
    assert result.findings[0].message == "dtacc of any method was not compared."
    assert gate("dtacc=1", "auroc@A=1", "dtacc@near=2").metrics == ("dtacc", "auroc")


def test_what_cannot_be_compared() -> None:
    changes = [
        missing("A", column, Verdict.NOT_COMPARABLE, reason="other seeds")
        for column in ("near", "mean")
    ]
    result = check(comparison([*changes, of("B", "mean", 0.0, Verdict.SAME)]), gate("auroc=1"))
    (one,) = result.findings
    assert (one.severity, one.method, result.exit_code) == ("incomparable", "A", 3)
    assert one.message == "A cannot be compared: other seeds."
    with_failure = check(comparison([*changes, *DROPPED.changes]), gate("auroc=1"))
    assert with_failure.exit_code == ExitCode.FINDING


def test_what_the_base_lacks_cannot_drop() -> None:
    skipped = missing("A", "mean", Verdict.NOT_COMPARABLE, base=None, reason="skipped: why (base)")
    both = comparison(
        [skipped, of("B", "mean", 0.0, Verdict.SAME)],
        costs(base_forwards=None, slower=None, verdict=Verdict.NEW).costs
        + costs(method="B", slower=1.0).costs,
    )
    rules = gate("auroc=1", max_slower=2.0)
    assert check(both, rules).findings == ()
    assert check(both, gate("auroc@A=1")).exit_code == ExitCode.INCOMPLETE


def test_a_metric_that_the_base_lacks_is_incomplete() -> None:
    reason = "oscr is not recorded in the base"
    lacking = {"metric": "oscr", "base": None, "reason": reason}
    changes = [
        missing("A", "mean", Verdict.NOT_COMPARABLE, **lacking),
        missing("B", "mean", Verdict.NEW, metric="oscr", base=None),
        of("A", "mean", 0.0, Verdict.SAME),
    ]
    result = check(comparison(changes), gate("oscr=1"))
    assert [(each.severity, each.method) for each in result.findings] == [("incomparable", "A")]
    assert result.findings[0].message == f"A cannot be compared: {reason}."
    assert check(comparison(changes), gate("auroc=1")).findings == ()


def test_nothing_that_can_be_compared_is_incomplete_without_any_rule() -> None:
    changes = [
        missing(method, "mean", Verdict.NOT_COMPARABLE, reason="other benchmark version: 1, 2")
        for method in METHODS
    ]
    result = check(comparison(changes), Gate())
    assert result.exit_code == ExitCode.INCOMPLETE
    assert "other benchmark version" in result.findings[0].message


def test_runs_that_have_nothing_in_common() -> None:
    changes = [missing("A", "mean", Verdict.NOT_COMPARABLE, head=None, reason="other version")]
    other = replace(comparison(changes), reason="other version")
    result = check(other, gate("auroc@near=1", max_slower=2.0, fail_on=["any"]))
    assert [each.message for each in result.findings] == [
        "The runs cannot be compared: other version."
    ]
    assert result.exit_code == ExitCode.INCOMPLETE


def test_gone_and_new_methods() -> None:
    changes = comparison(
        [
            missing("A", "mean", Verdict.GONE, head=None),
            missing("A", "near", Verdict.GONE, head=None),
            missing("B", "mean", Verdict.NEW, base=None),
            missing("C", "mean", Verdict.NOT_COMPARABLE, head=None, reason="failed: no memory"),
        ]
    )
    assert check(changes, Gate()).exit_code == ExitCode.OK
    one, other = check(changes, gate(fail_on=["missing"])).findings
    assert (one.severity, one.method, one.message) == ("failure", "A", "A is only in the base.")
    assert other.message == "C has no value in the head (failed: no memory)."
    every = check(changes, gate(fail_on=["any"])).findings
    assert [each.method for each in every] == ["A", "B", "C"]
    drops = check(changes, gate("auroc=1")).findings
    assert {(each.severity, each.method) for each in drops} == {
        ("incomparable", "C"),
        ("warning", "A"),
    }
    named = check(changes, gate("auroc@A=1", "auroc@B=1"))
    assert [(each.severity, each.method) for each in named.findings] == [
        ("incomparable", "A"),
        ("incomparable", "B"),
    ]


def test_missing_seeds() -> None:
    """All methods that lack the same seeds are one finding."""
    same = comparison([of(name, "mean", 0.0, Verdict.SAME) for name in METHODS])
    fewer = replace(same, missing_seeds={"A": (1, 2), "B": (1, 2), "C": (0,)})
    for rule in ("missing", "any"):
        one, other = check(fewer, gate(fail_on=[rule])).findings
        assert (one.severity, one.rule, one.method) == ("failure", f"fail-on {rule}", "")
        assert one.message == "A, B have no values of seeds 1, 2 in the head."
        assert (other.method, other.message) == ("C", "C has no values of seed 0 in the head.")
        assert not check(same, gate(fail_on=[rule])).findings
    assert not check(fewer, gate("auroc=1", fail_on=["worse"])).findings


def test_verdicts() -> None:
    worse = check(DROPPED, gate(fail_on=["worse"]))
    assert {(each.method, each.column) for each in worse.findings} == {
        ("A", "letters"),
        ("A", "near"),
        ("B", "mean"),
    }
    every = check(DROPPED, gate(fail_on=["any"]))
    assert {each.method for each in every.findings if each.column == "letters"} == {"A", "B"}
    assert not check(DROPPED, Gate()).findings
    seeds = missing("A", "mean", Verdict.NOT_COMPARABLE, reason="other seeds")
    partly = comparison([seeds, of("B", "mean", 0.0, Verdict.SAME)])
    assert check(partly, gate(fail_on=["worse"])).exit_code == ExitCode.INCOMPLETE
    assert check(partly, gate(fail_on=["missing"])).exit_code == ExitCode.OK


def costs(**changes: Any) -> RunComparison:
    known: dict[str, Any] = {
        "method": "A",
        "base_forwards": 1.0,
        "head_forwards": 1.0,
        "base_backwards": 0.0,
        "head_backwards": 0.0,
        "base_relative": 1.0,
        "head_relative": 1.5,
        "slower": 1.5,
        "verdict": Verdict.SAME,
    }
    return comparison([], [CostChange(**(known | changes))])


def test_times() -> None:
    (one,) = check(costs(), gate(max_slower=1.2)).findings
    assert (one.severity, one.rule, one.method) == ("failure", "max-slower 1.2", "A")
    assert "1.50 times as long as in the base, more than 1.2 (1.00 -> 1.50 times" in one.message
    assert not check(costs(), gate(max_slower=1.5)).findings
    assert not check(costs(), Gate()).findings
    assert check(costs(scatter=0.2), gate(max_slower=1.2)).exit_code == ExitCode.FINDING
    unsteady = check(costs(scatter=0.34), gate(max_slower=1.2))
    (one,) = unsteady.findings
    assert (one.severity, unsteady.exit_code) == ("warning", ExitCode.OK)
    assert "only a warning, since repetitions of the time vary by 34%, more than 20%" in one.message
    result = check(costs(slower=None, reason="times on other devices"), gate(max_slower=2.0))
    assert result.exit_code == ExitCode.INCOMPLETE
    assert check(comparison([]), gate(max_slower=2.0)).exit_code == ExitCode.INCOMPLETE


def test_passes() -> None:
    more = costs(head_backwards=1.0, verdict=Verdict.WORSE)
    (one,) = check(more, Gate()).findings
    assert (one.severity, one.rule) == ("failure", "passes per image")
    assert "forward 1 -> 1, backward 0 -> 1" in one.message
    assert check(costs(head_forwards=0.5, verdict=Verdict.BETTER), Gate()).exit_code == 1
    assert not check(more, gate(allow_cost=True)).findings


def test_the_most_severe_come_first() -> None:
    changes = [
        of("A", "mean", -0.02, Verdict.SAME),
        missing("B", "mean", Verdict.NOT_COMPARABLE, reason="why"),
        of("C", "mean", -0.02, Verdict.WORSE),
    ]
    result = check(comparison(changes), gate("auroc=1"))
    assert [each.severity for each in result.findings] == ["failure", "incomparable", "warning"]


@pytest.mark.parametrize(
    "text", ["auroc", "auroc=", "auroc=x", "=1", "auroc=nan", "auroc=-1", "auroc=inf", "auroc=1%"]
)
def test_bad_options(text: str) -> None:
    with pytest.raises(UserError) as caught:
        gate(text)
    assert "max" in caught.value.message
    assert "drop" in caught.value.message


def test_a_rule_that_is_given_twice() -> None:
    with pytest.raises(UserError, match="--max-drop: 'auroc@A' is given twice"):
        gate("auroc@A=1", "auroc@A=2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"max-dorp": {}}, "gate.toml: there is no key 'max_dorp'"),
        ({"max-drop": {}, "max_drop": {}}, "'max_drop' is given twice"),
        ({"max-drop": {"auroc": "0.5"}}, "max_drop.auroc"),
        ({"max-drop": {"aurok": 0.5}}, "there is no metric 'aurok'"),
        ({"max_drop": ["auroc=0.5"]}, "max_drop"),
        ({"max_slower": 0}, "max_slower"),
        ({"fail-on": ["bad"]}, "fail_on.0"),
        ({"strict": "yes"}, "strict"),
        (["auroc=0.5"], "expected keys with values"),
    ],
)
def test_bad_files(content: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Gate.read(content, "gate.toml")
    assert caught.value.message.startswith("gate.toml")
    assert words in caught.value.message


def test_options_and_files_give_the_same_gate() -> None:
    content = {
        "max-drop": {"auroc": 1, "auroc@near": 0.5},
        "max-slower": 2,
        "fail-on": "worse",
        "allow-cost": True,
    }
    expected = Gate.of_options(
        ["auroc=1", "auroc@near=0.5"], 2.0, ["worse"], allow_cost=True, strict=False
    )
    assert Gate.read(content, "gate.toml") == expected
    assert Gate.read({}, "gate.toml") == Gate()
    rule = Gate.of_options(["auroc@=cmd|' /C calc'!A0=0.5"]).max_drop
    assert rule == {"auroc@=cmd|' /C calc'!A0": 0.5}, "names of methods may hold anything"


def test_with_runs(tmp_path: Path) -> None:
    """From scores to exit codes: itself, a worse method, another benchmark, a gone method."""
    a, b = draw(0), draw(1)
    base = write_run(tmp_path / "base", {("A", 0): a, ("B", 0): b})
    worse = write_run(tmp_path / "worse", {("A", 0): jittered(a, 5, drop=0.8), ("B", 0): b})
    other = write_run(tmp_path / "other", {("A", 0): a}, benchmark_version=2)
    slow = [cost("A", 0, relative_to_baseline=1.5), cost("B", 0, backwards_per_image=1.0)]
    slower = write_run(tmp_path / "slower", {("A", 0): a, ("B", 0): b}, costs=slow)
    rules = gate("auroc=0.5", "fpr_at_95_tpr@B=1", max_slower=1.2, fail_on=["worse", "missing"])
    assert check(compare_runs(base, base), rules).findings == ()
    result = check(compare_runs(base, worse), rules)
    assert result.exit_code == ExitCode.FINDING
    assert {each.method for each in result.findings} == {"A"}
    assert check(compare_runs(base, other), rules).exit_code == ExitCode.INCOMPLETE
    result = check(compare_runs(base, slower), rules)
    assert {(each.rule, each.method) for each in result.findings} == {
        ("max-slower 1.2", "A"),
        ("passes per image", "B"),
    }
