"""From what came of a method to its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench import intervals, metrics
from oodbench.engine.evaluation import Evaluation, MethodResult, chosen_parameters
from oodbench.files import digest
from oodbench.plan import Method
from oodbench.records import ID_ACCURACY, CostRecord, QualityRecord, Status, TrainingRecord
from oodbench.specs import BenchmarkSpec, TuningProtocol


class Recorder:
    """Makes the records of one run.

    Args:
        benchmark: what is run.
        run_id: of the run.
        device: name of the device, for cost records.
    """

    def __init__(self, benchmark: BenchmarkSpec, run_id: str, device: str) -> None:
        self._benchmark, self._run_id, self._device = benchmark, run_id, device
        self._resamples: dict[tuple[str, int], NDArray[np.unsignedinteger[Any]]] = {}

    def quality(self, method: Method, seed: int, evaluation: Evaluation) -> Iterable[QualityRecord]:
        """Every metric on every OOD set with its interval, then the classifier's accuracy."""
        result = evaluation.results[method.name]
        id_counts = self._resample(self._benchmark.id, len(evaluation.correct))
        for ood, group in self._benchmark.ood_groups.items():
            id_scores, ood_scores = result.id_scores(ood), result.scores[ood]
            values = metrics.evaluate(id_scores, ood_scores)
            tied = metrics.tie_fraction(id_scores, ood_scores)
            resampled = intervals.bootstrap(
                id_scores, ood_scores, id_counts, self._resample(ood, len(ood_scores))
            )
            blank = self._blank(method.name, method.model, method.detector.name, seed)
            for metric, value in values.items():
                low, high = intervals.percentile_interval(resampled[metric])
                yield replace(
                    blank,
                    detector_params=chosen_parameters(result.detectors[ood]),
                    tuned_on=method.tuned_on,
                    ood_dataset=ood,
                    ood_group=group,
                    metric=metric,
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    n_id=len(id_scores),
                    n_ood=len(ood_scores),
                    tie_fraction=tied,
                )
        correct = evaluation.correct
        low, high = intervals.percentile_interval(
            id_counts.astype(np.float64) @ correct / len(correct)
        )
        first = next(iter(result.detectors.values()))
        yield replace(
            self._blank(method.name, method.model, method.detector.name, seed),
            detector_params=chosen_parameters(first),
            tuned_on=method.tuned_on,
            metric=ID_ACCURACY,
            value=float(correct.mean()),
            ci_low=low,
            ci_high=high,
            n_id=len(correct),
        )

    def cost(self, method: Method, seed: int, result: MethodResult) -> CostRecord:
        """What the method costs.

        `result` has its cost measured.
        """
        assert result.cost is not None
        return CostRecord(
            run_id=self._run_id,
            benchmark=self._benchmark.name,
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
        """What each epoch of a model ended with (`oodbench.training_state.Epoch`)."""
        return [
            TrainingRecord(
                run_id=self._run_id,
                benchmark=self._benchmark.name,
                model=model,
                loss=self._benchmark.models[model].head,
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
        """A record without a value for every cell that would have been there."""
        blank = replace(
            self._blank(method, model, detector, seed),
            status=status,
            reason=reason,
            tuned_on=tuned_on,
        )
        return [
            replace(blank, ood_dataset=ood, ood_group=group, metric=metric)
            for ood, group in self._benchmark.ood_groups.items()
            for metric in metrics.METRICS
        ]

    def _blank(self, method: str, model: str, detector: str, seed: int) -> QualityRecord:
        return QualityRecord(
            run_id=self._run_id,
            benchmark=self._benchmark.name,
            benchmark_version=self._benchmark.version,
            method=method,
            model=model,
            loss=self._benchmark.models[model].head,
            detector=detector,
            detector_params={},
            tuned_on="none",
            seed=seed,
            id_dataset=self._benchmark.id,
            ood_dataset=None,
            ood_group=None,
            metric=ID_ACCURACY,
            value=None,
            ci_low=None,
            ci_high=None,
            n_id=None,
            n_ood=None,
        )

    def _resample(self, dataset: str, images: int) -> NDArray[np.unsignedinteger[Any]]:
        """Bootstrap draws of a data set: the same for every method, model and seed."""
        key = dataset, images
        if key not in self._resamples:
            generator = np.random.default_rng([int(digest(dataset)[:8], 16), images])
            self._resamples[key] = intervals.resample_counts(
                images, self._benchmark.evaluation.resamples, generator
            )
        return self._resamples[key]
