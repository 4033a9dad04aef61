"""Records of metrics on request: values with their intervals, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from oodbench import metrics
from oodbench.bootstrap import SharedResamples
from oodbench.errors import UserError
from oodbench.metrics import OPTIONAL
from oodbench.metrics.resampled_values import Images
from oodbench.report import differences
from oodbench.report.threshold_transfer import accepted_counts, threshold_fields
from oodbench.storage.predictions import Predictions, joined_predictions
from oodbench.storage.records import ID_ACCURACY, QualityRecord

NO_VALIDATION = (
    "there are no scores of ID validation images: the ID set has none, or the run was made without "
    "this metric (`oodbench run ... --resume --metrics acceptance` adds them)"
)


class RequestedMetrics:
    """Makes the records of metrics on request, from scores and predictions.

    Args:
        names: the metrics, by the names of `metrics.OPTIONAL`.
        shared: resamples of the images.
        blank: makes a record without value of a method, model, detector and seed.
        id_dataset: name of the ID set.
        csid: names of the csID sets, whose images count as ID.
        ood_sets: names of the OOD sets.
        no_validation: why scores of ID validation images are missing, where they are.
    """

    def __init__(
        self,
        names: Sequence[str],
        shared: SharedResamples,
        blank: Callable[[str, str, str, int], QualityRecord],
        *,
        id_dataset: str,
        csid: Sequence[str],
        ood_sets: Iterable[str],
        no_validation: str,
    ) -> None:
        self._names, self._shared, self._blank = names, shared, blank
        self._id_dataset, self._csid, self._ood_sets = id_dataset, csid, tuple(ood_sets)
        self._no_validation = no_validation

    def records(
        self,
        recorded: Sequence[QualityRecord],
        scores: differences.Scores,
        validation: differences.Scores,
        predictions: Mapping[str, Predictions],
        missing: str,
    ) -> Iterator[QualityRecord]:
        """The metrics on request of a method and seed.

        Args:
            recorded: its other records.
            scores: as stored.
            validation: those of the ID validation images, likewise; may be empty.
            predictions: "id" and csID sets -> predictions of its model.
            missing: why predictions are missing, if they are.

        Raises:
            UserError: if scores and predictions are not of the same images.
        """
        if not self._names:
            return
        joined = differences.joined(scores, self._csid)
        known = joined_predictions(predictions, self._csid)
        correct, confidence = (None, None) if known is None else (known.correct, known.confidence)
        by_set = {each.ood_dataset: each for each in reversed(recorded) if each.ood_dataset}
        for ood in self._ood_sets:
            id_scores = differences.id_scores(joined, ood)
            if correct is not None and correct.size != id_scores.size:
                raise UserError(
                    f"{recorded[0].method}: there are {id_scores.size:,} scores and "
                    f"{correct.size:,} predictions of the ID images."
                )
            threshold_on = validation.get(ood, validation.get("id"))
            images = Images(id_scores, correct, confidence, joined[ood], threshold_on)
            names = [name for name in self._names if OPTIONAL[name].of == "set"]
            yield from self._on_request(by_set[ood], images, names, missing)
        blank = replace(
            next((each for each in recorded if each.metric == ID_ACCURACY), recorded[0]),
            ood_dataset=None,
            ood_group=None,
            n_ood=None,
            tie_fraction=None,
            same_source=None,
        )
        several = recorded[0].tuned_on == differences.ORACLE
        images = Images(None if several else joined["id"], correct, confidence)
        names = [name for name in self._names if OPTIONAL[name].of != "set"]
        accepting = metrics.accepting(names)
        others = [name for name in names if name not in accepting]
        yield from self._on_request(blank, images, others, missing)
        alone = None if several else scores["id"]  # csID images are not what a threshold is set for
        images = Images(alone, validation_scores=validation.get("id"))
        labels = predictions["id"].labels if "id" in predictions else None
        csid = {name: scores[name] for name in self._csid}
        for record in self._on_request(blank, images, accepting, missing):
            if record.status == "ok" and alone is not None:
                counts = accepted_counts(record.threshold, alone, labels, csid)
                record = replace(record, accepted_counts=counts)
            yield record

    def _on_request(
        self, blank: QualityRecord, images: Images, names: Iterable[str], missing: str
    ) -> Iterator[QualityRecord]:
        """Records of the metrics on request for one OOD set, or for the ID images alone."""
        lacking = {name: images.lacks(name) for name in names}
        computed = [name for name, lacks in lacking.items() if not lacks]
        values = {}
        if computed:
            values = self._shared.optional(images, self._id_dataset, blank.ood_dataset, computed)
        for name, lacks in lacking.items():
            found = values.get(name)
            low, high = (found and found.interval) or (None, None)
            value = found and found.value
            reason = None
            if "ID scores" in lacks:
                reason = "it has other scores of the ID images for each OOD set"
            elif "validation scores" in lacks:
                reason = self._no_validation
            elif lacks:
                reason = f"it is not known which ID images are classified correctly: {missing}"
            elif value is None:
                reason = "it needs correctly classified and misclassified ID images"
            if reason is None:
                record = replace(blank, metric=name, value=value, ci_low=low, ci_high=high)
                yield replace(record, **threshold_fields(images, name))
                continue
            empty = self._blank(blank.method, blank.model, blank.detector, blank.seed)
            yield replace(
                empty,
                tuned_on=blank.tuned_on,
                ood_dataset=blank.ood_dataset,
                ood_group=blank.ood_group,
                metric=name,
                status="skipped",
                reason=reason,
            )
