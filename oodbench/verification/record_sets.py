"""Which records a run has: every method, seed, OOD set and metric once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from oodbench.metrics import METRICS, OPTIONAL, of_id_images
from oodbench.storage.records import ID_ACCURACY, QualityRecord
from oodbench.storage.run_description import NAME, RunDescription
from oodbench.storage.run_directory import RECORDS
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.stored_lines import Key, Line, StoredLines, label, wrong_value

_Quality = Sequence[Line[QualityRecord]]


def check_sets(lines: StoredLines, description: RunDescription | None) -> Iterator[Discrepancy]:
    """Records that are missing, unknown or there twice.

    Args:
        lines: of the run.
        description: contents of `run.json`, if there is one.
    """
    groups = ood_groups(lines.records, description)
    recorded = {line.record.metric for line in lines.records}
    asked = recorded if description is None else set(description.of_benchmark.metrics)
    optional = [name for name in OPTIONAL if name in asked]
    labeled = description is None or not description.of_benchmark.unlabeled
    of_id = [ID_ACCURACY] if labeled else []
    for key, mine in lines.by_key.items():
        yield from _wrong_set(key, mine, groups, optional, of_id)
    if description is not None:
        yield from _keys(lines, description)


def _wrong_set(
    key: Key,
    mine: _Quality,
    groups: Mapping[str, str | None],
    optional: Sequence[str],
    of_id: Sequence[str],
) -> Iterator[Discrepancy]:
    """Metrics and OOD sets that are missing, unknown or recorded twice."""
    expected: list[tuple[str | None, str]] = [(ood, m) for ood in groups for m in METRICS]
    if mine[0].record.status == "ok":
        expected += [(None, metric) for metric in of_id]
        expected += [(ood, m) for ood in groups for m in optional if not of_id_images(m)]
        expected += [(None, m) for m in optional if of_id_images(m)]
    numbers = {line.number for line in mine}
    seen: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for place, line in enumerate(mine):
        pair = line.record.ood_dataset, line.record.metric
        seen[pair].append(place)
        if pair not in expected:
            field = "metric" if pair[1] not in (*METRICS, *optional, ID_ACCURACY) else "ood_dataset"
            found = getattr(line.record, field)
            reason = "the benchmark has no such record"
            yield wrong_value(RECORDS, line.number, label(line.record), field, found, "", reason)

    def out_of_place(place: int) -> tuple[bool, bool, int, int]:
        """Larger for a record that is less likely to belong here: its neighbors, its place."""
        line = mine[place]
        neighbors = sum(line.number + step in numbers for step in (-1, 1))
        pair = line.record.ood_dataset, line.record.metric
        return not neighbors, expected.index(pair) != place, -neighbors, place

    for pair, places in seen.items():
        if len(places) > 1 and pair in expected:
            *others, wrong = sorted(places, key=out_of_place)
            reason = f"recorded twice, also on line {mine[others[0]].number}"
            yield Discrepancy(
                file=RECORDS,
                line=mine[wrong].number,
                record=label(mine[wrong].record),
                reason=reason,
            )
    missing = [pair for pair in expected if pair not in seen]
    if missing:
        ood, metric = missing[0]
        what = f"{metric} on {ood}" if ood else metric
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        reason = f"no record of {key[0]}, seed {key[1]}: {what}{more}"
        yield Discrepancy(file=RECORDS, reason=reason)


def _keys(lines: StoredLines, description: RunDescription) -> Iterator[Discrepancy]:
    """Methods and seeds that `run.json` lists and the records lack, and the other way round."""
    listed = [(each.method, each.seed) for each in description.records]
    names = {method.name for method in description.methods} | set(description.skipped)
    by_key = lines.by_key
    for key, mine in by_key.items():
        first = mine[0]
        if listed and key not in listed:
            reason = f"{NAME} lists no records of {key[0]}, seed {key[1]}"
        elif not listed and key[0] not in names:
            reason = f"{NAME} lists no method '{key[0]}'"
        elif key[1] not in description.seeds:
            reason = f"{NAME} lists no seed {key[1]}"
        else:
            continue
        yield Discrepancy(
            file=RECORDS, line=first.number, record=label(first.record), reason=reason
        )
    for method, seed in dict.fromkeys(listed):
        if (method, seed) not in by_key:
            reason = f"no records of {method}, seed {seed}, which {NAME} lists"
            yield Discrepancy(file=RECORDS, reason=reason)


def without_reason(lines: StoredLines, description: RunDescription) -> list[str]:
    """Methods and seeds of `run.json` that have neither records nor a reason."""
    listed = {(each.method, each.seed) for each in description.records}
    by_key = lines.by_key
    return [
        f"{method.name}, seed {seed}"
        for method in description.methods
        for seed in description.seeds
        if (method.name, seed) not in by_key and (method.name, seed) not in listed
    ]


def ood_groups(lines: _Quality, description: RunDescription | None) -> Mapping[str, str | None]:
    """OOD set -> group: those of `run.json`, or those of most methods."""
    if description is not None:
        return described_groups(description)
    methods: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, str | None] = {}
    for line in lines:
        if line.record.ood_dataset is not None:
            methods[line.record.ood_dataset].add(line.record.method)
            groups.setdefault(line.record.ood_dataset, line.record.ood_group)
    most = max(map(len, methods.values()), default=0)
    return {name: group for name, group in groups.items() if 2 * len(methods[name]) >= most}


def described_groups(description: RunDescription) -> dict[str, str | None]:
    """OOD set -> group, from `run.json`."""
    ood = description.of_benchmark.ood
    return {name: group or None for group, sets in ood.items() for name in sets}
