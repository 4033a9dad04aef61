"""Makes the records of a run: metrics with their intervals, costs, trainings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from oodbench import bootstrap as intervals
from oodbench import metrics
from oodbench.engine.method_results import Evaluation, MethodResult, chosen_parameters
from oodbench.engine.recording.requested_metrics import NO_VALIDATION, RequestedMetrics
from oodbench.planning.plan import Method
from oodbench.report import differences
from oodbench.specs import TuningProtocol
from oodbench.storage.records import (
    ID_ACCURACY,
    PUBLISHED,
    CostRecord,
    QualityRecord,
    Status,
    TrainingRecord,
)


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
        requested: makes their records.
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
        self._shared = intervals.SharedResamples(resamples)
        self.requested = RequestedMetrics(
            optional,
            self._shared,
            self._blank,
            id_dataset=id_dataset,
            csid=csid,
            ood_sets=ood_groups,
            no_validation=no_validation,
        )
        self.resampled: dict[differences.Key, dict[str, differences.Values]] = {}

    def quality(self, method: Method, seed: int, evaluation: Evaluation) -> Iterable[QualityRecord]:
        """Every metric on every OOD set with its interval; accuracy; the metrics on request.

        Without predictions there is no accuracy.
        """
        found = list(self._quality(method, seed, evaluation))
        result = evaluation.results[method.name]
        yield from found
        yield from self.requested.records(
            found, result.scores, result.validation, evaluation.predictions, "they have no labels"
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
