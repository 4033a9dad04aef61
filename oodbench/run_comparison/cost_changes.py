"""What a method costs in two runs: counted passes, and time relative to the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from oodbench.errors import listed
from oodbench.run_comparison.changes import CostChange, Verdict
from oodbench.run_comparison.indexed_run import IndexedRun
from oodbench.storage.records import CostRecord

Costs = Mapping[str, Mapping[int, CostRecord]]
"""Method -> seed -> costs."""


def cost_changes(
    base: IndexedRun, head: IndexedRun, methods: Sequence[str], reason: str
) -> tuple[CostChange, ...]:
    """The costs of each method that has some, in order.

    Passes are means over the seeds that both runs have, relative times are medians over them.

    Args:
        base: the base.
        head: the head.
        methods: names of the methods.
        reason: why nothing can be compared; empty if it can.
    """
    before, after = _costs(base), _costs(head)
    return tuple(
        _change(
            method,
            before.get(method, {}),
            after.get(method, {}),
            reason or _unrecorded(method, (base, before), (head, after)),
        )
        for method in methods
        if method in before or method in after
    )


def _unrecorded(method: str, *sides: tuple[IndexedRun, Costs]) -> str:
    """That a run has values of the method and no costs; empty if it has both, or none."""
    missing = [side.name for side, costs in sides if method in side.rows and method not in costs]
    return f"no costs in the {missing[0]}" if missing else ""


def _costs(side: IndexedRun) -> Costs:
    found: dict[str, dict[int, CostRecord]] = {}
    for cost in side.run.costs:
        found.setdefault(cost.method, {})[cost.seed] = cost
    return found


def _change(
    method: str, base: Mapping[int, CostRecord], head: Mapping[int, CostRecord], reason: str
) -> CostChange:
    seeds = [seed for seed in sorted(base) if seed in head]
    old = [base[seed] for seed in seeds or base]
    new = [head[seed] for seed in seeds or head]
    before, after = _relative(old), _relative(new)
    verdict = Verdict.NOT_COMPARABLE
    slower = None
    if not reason and not old:
        verdict = Verdict.NEW
    elif not reason and not new:
        verdict = Verdict.GONE
    elif not reason and not seeds:
        reason = (
            f"other seeds: {listed(sorted(base))} in the base, {listed(sorted(head))} in the head"
        )
    elif not reason:
        verdict = _verdict([_passes(each) for each in old], [_passes(each) for each in new])
        devices = [listed(dict.fromkeys(each.device for each in side)) for side in (old, new)]
        if devices[0] != devices[1]:
            reason = f"times on other devices: {devices[0]} in the base, {devices[1]} in the head"
        elif before and after is not None:
            slower = after / before
    return CostChange(
        method=method,
        base_forwards=_mean([each.forwards_per_image for each in old]),
        head_forwards=_mean([each.forwards_per_image for each in new]),
        base_backwards=_mean([each.backwards_per_image for each in old]),
        head_backwards=_mean([each.backwards_per_image for each in new]),
        base_relative=before,
        head_relative=after,
        slower=slower,
        scatter=max(
            (each.time_scatter for each in (*old, *new) if each.time_scatter is not None),
            default=None,
        ),
        verdict=verdict,
        reason=reason,
    )


def _passes(cost: CostRecord) -> tuple[float, float]:
    return cost.forwards_per_image, cost.backwards_per_image


def _verdict(base: Sequence[tuple[float, float]], head: Sequence[tuple[float, float]]) -> Verdict:
    """Worse if a seed has more passes of a kind, better if it has fewer and none has more."""
    steps = [
        new - old
        for before, after in zip(base, head, strict=True)
        for old, new in zip(before, after, strict=True)
        if not math.isclose(old, new, rel_tol=1e-9)  # a partial pass is a fraction
    ]
    if any(step > 0 for step in steps):
        return Verdict.WORSE
    return Verdict.BETTER if any(step < 0 for step in steps) else Verdict.SAME


def _relative(costs: Sequence[CostRecord]) -> float | None:
    found = [each.relative_to_baseline for each in costs if each.relative_to_baseline is not None]
    return median(found) if found else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
