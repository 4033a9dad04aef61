"""The records of a run: flat values. Reports are made from them alone.

The classes declare the possible values, and a file may have no others (`storage.record_lines`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from oodbench.specs import FitSplit, TuningProtocol
from oodbench.storage.record_values import (
    Amount,
    Count,
    Fraction,
    MethodText,
    Number,
    Parameters,
    PartCounts,
    Text,
)

SCHEMA_VERSION = 1
ID_ACCURACY = "id_accuracy"
"""The metric of a record that holds the classifier's test accuracy."""

Weights = Literal["published checkpoint"]
PUBLISHED: Weights = "published checkpoint"
"""`weights` of records of a model whose weights were read and not trained."""

Status = Literal["ok", "skipped", "failed"]

ValidationUse = Literal["fitted", "tuned"]
"""What ID validation images are used for besides setting a threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRecord:
    """One metric of one method on one OOD set, for one seed.

    A metric on request is "skipped", alone of its method, where it has no value.

    Attributes:
        run_id: identifier of the run, the same in all its records.
        benchmark, benchmark_version: name and version of the benchmark.
        method: name of the method on the leaderboard.
        model: name of the trained model.
        loss: loss that it was trained with (the name of its head).
        detector, detector_params: name and parameters of the detector.
        tuned_on: tuning protocol; "none" for its defaults or given values.
        seed: seed of the training and of the method.
        id_dataset: the in-distribution data set.
        ood_dataset: the OOD set; None for metrics of the ID images alone, such as `id_accuracy`.
        ood_group: its group, such as "near"; None likewise.
        metric: name of the metric.
        value: a fraction in [0, 1]; None unless `status` is "ok".
        ci_low, ci_high: its 95% confidence interval; None likewise, and without resamples.
        n_id, n_ood: numbers of ID test images (with those of csID sets) and of OOD test images.
        status: whether there is a value.
        reason: why there is none; None if there is one.
        tie_fraction: fraction of all pairs of an ID and an OOD image whose scores are equal; None
            for metrics of the ID images alone, and in records made before it was recorded.
        untuned: parameters with a search space that were left at their defaults; None without any.
        weights: says that the model was not trained: its seeds are its published checkpoints.
        csid: data sets whose images count as ID beside those of `id_dataset`; None without any.
        fit_split: split of the ID set that the detector's `fit` was given; None for the training
            images, and for a detector without `fit`.
        tuning_ood: OOD set whose validation images the method was tuned on (`ood_validation`).
        same_source: true if the images of `ood_dataset` are of the same source as `tuning_ood`.
        threshold: in records of shares of accepted images (`metrics.accepting`), the threshold that
            is set on validation images; None, which accepts every image, if they are too few.
        n_validation: number of ID validation images that it is set on.
        accepted_counts: numbers of accepted images and of images for parts of the ID images: "id"
            (the test set, which `value` is of), each csID set, and "class 0", "class 1", ... of the
            test set; None on OOD sets.
        validation_use: what else the detector's validation images were used for, in all records of
            a run with such metrics; None for nothing.
        schema_version: version of the form of these records.
    """

    run_id: Text
    benchmark: Text
    benchmark_version: Count
    method: MethodText
    model: Text
    loss: Text
    detector: Text
    detector_params: Parameters
    tuned_on: TuningProtocol
    seed: Count
    id_dataset: Text
    ood_dataset: Text | None
    ood_group: Text | None
    metric: Text
    value: Fraction | None
    ci_low: Fraction | None
    ci_high: Fraction | None
    n_id: Count | None
    n_ood: Count | None
    status: Status = "ok"
    reason: str | None = None
    tie_fraction: Fraction | None = None
    untuned: list[Text] | None = None
    weights: Weights | None = None
    csid: list[Text] | None = None
    fit_split: FitSplit | None = None
    tuning_ood: Text | None = None
    same_source: Literal[True] | None = None
    threshold: float | None = None
    n_validation: Count | None = None
    accepted_counts: dict[Text, PartCounts] | None = None
    validation_use: list[ValidationUse] | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRecord:
    """Costs of one method for one seed, measured with this method alone.

    Attributes:
        device: name of the GPU, or "cpu"; with "shared by N workers" if others computed on it.
        forwards_per_image: forward passes, counted; a partial pass counts as its share.
        backwards_per_image: backward passes, likewise.
        flops_per_image: floating-point operations (2 per multiply-add).
        latency_ms_batch1: median time of one image alone.
        ms_per_image_batched: median time of a batch over its size.
        relative_to_baseline: batched time over the reference method's in the same run.
        fit_seconds: pass over the training images and fitting.
        tune_seconds: making tuning data, scoring the grid, training the detector's own model.
        peak_memory_bytes: weights, detector state and live tensors while a batch is scored.
        time_scatter: range of the repetitions over their median `ms_per_image_batched`; None in
            older records.
        input_preprocessing .. ad_hoc_models: the columns of the DisMax paper's Table 1.
    """

    run_id: Text
    benchmark: Text
    method: MethodText
    detector: Text
    model: Text
    seed: Count
    device: Text
    forwards_per_image: Amount
    backwards_per_image: Amount
    flops_per_image: Amount
    latency_ms_batch1: Amount
    ms_per_image_batched: Amount
    relative_to_baseline: Amount | None
    fit_seconds: Amount
    tune_seconds: Amount
    peak_memory_bytes: Count
    input_preprocessing: bool
    feature_ensemble: bool
    ood_or_adversarial_samples: bool
    post_processing_phase: bool
    ad_hoc_models: bool
    time_scatter: Amount | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """One epoch of the training of one model, for one seed.

    Attributes:
        epoch: counted from 1.
        learning_rate: learning rate of the last step.
        train_loss: mean over the epoch's augmented images, in nats, on the scale that is trained
            (with DisMax's alpha).
        train_accuracy: likewise, a fraction.
        test_loss, test_accuracy: on the ID test split after the epoch, the loss on the same scale;
            None if the recipe does not ask for them. They select nothing.
        seconds: duration of the epoch.
    """

    run_id: Text
    benchmark: Text
    model: Text
    loss: Text
    seed: Count
    epoch: Count
    learning_rate: Amount
    train_loss: Number
    train_accuracy: Fraction
    test_loss: Number | None
    test_accuracy: Fraction | None
    seconds: Amount
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceRecord:
    """Lead of the best method of a column over another method (`oodbench.report.differences`).

    Attributes:
        column_kind: "mean" (of all OOD sets), "worst", "group", "set", or "id" (ID images alone).
        column: name of the set or group; "mean" or "worst" otherwise.
        method: the method.
        best: the method with the best mean.
        methods: number of methods that were compared.
        seeds: number of seeds that both have.
        difference: mean paired difference, a fraction; positive where `best` is better, also for
            metrics that are better if they are lower.
        shift: mean paired difference of the normal quantiles (probits) of the values.
        shift_low, shift_high: its interval, which allows for the number of methods; the two methods
            are tied if it reaches 0.
        image_error, seed_error: standard errors of the shift from the sampling of the test
            images, and from training again (moderated; 0 with one seed).
        degrees_of_freedom: degrees of freedom of `seed_error`; 0 with one seed.
        image_critical, seed_critical: factors of the two errors; the half-width of the interval is
            the root of the sum of both squares.
    """

    run_id: Text
    benchmark: Text
    benchmark_version: int
    metric: Text
    column_kind: Literal["mean", "worst", "group", "set", "id"]
    column: Text
    method: MethodText
    best: MethodText
    methods: Count
    seeds: Count
    difference: Number
    shift: Number
    shift_low: Number
    shift_high: Number
    image_error: Amount
    seed_error: Amount
    degrees_of_freedom: Amount
    image_critical: Amount
    seed_critical: Amount
    schema_version: int = SCHEMA_VERSION

    @property
    def tied(self) -> bool:
        """Whether the data do not show a difference between the two."""
        return self.shift_low <= 0


REQUIREMENTS = (
    "input_preprocessing",
    "feature_ensemble",
    "ood_or_adversarial_samples",
    "post_processing_phase",
    "ad_hoc_models",
)
"""Names of the columns of the DisMax paper's Table 1, in its order."""

Record = QualityRecord | CostRecord | TrainingRecord | DifferenceRecord
