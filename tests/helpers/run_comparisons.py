"""Comparisons of two runs, made by hand: every verdict, every severity, any names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oodbench.run_comparison.changes import (
    Change,
    CostChange,
    Finding,
    GateResult,
    RunComparison,
    Side,
    Verdict,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b`c*d_e[f](http://x.y)",
    "esc\x1b[31mred\x1b[0m\x07",
    "two\nlines\r\n::error::no",
    "quote\"&amp;'",
    "nul\x00 \ufffe \u202ereversed",
    "=cmd, 50 %",
    "# heading",
)
"""Names that some format could take for its own markup."""

SETS = ("letters", "noise", "patches")


def side(folder: str = "base", **values: Any) -> Side:
    return Side(
        **{
            "folder": Path(folder),
            "benchmark": "digits",
            "version": 1,
            "id_dataset": "digits",
            "seeds": (0, 1, 2),
            "methods": (),
            "has_scores": True,
        }
        | values
    )


def change(method: str, verdict: Verdict, difference: float | None = None, **values: Any) -> Change:
    """A change of the AUROC of 91 %, on the mean of all sets; untested without a difference."""
    tested = {
        "head": 0.91 + (difference or 0.0),
        "difference": difference,
        "ci_low": (difference or 0.0) - 0.004,
        "ci_high": (difference or 0.0) + 0.004,
        "p_value": 0.00002,
        "p_adjusted": 0.0004,
        "test": "DeLong",
    }
    fields = {"metric": "auroc", "column": "mean", "kind": "mean", "base": 0.91}
    fields |= {"head": 0.88} if difference is None else tested
    return Change(method=method, verdict=verdict, **fields | values)


def changes_of(
    method: str, verdict: Verdict, difference: float | None = None, **values: Any
) -> list[Change]:
    """A method's changes of two metrics on each set, group and the mean."""
    places = [("mean", "mean"), ("near", "group"), ("far", "group")]
    places += [(name, "set") for name in SETS]
    return [
        change(method, verdict, difference, metric=metric, column=column, kind=kind, **values)
        for metric in ("auroc", "aupr_out")
        for column, kind in places
    ]


def comparison(*names: str, same: int = 30) -> RunComparison:
    """Two methods are worse, one is better, new, gone and not comparable, `same` are the same.

    Args:
        names: of the first of these methods.
        same: number of methods without a difference.
    """
    default = ("SoftMax+Energy", "SoftMax+ODIN (fixed)", "DisMax+Entropy", "SoftMax+New")
    default += ("SoftMax+Gone", "SoftMax+ReAct")
    first, second, better, new, gone, other = (*names, *default[len(names) :])
    changes = changes_of(first, Verdict.WORSE, -0.0203)
    changes += changes_of(second, Verdict.SAME, -0.0011)[:-3]
    changes += changes_of(second, Verdict.WORSE, -0.0312)[-3:]
    changes += changes_of(better, Verdict.BETTER, 0.0152)
    changes += changes_of(new, Verdict.NEW, base=None)
    changes += changes_of(gone, Verdict.GONE, head=None)
    reason = "other images: the digests of letters differ"
    changes += changes_of(other, Verdict.NOT_COMPARABLE, reason=reason)
    methods = [f"SoftMax+Method{number}" for number in range(same)]
    for method in methods:
        changes += changes_of(method, Verdict.SAME, 0.0004)
    costs = [
        CostChange(
            method=first,
            base_forwards=1.0,
            head_forwards=2.0,
            base_backwards=0.0,
            head_backwards=1.0,
            base_relative=1.02,
            head_relative=3.14,
            slower=3.08,
            verdict=Verdict.WORSE,
        ),
        CostChange(method=other, verdict=Verdict.NOT_COMPARABLE, reason="no costs in the base"),
    ]
    names = (first, second, better, new, gone, other, *methods)
    return RunComparison(
        base=side("runs/base", methods=tuple(name for name in names if name != new)),
        head=side("runs/head", methods=tuple(name for name in names if name != gone)),
        changes=tuple(changes),
        costs=tuple(costs),
        level=0.05,
        notes=("Weights differ: the spread over seeds is used for DisMax+Entropy.",),
    )


def gate_result(*names: str) -> GateResult:
    """A failure on a set and one on a mean, a missing comparison, a warning.

    Args:
        names: of the methods of the failures, as for `comparison`.
    """
    first, other = (*names, *("SoftMax+Energy", "SoftMax+ReAct")[len(names) :])[:2]
    return GateResult(
        (
            Finding(
                severity="failure",
                rule="max-drop auroc=0.5",
                method=first,
                metric="auroc",
                column="letters",
                message="AUROC on letters fell by 2.03 points, from 91.00 to 88.97 %.",
            ),
            Finding(
                severity="failure",
                rule="max-slower 1.2",
                method=first,
                message="the time over the baseline's grew by a factor of 3.08.",
            ),
            Finding(
                severity="incomparable",
                rule="max-drop auroc=0.5",
                method=other,
                metric="auroc",
                column="noise",
                message="AUROC on noise cannot be compared: other images.",
            ),
            Finding(
                severity="warning",
                rule="max-drop auroc=0.5",
                method="SoftMax+ODIN (fixed)",
                metric="auroc",
                column="patches",
                message="AUROC on patches fell by 3.12 points, which chance explains.",
            ),
        )
    )
