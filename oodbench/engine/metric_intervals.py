"""Metrics of results with their intervals, as records; records of costs and of trainings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from oodbench import bootstrap as intervals
from oodbench import metrics
from oodbench.engine.method_results import Evaluation, MethodResult, chosen_parameters
from oodbench.errors import UserError
from oodbench.metrics import OPTIONAL
from oodbench.metrics.resampled_values import Images
from oodbench.planning.plan import Method
from oodbench.report import differences
from oodbench.report.threshold_transfer import accepted_counts, threshold_fields
from oodbench.specs import TuningProtocol
from oodbench.storage.predictions import Predictions, joined_predictions
from oodbench.storage.records import (
    ID_ACCURACY,
    PUBLISHED,
    CostRecord,
    QualityRecord,
    Status,
    TrainingRecord,
)

NO_VALIDATION = (
    "there are no scores of ID validation images: the ID set has none, or the run was made without "
    "this metric (`oodbench run ... --resume --metrics acceptance` adds them)"
)


_LISTED = 5
"""Methods of a line with first results: the best, and the best of the user's."""


def first_results(
    records: Mapping[str, Sequence[QualityRecord]], own: Set[str] = frozenset()
) -> Iterator[str]:
    """Lines with mean AUROCs over the OOD sets, and the reason of each failure.

    Of many methods, the best are in the line, and those of the user.

    Args:
        records: method -> its records of one seed.
        own: methods whose detectors are not built in.
    """
    means: dict[str, float] = {}
    for name, group in records.items():
        values = [each.value for each in group if each.metric == "auroc" and each.value is not None]
        if values:
            means[name] = sum(values) / len(values)
        elif group[0].status == "failed":
            yield f"FAILED: {name}: {group[0].reason}"
    if means:
        best_first = sorted(means, key=means.__getitem__, reverse=True)
        wanted = [name for name in best_first if name in own][:_LISTED]
        chosen = {*best_first[:_LISTED], *wanted}
        chosen = chosen if len(best_first) > len(chosen) + 1 else {*best_first}
        said = [f"{100 * means[name]:.1f} % {name}" for name in best_first if name in chosen]
        left = len(best_first) - len(said)
        yield f"mean AUROC {', '.join(said)}{f' and {left} more' if left else ''}"


class Recorder:
    """Makes the records of one run.

    Args:
        benchmark: name of the benchmark.
        version: its version.
        id_dataset: name of the ID set.
        csid: names of the csID sets, whose images count as ID.
        ood_groups: OOD set -> its group; None if the sets have no groups.
        same_source: OOD sets of the same source as the one that methods are tuned on.
        heads: model -> name of its head.
        published: models with published weights in place of a training.
        resamples: number of bootstrap resamples.
        run_id: identity of the run.
        device: name of the device, for cost records.
        optional: metrics on request, by the names of `metrics.OPTIONAL`.
        no_validation: why scores of ID validation images are missing, where they are.

    Attributes:
        metrics: the metrics on request.
        resampled: method and seed -> the metrics on the resamples that all methods share, for each
            method with quality records.
    """

    def __init__(
        self,
        *,
        benchmark: str,
        version: int,
        id_dataset: str,
        csid: Sequence[str] = (),
        ood_groups: Mapping[str, str | None],
        same_source: Collection[str] = (),
        heads: Mapping[str, str],
        published: Collection[str] = (),
        resamples: int,
        run_id: str,
        device: str,
        optional: Sequence[str] = (),
        no_validation: str = NO_VALIDATION,
    ) -> None:
        self.metrics = optional
        self._benchmark, self._version = benchmark, version
        self._id_dataset, self._ood_groups, self._heads = id_dataset, ood_groups, heads
        self._csid = csid
        self._run_id, self._device, self._published = run_id, device, published
        self._same_source = same_source
        self._no_validation = no_validation
        self._shared = intervals.SharedResamples(resamples)
        self.resampled: dict[differences.Key, dict[str, differences.Values]] = {}

    def quality(self, method: Method, seed: int, evaluation: Evaluation) -> Iterable[QualityRecord]:
        """Every metric on every OOD set with its interval; accuracy; the metrics on request.

        Without predictions there is no accuracy.
        """
        found = list(self._quality(method, seed, evaluation))
        result = evaluation.results[method.name]
        yield from found
        yield from self.optional(
            found, result.scores, result.validation, evaluation.predictions, "they have no labels"
        )

    def optional(
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
        if not self.metrics:
            return
        joined = differences.joined(scores, self._csid)
        known = joined_predictions(predictions, self._csid)
        correct, confidence = (None, None) if known is None else (known.correct, known.confidence)
        by_set = {each.ood_dataset: each for each in reversed(recorded) if each.ood_dataset}
        for ood in self._ood_groups:
            id_scores = differences.id_scores(joined, ood)
            if correct is not None and correct.size != id_scores.size:
                raise UserError(
                    f"{recorded[0].method}: there are {id_scores.size:,} scores and "
                    f"{correct.size:,} predictions of the ID images."
                )
            threshold_on = validation.get(ood, validation.get("id"))
            images = Images(id_scores, correct, confidence, joined[ood], threshold_on)
            names = [name for name in self.metrics if OPTIONAL[name].of == "set"]
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
        names = [name for name in self.metrics if OPTIONAL[name].of != "set"]
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

    def _quality(
        self, method: Method, seed: int, evaluation: Evaluation
    ) -> Iterable[QualityRecord]:
        """The records of every run."""
        result = evaluation.results[method.name]
        id_dataset = self._id_dataset
        kept: dict[str, differences.Values] = {}
        scores = differences.joined(result.scores, self._csid)
        for ood, group in self._ood_groups.items():
            id_scores = differences.id_scores(scores, ood)
            measured = self._shared.measure(id_dataset, id_scores, ood, scores[ood])
            kept[ood] = differences.as_kept(measured.resampled)
            blank = self._blank(method.name, method.model, method.detector.name, seed)
            for metric, value in measured.values.items():
                low, high = measured.intervals[metric]
                yield replace(
                    blank,
                    detector_params=chosen_parameters(result.detectors[ood]),
                    **self._described(method),
                    same_source=(method.tuning_ood and ood in self._same_source) or None,
                    ood_dataset=ood,
                    ood_group=group,
                    metric=metric,
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    n_id=measured.n_id,
                    n_ood=measured.n_ood,
                    tie_fraction=measured.tie_fraction,
                )
        if method.tuned_on != differences.ORACLE:
            self.resampled[method.name, seed] = kept
        if not evaluation.predictions:
            return
        correct = evaluation.correct
        id_counts = self._shared.counts(id_dataset, len(correct))
        low, high = intervals.percentile_interval(
            id_counts.astype(np.float64) @ correct / len(correct)
        )
        first = next(iter(result.detectors.values()))
        yield replace(
            self._blank(method.name, method.model, method.detector.name, seed),
            detector_params=chosen_parameters(first),
            **self._described(method),
            metric=ID_ACCURACY,
            value=float(correct.mean()),
            ci_low=low,
            ci_high=high,
            n_id=len(correct),
        )

    def _described(self, method: Method) -> dict[str, Any]:
        """Fields of a record that say how a method was fitted and tuned."""
        use = {
            "fitted": "validation" in method.fitted_on().values(),
            "tuned": method.tuned_on != "none",
        }
        used = [name for name, is_used in use.items() if is_used]
        return {
            "tuned_on": method.tuned_on,
            "untuned": list(method.untuned) or None,
            "fit_split": method.other_fit_split,
            "tuning_ood": method.tuning_ood,
            "validation_use": used or None if metrics.accepting(self.metrics) else None,
        }

    def resample(self, key: differences.Key, scores: differences.Scores) -> None:
        """Resample the scores of a method and seed that were recorded before."""
        joined = differences.joined(scores, self._csid)
        self.resampled[key] = differences.resample(joined, self._shared, self._id_dataset)

    def cost(self, method: Method, seed: int, result: MethodResult) -> CostRecord:
        """The cost record of a method with measured costs."""
        assert result.cost is not None
        return CostRecord(
            run_id=self._run_id,
            benchmark=self._benchmark,
            method=method.name,
            detector=method.detector.name,
            model=method.model,
            seed=seed,
            device=self._device,
            forwards_per_image=result.cost.forwards,
            backwards_per_image=result.cost.backwards,
            flops_per_image=result.cost.flops,
            latency_ms_batch1=result.cost.latency_ms,
            ms_per_image_batched=result.cost.ms_per_image,
            relative_to_baseline=result.cost.relative,
            fit_seconds=result.fit_seconds,
            tune_seconds=result.tune_seconds,
            peak_memory_bytes=result.cost.peak_memory_bytes,
            time_scatter=result.cost.scatter,
            **method.requirements(),
        )

    def training(
        self, model: str, seed: int, history: Iterable[Mapping[str, Any]]
    ) -> list[TrainingRecord]:
        """A record of each epoch of a model (`oodbench.training.state.Epoch`)."""
        return [
            TrainingRecord(
                run_id=self._run_id,
                benchmark=self._benchmark,
                model=model,
                loss=self._heads[model],
                seed=seed,
                epoch=epoch["epoch"],
                learning_rate=epoch["learning_rate"],
                train_loss=epoch["loss"],
                train_accuracy=epoch["accuracy"],
                test_loss=epoch["test_loss"],
                test_accuracy=epoch["test_accuracy"],
                seconds=epoch["seconds"],
            )
            for epoch in history
        ]

    def missing(
        self,
        method: str,
        model: str,
        detector: str,
        seed: int,
        status: Status,
        reason: str,
        tuned_on: TuningProtocol = "none",
    ) -> list[QualityRecord]:
        """Records without values, one for each OOD set and metric, of a method without results."""
        blank = replace(
            self._blank(method, model, detector, seed),
            status=status,
            reason=reason,
            tuned_on=tuned_on,
        )
        return [
            replace(blank, ood_dataset=ood, ood_group=group, metric=metric)
            for ood, group in self._ood_groups.items()
            for metric in metrics.METRICS
        ]

    def missing_of(
        self, method: Method, seed: int, status: Status, reason: str
    ) -> list[QualityRecord]:
        """As `missing`, of a method of a plan."""
        names = method.name, method.model, method.detector.name
        return self.missing(*names, seed, status, reason, method.tuned_on)

    def _blank(self, method: str, model: str, detector: str, seed: int) -> QualityRecord:
        return QualityRecord(
            run_id=self._run_id,
            benchmark=self._benchmark,
            benchmark_version=self._version,
            method=method,
            model=model,
            loss=self._heads[model],
            detector=detector,
            detector_params={},
            tuned_on="none",
            seed=seed,
            id_dataset=self._id_dataset,
            ood_dataset=None,
            ood_group=None,
            metric=ID_ACCURACY,
            value=None,
            ci_low=None,
            ci_high=None,
            n_id=None,
            n_ood=None,
            weights=PUBLISHED if model in self._published else None,
            csid=list(self._csid) or None,
        )
