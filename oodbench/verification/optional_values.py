"""Accuracy and metrics on request, computed again from scores and predictions.

Values come from the functions of `oodbench.metrics`, not from the counts that a run computes them
with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from oodbench import metrics
from oodbench.bootstrap import OptionalValue, SharedResamples, percentile_interval
from oodbench.errors import UserError
from oodbench.metrics.resampled_values import Images
from oodbench.report.differences import ORACLE, Scores, id_scores
from oodbench.storage.predictions import Predictions, joined_predictions, predictions_name
from oodbench.storage.records import ID_ACCURACY, QualityRecord
from oodbench.storage.run_directory import RECORDS, RunDirectory
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.stored_lines import Line, label, wrong_value

_TOLERANCE = 1e-9
"""As that of the other values of records."""


def _at_level(fpr: float) -> Callable[[Any], float]:
    return lambda i: metrics.ccr_at_fpr(i.id_scores, i.correct, i.ood_scores, fpr)


_CHECKED_APART = frozenset(metrics.accepting(metrics.OPTIONAL))
"""Metrics of `verification.threshold_values`."""

_VALUES: Mapping[str, Callable[[Any], float]] = MappingProxyType(
    {
        "aurc": lambda i: metrics.aurc(i.id_scores, i.correct),
        "e_aurc": lambda i: metrics.e_aurc(i.id_scores, i.correct),
        "augrc": lambda i: metrics.augrc(i.id_scores, i.correct),
        "failure_auroc": lambda i: metrics.failure_auroc(i.id_scores, i.correct),
        "scod_aurc": lambda i: metrics.scod_aurc(i.id_scores, i.correct, i.ood_scores),
        "oscr": lambda i: metrics.oscr(i.id_scores, i.correct, i.ood_scores),
        **{name: _at_level(float(m.level)) for name, m in metrics.OPTIONAL.items() if m.level},
        "autc": lambda i: metrics.autc(i.id_scores, i.ood_scores),
        "ece": lambda i: metrics.ece(i.confidence, i.correct),
    }
)


class PredictionChecks:
    """Checks of the records of a run that follow from its predictions.

    Args:
        directory: of the run.
        id_dataset: the ID data set.
        csid: data sets whose images count as ID, too.
        shared: the resamples of the run.
        with_intervals: whether `shared` are the resamples of the run.

    Attributes:
        missing: files of predictions that are not there.
        unreadable: those that cannot be read: name -> why.
        read: those that were read.
        unchecked: number of records that need a file that is missing or cannot be read.
    """

    def __init__(
        self,
        directory: RunDirectory,
        id_dataset: str,
        csid: Sequence[str],
        shared: SharedResamples,
        *,
        with_intervals: bool,
    ) -> None:
        self._directory, self._id_dataset, self._csid = directory, id_dataset, csid
        self._shared, self._with_intervals = shared, with_intervals
        self.missing: dict[str, None] = {}
        self.unreadable: dict[str, str] = {}
        self.read: dict[str, None] = {}
        self.unchecked = 0

    def compare(
        self, lines: Sequence[Line[QualityRecord]], scores: Scores
    ) -> Iterator[Discrepancy]:
        """Values of the records of a method and seed that do not follow.

        Args:
            lines: its records.
            scores: its scores, those of csID sets joined to "id".
        """
        record = lines[0].record
        known = self._predictions(record.model, record.seed)
        size = next(len(each) for name, each in scores.items() if name.partition("@")[0] == "id")
        if known is not None and known.correct.size != size:
            name = predictions_name(record.model, record.seed)
            reason = f"{known.correct.size:,} predictions of ID images, and {size:,} scores"
            yield Discrepancy(file=name, record=record.method, reason=reason)
            return
        by_set: dict[str | None, list[Line[QualityRecord]]] = defaultdict(list)
        for line in lines:
            if line.record.metric == ID_ACCURACY and known is not None:
                yield from self._accuracy(line, known)
            elif line.record.metric in metrics.OPTIONAL.keys() - _CHECKED_APART:
                by_set[line.record.ood_dataset].append(line)
        for ood, mine in by_set.items():
            if ood is None or ood in scores:  # else reported with the other records of this set
                yield from self._optional(ood, mine, scores, known)

    def _predictions(self, model: str, seed: int) -> Predictions | None:
        name = predictions_name(model, seed)
        try:
            found = self._directory.read_predictions(model, seed)
        except UserError as error:
            self.unreadable[name] = error.message.rstrip(".")
            return None
        if found is None:
            self.missing[name] = None
            return None
        known = joined_predictions(found, self._csid)
        if known is None:
            self.unreadable[name] = "predictions of a data set whose images count as ID are missing"
        else:
            self.read[name] = None
        return known

    def _accuracy(self, line: Line[QualityRecord], known: Predictions) -> Iterator[Discrepancy]:
        weights = self._shared.counts(self._id_dataset, known.correct.size)
        resampled = weights.astype(np.float64) @ known.correct / known.correct.size
        interval = percentile_interval(resampled)
        found = OptionalValue(float(known.correct.mean()), interval)
        yield from self._compared(line, found, "computed from its predictions")

    def _optional(
        self,
        ood: str | None,
        lines: Sequence[Line[QualityRecord]],
        scores: Scores,
        known: Predictions | None,
    ) -> Iterator[Discrepancy]:
        """Metrics on request on one OOD set, or of the ID images alone."""
        of_each_set = lines[0].record.tuned_on == ORACLE
        ranked = None if ood is None and of_each_set else id_scores(scores, ood or "")
        unknown = None if ood is None else scores[ood]
        right, sure = (None, None) if known is None else (known.correct, known.confidence)
        images = Images(ranked, right, sure, unknown)
        lacking = {line.number: images.lacks(line.record.metric) for line in lines}
        names = {line.record.metric for line in lines if not lacking[line.number]}
        resampled = self._shared.optional(images, self._id_dataset, ood, names) if names else {}
        for line in lines:
            if known is None and {"correctness", "confidence"} & set(lacking[line.number]):
                self.unchecked += 1
                continue
            found = OptionalValue(None, None)
            if line.record.metric in resampled:
                try:
                    value = float(_VALUES[line.record.metric](images))
                    found = OptionalValue(value, resampled[line.record.metric].interval)
                except ValueError:  # it is not defined
                    pass
            yield from self._compared(line, found, "computed from its scores and predictions")

    def _compared(
        self, line: Line[QualityRecord], found: OptionalValue, reason: str
    ) -> Iterator[Discrepancy]:
        low, high = found.interval or (None, None)
        wanted = {"value": found.value}
        if self._with_intervals:
            wanted |= {"ci_low": low, "ci_high": high}
        for field, value in wanted.items():
            stored = getattr(line.record, field)
            if stored is None or value is None:
                same = stored is value
            else:
                same = math.isclose(stored, value, rel_tol=0, abs_tol=_TOLERANCE)
            if not same:
                about = label(line.record)
                yield wrong_value(RECORDS, line.number, about, field, stored, value, reason)
