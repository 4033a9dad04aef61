"""Metrics, intervals, counts and paired differences, computed again from the stored scores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.bootstrap import Measured, SharedResamples
from oodbench.errors import UserError, counted
from oodbench.metrics import OPTIONAL
from oodbench.progress import Reporter
from oodbench.report import differences
from oodbench.storage.records import DifferenceRecord, QualityRecord
from oodbench.storage.run_directory import (
    DIFFERENCES,
    RECORDS,
    RunDirectory,
    scores_name,
    validation_name,
)
from oodbench.verification.optional_values import PredictionChecks
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.stored_lines import Key, Line, StoredLines, label, wrong_value
from oodbench.verification.threshold_values import check_thresholds

_TOLERANCE = 1e-9
"""Values of records: sums in another order differ by less; one image more or less does not."""

_LOOSE = 1e-4
"""Relative tolerance of paired differences: they come from resamples in float32."""


@dataclass(slots=True)
class Recomputed:
    """What the stored scores give.

    Attributes:
        discrepancies: values of records that do not follow.
        resampled: method and seed -> metrics on the shared resamples, where scores are stored.
        without_scores: methods and seeds that have a result and no scores.
        images: number of scores read.
        predicted: what was compared with predictions; None if no scores are stored.
    """

    discrepancies: list[Discrepancy] = field(default_factory=list)
    resampled: dict[Key, differences.Resampled] = field(default_factory=dict)
    without_scores: list[Key] = field(default_factory=list)
    images: int = 0
    predicted: PredictionChecks | None = None


def recompute(
    directory: RunDirectory, lines: StoredLines, resamples: int | None, say: Reporter
) -> Recomputed:
    """Compute every value of the quality records again, with the resamples of the run.

    Args:
        directory: of the run.
        lines: of the run.
        resamples: number of bootstrap resamples; None if it is not known: intervals stay unchecked.
        say: progress reporter.
    """
    found, shared = Recomputed(), SharedResamples(resamples or 1)
    first = lines.records[0].record
    id_dataset, csid = first.id_dataset, first.csid or ()
    todo: dict[Key, Sequence[Line[QualityRecord]]] = {}
    for key, mine in lines.by_key.items():
        if all(line.record.status != "ok" for line in mine):
            continue
        if directory.scores_path(key).exists():
            todo[key] = mine
        else:
            found.without_scores.append(key)

    known = resamples is not None
    predicted = found.predicted = PredictionChecks(
        directory, id_dataset, csid, shared, with_intervals=known
    )

    def one(key: Key) -> tuple[Mapping[str, Measured], int, list[Discrepancy]]:
        measured, stored, wrong = _measured(directory, key, id_dataset, csid, shared)
        scores = differences.joined(stored, csid) if measured else {}
        if measured:
            wrong += predicted.compare(todo[key], scores)
            wrong += check_thresholds(directory, todo[key], stored, csid)
        return measured, sum(map(len, scores.values())), wrong

    ties = any(line.record.tie_fraction is not None for line in lines.records)
    say.stage("metrics and intervals from scores")
    # Numpy computes the resamples without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (key, result) in enumerate(zip(todo, pool.map(one, todo), strict=True), 1):
            measured, images, wrong = result
            say.detail(f"{number} of {counted(len(todo), 'file')}")
            found.images += images
            found.discrepancies += wrong
            for line in todo[key]:
                found.discrepancies += _compared(line, measured, resamples, ties)
            recorded = {line.record.ood_dataset for line in todo[key]}
            found.discrepancies += [
                Discrepancy(file=scores_name(key), reason=f"there is no record of '{ood}'")
                for ood in measured
                if ood not in recorded
            ]
            found.resampled[key] = {
                ood: differences.as_kept(each.resampled) for ood, each in measured.items()
            }
    say.done(f"metrics and intervals of {counted(len(todo), 'file')} of scores")
    return found


def _measured(
    directory: RunDirectory,
    key: Key,
    id_dataset: str,
    csid: Sequence[str],
    shared: SharedResamples,
) -> tuple[Mapping[str, Measured], differences.Scores, list[Discrepancy]]:
    """OOD set -> what its scores give; the scores, as stored; what is wrong with the file."""
    file = scores_name(key)
    try:
        scores, validation = directory.read_scores(key), directory.read_validation(key)
    except UserError as error:
        return {}, {}, [Discrepancy(file=file, reason=error.message.rstrip("."))]
    wrong = [
        Discrepancy(file=file, reason=f"'{name}' is {_unusable(array)}")
        for name, array in (*scores.items(), *_named(validation))
        if _unusable(array)
    ]
    if wrong:
        return {}, {}, wrong
    try:
        joined = differences.joined(scores, csid)
    except UserError as error:
        return {}, {}, [Discrepancy(file=file, reason=error.message.rstrip("."))]
    sets = [n for n in joined if not (n == "id" or n.startswith(differences.id_key("")))]
    missing = [n for n in sets if "id" not in joined and differences.id_key(n) not in joined]
    if missing:
        reason = f"the scores of the ID images for '{missing[0]}' are missing"
        return {}, {}, [Discrepancy(file=file, reason=reason)]
    measured = {
        ood: shared.measure(id_dataset, differences.id_scores(joined, ood), ood, joined[ood])
        for ood in sets
    }
    return measured, scores, []


def _named(validation: differences.Scores) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The scores of ID validation images with their names in the file."""
    return ((validation_name(key), scores) for key, scores in validation.items())


def _unusable(array: NDArray[Any]) -> str:
    """What is wrong with an array of scores; empty if nothing is."""
    if array.ndim != 1 or array.dtype != np.float64 or not len(array):
        return f"{array.dtype} of shape {array.shape}, not float64 of shape [images]"
    if not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        return f"{array[first]} for image {first}: a score is a finite number"
    return ""


def _compared(
    line: Line[QualityRecord], measured: Mapping[str, Measured], resamples: int | None, ties: bool
) -> Iterator[Discrepancy]:
    """Values of one record that do not follow from the scores."""
    record = line.record
    if not measured:
        return  # the file of scores is reported
    if record.ood_dataset is None:
        images = {each.n_id for each in measured.values()}
        if record.status == "ok" and record.n_id not in images:
            yield _other(line, "n_id", record.n_id, min(images))
        return
    here = measured.get(record.ood_dataset)
    if here is None:
        name = scores_name((record.method, record.seed))
        reason = f"{name} has no scores of '{record.ood_dataset}'"
        yield Discrepancy(file=RECORDS, line=line.number, record=label(record), reason=reason)
        return
    wanted: dict[str, float] = {}
    if record.metric in here.values:
        wanted["value"] = here.values[record.metric]
        if resamples is not None:
            wanted["ci_low"], wanted["ci_high"] = here.intervals[record.metric]
    elif record.metric not in OPTIONAL or record.status != "ok":
        return  # an unknown metric is reported
    wanted |= {"n_id": here.n_id, "n_ood": here.n_ood}
    if ties:
        wanted["tie_fraction"] = here.tie_fraction
    for name, value in wanted.items():
        stored = getattr(record, name)
        if stored is None or not math.isclose(stored, value, rel_tol=0, abs_tol=_TOLERANCE):
            yield _other(line, name, stored, value)


def _other(line: Line[QualityRecord], field: str, stored: object, value: float) -> Discrepancy:
    about, reason = label(line.record), "computed from its scores"
    return wrong_value(RECORDS, line.number, about, field, stored, value, reason)


def check_differences(
    lines: StoredLines, resampled: Mapping[Key, differences.Resampled]
) -> Iterator[Discrepancy]:
    """Paired differences that do not follow from records and scores.

    Args:
        lines: of the run; the quality records follow from the scores.
        resampled: method and seed -> metrics on the shared resamples, of all with a result.
    """
    records = [line.record for line in lines.records]
    expected = {
        _column(each): each
        for each in differences.differences_to_best(records, resampled.__getitem__)
    }
    seen: dict[tuple[str, ...], int] = {}
    for line in lines.differences:
        record, key = line.record, _column(line.record)
        about = f"{record.method}, {record.metric}, {record.column_kind} {record.column}"
        wanted = expected.get(key)
        if wanted is None or key in seen:
            reason = f"also on line {seen[key]}" if key in seen else "no such difference"
            yield Discrepancy(file=DIFFERENCES, line=line.number, record=about, reason=reason)
            continue
        seen[key] = line.number
        for name in DifferenceRecord.__slots__:
            stored, value = getattr(record, name), getattr(wanted, name)
            same = stored == value
            if not same and isinstance(value, float):
                same = math.isclose(stored, value, rel_tol=_LOOSE, abs_tol=1e-7)
            if not same:
                reason = "computed from the scores"
                yield wrong_value(DIFFERENCES, line.number, about, name, stored, value, reason)
    if missing := [key for key in expected if key not in seen]:
        reason = f"no difference of {missing[0][3]} for {missing[0][0]}, {missing[0][2]}"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield Discrepancy(file=DIFFERENCES, reason=reason + more)


def _column(record: DifferenceRecord) -> tuple[str, ...]:
    return record.metric, record.column_kind, record.column, record.method
