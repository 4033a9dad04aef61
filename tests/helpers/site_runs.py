"""Runs on disk whose records follow from their scores, of any size and with any names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.records import cost, quality
from oodbench.metrics import measure, rank
from oodbench.report import Leaderboard
from oodbench.report.site.pages import ShownRun
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import ID_ACCURACY, REQUIREMENTS, QualityRecord
from oodbench.storage.run_description import DescribedMethod, Environment, RunDescription
from oodbench.storage.run_directory import COSTS, RECORDS, RunDirectory, arrays_content, scores_name
from oodbench.storage.stored_run import read_stored_run

SETS = {"letters": "near", "noise": "far", "patches": "far"}
METHODS = ("SoftMax+MSP", "SoftMax+KNN", "SoftMax+ODIN", "DisMax+Entropy")


def write_run(
    folder: Path,
    methods: Sequence[str] = METHODS,
    sets: Mapping[str, str] = SETS,
    *,
    seeds: int = 2,
    images: int = 60,
    benchmark: str = "toy",
    better: float = 0.0,
    written: str = "2026-03-01T10:00:00+00:00",
    revision: str = "",
    described: bool = True,
    scores: bool = True,
    skipped: Mapping[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write a run and return its folder.

    The methods get worse from first to last; every other one is both worse and more expensive than
    the one before it.

    Args:
        folder: where to.
        methods: names, "<model>+<detector>" where there is a "+".
        sets: OOD set -> its group.
        seeds: number of seeds.
        images: number of images of each set.
        benchmark: name of the benchmark.
        better: added to the distance of ID and OOD scores.
        written: date of the run.
        revision: of oodbench.
        described: whether there is a `run.json`.
        scores: whether the scores are stored.
        skipped: method -> reason.
        changes: of the description.
    """
    generator = np.random.default_rng(0)
    records: list[QualityRecord] = []
    contents: dict[str, bytes | str] = {}
    costs = []
    for number, method in enumerate(methods):
        model, _, detector = method.partition("+") if "+" in method else ("SoftMax", "", method)
        own: dict[str, Any] = {
            "benchmark": benchmark,
            "model": model or "SoftMax",
            "detector": detector or "none",
            "n_id": images,
        }
        for seed in range(seeds):
            by_set = {"id": generator.normal(2.5 - 2 * number / len(methods) + better, 1, images)}
            by_set |= {name: generator.normal(0, 1, images) for name in sets}
            if scores:
                contents[scores_name((method, seed))] = arrays_content(by_set)
            for name, group in sets.items():
                measured = measure(rank(by_set["id"], by_set[name]).counts())
                records += [
                    quality(
                        method,
                        seed,
                        name,
                        float(value),
                        metric=metric,
                        ci_low=max(0.0, float(value) - 0.02),
                        ci_high=min(1.0, float(value) + 0.02),
                        ood_group=group,
                        detector_params={"k": 10 + seed},
                        **own | {"n_ood": images},
                    )
                    for metric, value in measured.items()
                ]
            records.append(quality(method, seed, None, 0.9, metric=ID_ACCURACY, **own))
            left = len(methods) - number
            time = 1.0 + (left**2 / 10 if number % 2 == 0 else 2 * number)
            needs = {name: number > 1 and index < number for index, name in enumerate(REQUIREMENTS)}
            known = {name: own[name] for name in ("benchmark", "model", "detector")}
            costs.append(cost(method, seed, relative_to_baseline=time, **known, **needs))
    for method, reason in (skipped or {}).items():
        about = {"benchmark": benchmark, "status": "skipped", "reason": reason}
        records.append(quality(method, 0, next(iter(sets)), None, n_id=None, n_ood=None, **about))
    contents |= {COSTS: to_lines(costs), RECORDS: to_lines(records)}
    if not described:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder
    spec = {
        "name": benchmark,
        "version": 1,
        "title": f"The {benchmark} benchmark",
        "evaluation": {"resamples": 100},
    }
    description: dict[str, Any] = {
        "status": "complete",
        "written": written,
        "benchmark": spec,
        "seeds": list(range(seeds)),
        "methods": [DescribedMethod(name=method, reference="ICML 2020") for method in methods],
        "versions": {"oodbench": "0.1.0", "oodbench_revision": revision},
        "environment": Environment(device="cpu", platform="Linux"),
    }
    RunDirectory(folder).write(RunDescription(**(description | changes)), contents)
    return folder


def renamed(folder: Path, methods: Sequence[str], sets: Sequence[str]) -> ShownRun:
    """The run in a folder with other names of methods and OOD sets, which no reader accepts."""
    stored = read_stored_run(folder)
    by_method = dict(
        zip(dict.fromkeys(each.method for each in stored.records), methods, strict=True)
    )
    found = dict.fromkeys(each.ood_dataset for each in stored.records if each.ood_dataset)
    by_set: dict[str | None, str | None] = dict(zip(found, sets, strict=True))
    records = [
        replace(
            each,
            method=by_method[each.method],
            detector=by_method[each.method],
            ood_dataset=by_set.get(each.ood_dataset),
        )
        for each in stored.records
    ]
    costs = [replace(each, method=by_method[each.method]) for each in stored.costs]
    changed = replace(stored, records=tuple(records), costs=tuple(costs))
    return ShownRun(changed, Leaderboard.from_records(records, costs))
