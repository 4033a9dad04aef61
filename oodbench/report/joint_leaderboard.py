"""Several runs of one benchmark on one leaderboard, each row with its run."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from oodbench.bootstrap import SharedResamples
from oodbench.errors import UserError, counted, listed, visible
from oodbench.report import differences
from oodbench.report.aggregation import aggregate
from oodbench.report.leaderboard import JoinedRun, LeaderboardData
from oodbench.storage.records import DifferenceRecord, QualityRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.same_work import shared_differences
from oodbench.storage.stored_run import StoredRun

_OF_BENCHMARK = (
    *("id", "ood", "csid", "datasets", "models", "reference", "tuning", "evaluation", "limited"),
)
"""Parts of a benchmark that every result depends on; runs may have other methods."""

_Keys = Mapping[str, tuple[str, str]]
"""Name of a method on the joint board -> its name and the label of its run."""


def join(runs: Sequence[StoredRun]) -> LeaderboardData:
    """The methods of all runs, ranked together.

    The same method in two runs is two rows. Ties are tested on the same bootstrap resamples of the
    test images, if all runs have scores. A single run is shown as it is, without a label.

    Raises:
        UserError: if a run is given twice, or two runs have another benchmark, version, protocol or
            data; it names both and the difference.
    """
    folders = Counter(run.folder.resolve() for run in runs)
    if twice := next((folder for folder, count in folders.items() if count > 1), None):
        raise UserError(f"{twice} is given twice.", "Give each run once.")
    first, *others = runs
    for other in others:
        if found := _difference(first, other):
            raise UserError(
                f"{first.folder} and {other.folder} cannot share a leaderboard: {found}.",
                "Make a leaderboard for each, or run both with the same benchmark and data.",
            )
    labels = _labels(runs) if others else [""]
    keys: dict[str, tuple[str, str]] = {}
    records, costs, warnings = [], [], []
    for run, label in zip(runs, labels, strict=True):
        suffix = f" [{label}]" if label else ""
        keys |= {r.method + suffix: (r.method, label) for r in run.records}
        records += [replace(each, method=each.method + suffix) for each in run.records]
        costs += [replace(each, method=each.method + suffix) for each in run.costs]
        warnings += _warnings(run, f"{label}: " if label else "")
    found_differences = _differences(dict(zip(labels, runs, strict=True)), keys, records)
    board = aggregate(records, costs, warnings, found_differences)
    if not others:
        return board
    rows = (replace(row, method=keys[row.method][0], run=keys[row.method][1]) for row in board.rows)
    last = len(board.rows)  # methods without a rank
    return replace(
        board,
        rows=tuple(
            sorted(rows, key=lambda r: (r.oracle, r.rank or last, r.method, labels.index(r.run)))
        ),
        absences=tuple(
            each._replace(method=keys[each.method][0], run=keys[each.method][1])
            for each in board.absences
        ),
        runs=tuple(_joined(run, label) for run, label in zip(runs, labels, strict=True)),
    )


def _labels(runs: Sequence[StoredRun]) -> list[str]:
    """The end of each folder's path that tells it from the others."""
    parts = [[visible(part) for part in run.folder.resolve().parts] for run in runs]
    for length in itertools.count(1):
        labels = ["/".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise AssertionError("the folders differ")


def _difference(one: StoredRun, other: StoredRun) -> str:
    """Why two runs cannot be compared; empty if they can."""
    first, second = one.records[0], other.records[0]
    for what, field in (
        ("benchmark", "benchmark"),
        ("benchmark version", "benchmark_version"),
        ("ID data set", "id_dataset"),
        ("csID", "csid"),
    ):
        before, after = getattr(first, field), getattr(second, field)
        if before != after:
            if field == "csid":
                before, after = (listed(names or ()) or "none" for names in (before, after))
            return f"the {what} is {before} in one and {after} in the other"
    if one.description is None or other.description is None:
        return ""
    return _described_difference(one.description, other.description)


def _described_difference(one: RunDescription, other: RunDescription) -> str:
    for part in _OF_BENCHMARK:
        if keys := shared_differences(one.benchmark.get(part), other.benchmark.get(part), part):
            return f"their benchmarks differ in {listed(keys, 3)}"
    for name, splits in one.checksums.images.items():
        for split, checksum in splits.items():
            theirs = other.checksums.images.get(name, {}).get(split, checksum)
            if theirs != checksum:
                return (
                    f"the {split} images of '{name}' have the checksum {checksum[:8]} in one and "
                    f"{theirs[:8]} in the other"
                )
    return ""


def _warnings(run: StoredRun, label: str) -> list[str]:
    """What a reader of these results should know."""
    found = []
    if run.changed:
        found.append(
            f"{label}{listed(run.changed)} changed after the run: `oodbench verify {run.folder}` "
            "finds what does not follow from the scores."
        )
    if run.description is None:
        if label:
            found.append(f"{label}there is no run.json, so its data cannot be compared.")
        return found
    if run.description.status == "running":
        found.append(f"{label}the run is not finished.")
    return found + [f"{label}{text}" for text in run.description.warning_texts]


def _joined(run: StoredRun, label: str) -> JoinedRun:
    finished = {(r.method, r.seed) for r in run.records if r.status == "ok"}
    scores = all(run.has_scores(*key) for key in finished)
    described = run.description
    if described is None:
        return JoinedRun(label, "", "", "", scores)
    versions, machine = described.versions, described.environment
    revision = versions.get("oodbench_revision")
    version = f"{versions.get('oodbench', '')}{f' ({revision})' if revision else ''}"
    device = [machine.device, machine.processor]
    count = machine.threads if machine.device == "cpu" else None
    threads = counted(count, "thread") if count else ""
    where = ", ".join(filter(None, dict.fromkeys([*device, threads])))
    return JoinedRun(label, described.written[:10], version, where, scores)


def _differences(
    runs: Mapping[str, StoredRun], keys: _Keys, records: Sequence[QualityRecord]
) -> list[DifferenceRecord]:
    """Paired differences over all runs, from their scores; empty if some are not stored."""
    resamples = {
        None if run.description is None else run.description.of_benchmark.evaluation.resamples
        for run in runs.values()
    } - {None}
    needed = sorted(
        {
            (record.method, record.seed)
            for record in records
            if record.status == "ok" and record.tuned_on != differences.ORACLE
        }
    )
    sources = [(runs[keys[method][1]], keys[method][0], seed) for method, seed in needed]
    if len(resamples) != 1 or not all(run.has_scores(m, seed) for run, m, seed in sources):
        return []
    shared = SharedResamples(next(each for each in resamples if each is not None))

    def resampled(source: tuple[StoredRun, str, int]) -> differences.Resampled:
        run, method, seed = source
        scores = run.scores(method, seed)
        assert scores is not None
        known = differences.joined(scores, records[0].csid or ())
        return differences.resample(known, shared, records[0].id_dataset)

    # Numpy computes the resamples without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(needed, pool.map(resampled, sources), strict=True))
    return differences.differences_to_best(records, found.__getitem__)
