"""Run directories with scores that a test chooses, as a run would have written them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.records import cost, quality
from oodbench import metrics
from oodbench.bootstrap import SharedResamples, percentile_interval
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import CostRecord, QualityRecord
from oodbench.storage.run_description import Checksums, RunDescription
from oodbench.storage.run_directory import RunDirectory, arrays_content, scores_name
from oodbench.storage.stored_run import StoredRun, read_stored_run

Scores = Mapping[str, NDArray[np.float64]]

GROUPS = {"letters": "near", "patches": "far", "noise": "far"}
ID = "digits"


def draw(seed: int, *, ahead: float = 2.0, n_id: int = 120, n_ood: int = 80) -> dict[str, Any]:
    """Scores of one method and seed: normal, ID images `ahead` of the OOD images."""
    generator = np.random.default_rng(seed)
    sizes = {"id": n_id, **dict.fromkeys(GROUPS, n_ood)}
    return {
        name: generator.standard_normal(size) + (ahead if name == "id" else 0.0)
        for name, size in sizes.items()
    }


def jittered(scores: Scores, seed: int, by: float = 0.1, drop: float = 0.0) -> dict[str, Any]:
    """The scores of another detector on the same images: noise is added, ID images lose `drop`."""
    generator = np.random.default_rng(seed)
    return {
        name: array + by * generator.standard_normal(len(array)) - (drop if name == "id" else 0.0)
        for name, array in scores.items()
    }


def records_of(method: str, seed: int, scores: Scores, **changes: Any) -> list[QualityRecord]:
    """The records of a method and seed, with intervals."""
    shared, found = SharedResamples(200), []
    for ood, group in GROUPS.items():
        if ood not in scores:
            continue
        pair = scores.get(f"id@{ood}", scores.get("id")), scores[ood]
        assert pair[0] is not None
        resampled = shared.bootstrap(ID, pair[0], ood, pair[1])
        for metric, value in metrics.evaluate(*pair).items():
            low, high = percentile_interval(resampled[metric])
            record = quality(method, seed, ood, value, ood_group=group, metric=metric)
            record = replace(
                record, ci_low=low, ci_high=high, n_id=len(pair[0]), n_ood=len(pair[1])
            )
            found.append(replace(record, **changes))
    return found


def write_run(
    folder: Path,
    scores: Mapping[tuple[str, int], Scores],
    *,
    weights: str | None = "same",
    extra: Sequence[QualityRecord] = (),
    costs: Sequence[CostRecord] | None = None,
    keep_scores: bool = True,
    description: Mapping[str, Any] | None = None,
    **changes: Any,
) -> StoredRun:
    """Write a run directory and read it again.

    Args:
        folder: where.
        scores: method and seed -> scores.
        weights: checksum of all networks; None: without run.json.
        extra: other records, such as those of skipped methods.
        costs: default: one a method and seed.
        keep_scores: whether the scores are stored.
        description: other fields of run.json.
        **changes: other values of all records.
    """
    found = [each for key, arrays in scores.items() for each in records_of(*key, arrays, **changes)]
    costs = [cost(*key) for key in scores] if costs is None else costs
    contents: dict[str, bytes | str] = {}
    if keep_scores:
        contents |= {scores_name(key): arrays_content(arrays) for key, arrays in scores.items()}
    contents |= {"costs.jsonl": to_lines(costs), "records.jsonl": to_lines([*found, *extra])}
    folder.mkdir(parents=True)
    if weights is None:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        seeds = {seed for _, seed in scores}
        checkpoints = {f"SoftMax/seed{seed}": f"{weights}{seed}" for seed in seeds}
        data = {name: {"test": f"images of {name}"} for name in (ID, *GROUPS)}
        values: dict[str, Any] = {
            "status": "complete",
            "written": "2026-11-27T10:00:00+00:00",
            "checksums": Checksums(data=data, checkpoints=checkpoints),
        }
        RunDirectory(folder).write(RunDescription(**(values | dict(description or {}))), contents)
    return read_stored_run(folder)
