"""Shares of accepted images, computed again from scores of validation and test images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from oodbench.errors import UserError
from oodbench.metrics import OPTIONAL, acceptance, accepting, conformal_threshold
from oodbench.report.differences import Scores
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_directory import RECORDS, RunDirectory
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.stored_lines import Line, label, wrong_value

_TOLERANCE = 1e-9
"""As that of the other values of records."""


def check_thresholds(
    directory: RunDirectory,
    lines: Sequence[Line[QualityRecord]],
    scores: Scores,
    csid: Sequence[str],
) -> Iterator[Discrepancy]:
    """Fields of the records of a method and seed that do not follow from its scores.

    Args:
        directory: of the run; its scores can be read.
        lines: the records of the method and seed.
        scores: its scores of test images, as stored.
        csid: data sets whose images count as ID, too.
    """
    mine = [line for line in lines if accepting([line.record.metric])]
    if not mine:
        return
    first = mine[0].record
    validation = directory.read_validation((first.method, first.seed))
    try:
        known = (directory.read_predictions(first.model, first.seed) or {}).get("id")
    except UserError:  # reported with the metrics that need predictions
        known = None
    for line in mine:
        record = line.record
        ood = record.ood_dataset or "id"
        expected = _expected(
            record.metric, validation.get(ood, validation.get("id")), scores.get(ood)
        )
        if record.ood_dataset is None and expected["value"] is not None:
            labels = None if known is None else known.labels
            if labels is None:  # only the parts that are not classes can be checked
                stored = record.accepted_counts or {}
                counts = {name: each for name, each in stored.items() if name.startswith("class ")}
            else:
                counts = {}
            value = -np.inf if expected["threshold"] is None else expected["threshold"]
            for name in ("id", *csid):
                counts[name] = [int(np.sum(scores[name] >= value)), scores[name].size]
            for number in () if labels is None else np.unique(labels):
                chosen = scores["id"][labels == number]
                counts[f"class {number}"] = [int(np.sum(chosen >= value)), chosen.size]
            expected["accepted_counts"] = counts
        for field, wanted in expected.items():
            if not _same(found := getattr(record, field), wanted):
                yield wrong_value(
                    RECORDS,
                    line.number,
                    label(record),
                    field,
                    found,
                    wanted,
                    "computed from its scores of validation and test images",
                )


def _expected(metric: str, validation: Any, tested: Any) -> dict[str, Any]:
    """Field -> value of a record without the parts of the ID images."""
    empty = dict.fromkeys(("value", "ci_low", "ci_high", "threshold", "n_validation"))
    if validation is None or tested is None:
        return {**empty, "accepted_counts": None}
    threshold = conformal_threshold(validation, float(OPTIONAL[metric].accept))
    found = acceptance(tested, threshold.value)
    return {
        "value": found.rate,
        "ci_low": found.low,
        "ci_high": found.high,
        "threshold": None if threshold.value == -np.inf else threshold.value,
        "n_validation": threshold.images,
        "accepted_counts": None,
    }


def _same(stored: Any, wanted: Any) -> bool:
    if isinstance(stored, float) and isinstance(wanted, float):
        return math.isclose(stored, wanted, rel_tol=1e-12, abs_tol=_TOLERANCE)
    return bool(stored == wanted)
