"""Values as text: percentages, intervals, costs, parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from oodbench.errors import visible
from oodbench.report.leaderboard import SHOWN, Choice, Entry, Row
from oodbench.report.seed_means import FEWEST_SEEDS, LEVEL, Estimate
from oodbench.report.tables.document import Cell

UP_SIGN, DOWN_SIGN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
"""Follow the name of a metric: higher, or lower, is better."""

BASELINE_SIGN = "\N{MULTIPLICATION SIGN}"

SPREAD_SIGN = "\N{PLUS-MINUS SIGN}"

_TUNED_ON = {
    "none": "-",
    "fgsm": "FGSM",
    "ood_oracle": "OOD oracle",
    "ood_validation": "OOD validation",
}


def tuned_on_text(protocol: str, ood: str = "") -> str:
    """The protocol by which a method was tuned, with the OOD set that it was tuned on."""
    text = _TUNED_ON.get(protocol, protocol)
    return f"{text} ({ood})" if ood else text


def value_cell(entry: Entry | None, *, spread: bool = False, decimals: int = 1) -> Cell:
    """A metric in percent, with its mark; an empty cell if there is none.

    Args:
        entry: the value.
        spread: whether to add the standard deviation over seeds, if there are three or more.
        decimals: number of decimals.
    """
    if entry is None:
        return Cell()
    std = entry.estimate.std if spread and entry.estimate.seeds >= FEWEST_SEEDS else None
    after = "" if std is None else SPREAD_SIGN + percent(std, decimals)
    return Cell(percent(entry.estimate.mean, decimals), entry.mark, after)


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.{decimals}f}"


def interval_text(found: Estimate) -> str:
    """A confidence interval in percent; with two seeds their values; empty if there is neither."""
    if found.seeds == 2:
        return ", ".join(map(percent, found.by_seed.values()))
    if found.ci_low is None or found.ci_high is None:
        return ""
    return f"{percent(found.ci_low)}-{percent(found.ci_high)}"


def interval_title(entries: Iterable[Entry | None]) -> str:
    """The heading of a column of `interval_text`."""
    seeds = {entry.estimate.seeds for entry in entries if entry is not None}
    return "Both seeds" if seeds == {2} else f"{LEVEL:.0%} interval"


def metric_title(metric: str) -> str:
    """The abbreviation of a metric of `SHOWN`, with an arrow that says which way is better."""
    about = SHOWN[metric]
    return f"{about.short_title}{UP_SIGN if about.higher_is_better else DOWN_SIGN}"


def parameters_text(choices: Sequence[Choice], names: Collection[str] | None = None) -> str:
    """Detector parameters on one line: "epsilon 0, 0.0014, 0; temperature 1000".

    Several values belong to the seeds, in order; a value that all seeds share is given once. If
    the OOD sets of a seed have different values, each value is followed by its set in brackets.

    Args:
        choices: the parameters of each seed.
        names: which parameters; default: all.
    """
    if names is None:
        names = {name for choice in choices for name in choice.values}
    parts = []
    for name in sorted(names):
        by_set: dict[str | None, list[str]] = {}
        sets = dict.fromkeys(each.ood_dataset for each in choices if each.ood_dataset is not None)
        for choice in choices:
            value = _parameter(choice.values.get(name))
            # One value for a whole seed holds for each of its sets.
            for ood in sets if choice.ood_dataset is None and sets else (choice.ood_dataset,):
                by_set.setdefault(ood, []).append(value)
        texts = {ood: _once(values) for ood, values in by_set.items()}
        if len(set(texts.values())) > 1:
            parts.append(f"{name} " + ", ".join(f"{text} ({ood})" for ood, text in texts.items()))
        else:
            parts.append(f"{name} {next(iter(texts.values()))}")
    return visible("; ".join(parts)) or "-"


def _once(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _parameter(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_parameter, value)) + "]"
    return str(value)


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds on one line."""
    return ", ".join(map(str, seeds))


def cost_of(row: Row, name: str) -> float | None:
    """A cost of a method by its name in records; None if it was not measured."""
    return None if row.cost is None else row.cost.values[name]


def decimal(value: float | None, decimals: int) -> str:
    """A number with this many decimals; empty if there is none."""
    return "" if value is None else f"{value:,.{decimals}f}"


def short_decimal(value: float | None) -> str:
    """At most two decimals, and none that are zero."""
    return "" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def same_decimals(values: Sequence[float | None]) -> Callable[[float | None], str]:
    """A formatter with the same number of decimals for all values of a column.

    The smallest value keeps two digits, with at most three decimals; whole numbers have none.
    """
    sizes = [abs(value) for value in values if value]
    if all(size == round(size) for size in sizes):
        decimals = 0
    else:
        decimals = max(0, min(3, 1 - math.floor(math.log10(min(sizes)))))
    return lambda value: decimal(value, decimals)


def unit_prefix(values: Sequence[float | None]) -> tuple[float, str]:
    """The largest power of 1000 that is not above the smallest value, and its prefix."""
    smallest = min((value for value in values if value), default=1.0)
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if smallest >= unit:
            return unit, prefix
    return 1.0, ""
