"""The results of a model and seed in a line or two, while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from oodbench.storage.records import QualityRecord

_LISTED = 5
"""Methods of a line with first results: the best, and the best of the user's."""


def first_results(
    records: Mapping[str, Sequence[QualityRecord]], own: Set[str] = frozenset()
) -> Iterator[str]:
    """Lines with mean AUROCs over the OOD sets, and the reason of each failure.

    Of many methods, the best are in the line, and those of the user.

    Args:
        records: method -> its records of one seed.
        own: methods whose detectors are not built in.
    """
    means: dict[str, float] = {}
    for name, group in records.items():
        values = [each.value for each in group if each.metric == "auroc" and each.value is not None]
        if values:
            means[name] = sum(values) / len(values)
        elif group[0].status == "failed":
            yield f"FAILED: {name}: {group[0].reason}"
    if means:
        best_first = sorted(means, key=means.__getitem__, reverse=True)
        wanted = [name for name in best_first if name in own][:_LISTED]
        chosen = {*best_first[:_LISTED], *wanted}
        chosen = chosen if len(best_first) > len(chosen) + 1 else {*best_first}
        said = [f"{100 * means[name]:.1f} % {name}" for name in best_first if name in chosen]
        left = len(best_first) - len(said)
        yield f"mean AUROC {', '.join(said)}{f' and {left} more' if left else ''}"
