"""What is computed from the stored scores of methods that were finished before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from oodbench import metrics
from oodbench.engine.recording.recorder import Recorder
from oodbench.errors import UserError
from oodbench.progress import Reporter
from oodbench.report.differences import ORACLE
from oodbench.storage.predictions import predictions_name
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_directory import Key, RunDirectory


def add_optional(
    records: dict[Key, list[QualityRecord]],
    recorder: Recorder,
    directory: RunDirectory,
    say: Reporter,
) -> None:
    """Compute the metrics on request of methods that were finished without them, from scores.

    Args:
        records: method and seed -> quality records; changed where some are missing.
        recorder: makes records, with these metrics.
        directory: has the scores and the predictions.
        say: takes warnings about scores that cannot be read.
    """

    def added(key: Key) -> tuple[Key, list[QualityRecord]]:
        base = [record for record in records[key] if record.metric not in metrics.OPTIONAL]
        try:
            more = _computed(key, base, recorder, directory)
        except UserError as error:
            say.warn(f"{error.message} Without them, there are no metrics on request.")
            return key, records[key]
        return key, [*base, *more]

    todo = [key for key, group in records.items() if _lacks_optional(group, recorder.metrics)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        records |= dict(pool.map(added, todo))


def computed_later(
    directory: RunDirectory,
    recorded: Sequence[QualityRecord],
    names: Sequence[str],
    resamples: int,
) -> list[QualityRecord]:
    """Metrics on request of a finished run that it did not record, from scores and predictions.

    Args:
        directory: of the run; nothing is written.
        recorded: its quality records.
        names: the metrics.
        resamples: number of bootstrap resamples.

    Raises:
        UserError: if scores or predictions cannot be read.
    """
    by_key: dict[Key, list[QualityRecord]] = {}
    for record in recorded:
        if record.status == "ok" and record.metric not in metrics.OPTIONAL:
            by_key.setdefault((record.method, record.seed), []).append(record)
    known = {record.metric for record in recorded}
    first = recorded[0]
    recorder = Recorder(
        benchmark=first.benchmark,
        version=first.benchmark_version,
        id_dataset=first.id_dataset,
        csid=first.csid or (),
        ood_groups={each.ood_dataset: each.ood_group for each in recorded if each.ood_dataset},
        heads={each.model: each.loss for each in recorded},
        resamples=resamples,
        run_id=first.run_id,
        device="",
        optional=[name for name in names if name not in known],
    )

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        groups = pool.map(lambda key: _computed(key, by_key[key], recorder, directory), by_key)
        return [record for group in groups for record in group]


def _computed(
    key: Key, recorded: Sequence[QualityRecord], recorder: Recorder, directory: RunDirectory
) -> list[QualityRecord]:
    """The metrics on request of a method and seed, from its scores and predictions.

    Raises:
        UserError: if these cannot be read.
    """
    model = recorded[0].model
    found = directory.read_predictions(model, key[1]) or {}
    missing = f"{predictions_name(model, key[1])} is not there"
    scores, validation = directory.read_scores(key), directory.read_validation(key)
    return list(recorder.requested.records(recorded, scores, validation, found, missing))


def _lacks_optional(group: Sequence[QualityRecord], names: Sequence[str]) -> bool:
    if group[0].status != "ok":
        return False
    return {record.metric for record in group} & metrics.OPTIONAL.keys() != set(names)


def resample_finished(
    records: Iterable[QualityRecord], recorder: Recorder, directory: RunDirectory
) -> None:
    """Resample the scores of methods that were finished before, to compare all methods.

    Raises:
        UserError: if scores cannot be read.
    """
    before = {
        (record.method, record.seed)
        for record in records
        if record.status == "ok" and record.tuned_on != ORACLE
    } - recorder.resampled.keys()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(
            lambda key: recorder.resample(key, directory.read_scores(key)), sorted(before)
        ):
            pass
