"""Differences between methods, for records that no scores were made for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from oodbench.metrics import METRICS
from oodbench.report.differences import differences_to_best
from oodbench.storage.records import DifferenceRecord, QualityRecord


def compared(
    records: Sequence[QualityRecord], half_widths: Mapping[str, float]
) -> list[DifferenceRecord]:
    """Differences to the best, with an interval of a given half-width for each method.

    On the scale of the values, not of probits.
    """
    flat = dict.fromkeys(METRICS, np.zeros(10))
    found = differences_to_best(records, lambda key: defaultdict(lambda: flat))
    return [
        replace(
            each,
            shift_low=each.difference - half_widths[each.method],
            shift_high=each.difference + half_widths[each.method],
        )
        for each in found
    ]
