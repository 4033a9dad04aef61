"""The records of a run: flat values, one record a line. Reports are made from them alone.

The classes declare the possible values, and `read_lines` accepts no others: for a file that was
edited or written by another tool, a report shows possible values or an error, not a traceback.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from oodbench.errors import UserError
from oodbench.files import canonical_json
from oodbench.metrics import of_id_images
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
ADDED_LATER = frozenset(
    {"csid", "fit_split", "same_source", "tie_fraction", "time_scatter"}
    | {"tuning_ood", "untuned", "weights"}
    | {"accepted_counts", "n_validation", "threshold", "validation_use"}
)
"""Fields that older versions did not write; a line without them gets their defaults."""

_LEFT_OUT = (
    *("weights", "csid", "fit_split", "tuning_ood", "same_source"),
    *("threshold", "n_validation", "accepted_counts", "validation_use"),
)
"""Fields that are not written where they are None: other records stay as they were."""

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
R = TypeVar("R", QualityRecord, CostRecord, TrainingRecord, DifferenceRecord)


def to_lines(records: Iterable[Record]) -> str:
    """JSON, one record a line, keys sorted."""
    return "".join(canonical_json(_values(record)) + "\n" for record in records)


def _values(record: Record) -> dict[str, Any]:
    # Not dataclasses.asdict, which copies every value deeply.
    values = {name: getattr(record, name) for name in record.__slots__}
    for name in _LEFT_OUT:
        if values.get(name, "") is None:  # as before it was recorded: digests stay the same
            del values[name]
    return values


def read_lines(kind: type[R], path: Path) -> list[R]:
    """Records of a file; an empty list if there is no file.

    Raises:
        UserError: if a line is not a record; it names file, line and value.
    """
    records = []
    for number, line in enumerate(text_lines(path), start=1):
        try:
            records.append(parse_line(kind, line))
        except (ValueError, RecursionError) as error:  # a RecursionError has no useful text
            problem = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise UserError(
                f"{path}:{number}: not a record of this version of oodbench ({problem}).",
                "The file was changed after the run: run again with --resume, or restore it.",
            ) from error
    return records


def text_lines(path: Path) -> list[str]:
    """Lines of a file of records, not parsed; an empty list if there is no file.

    Raises:
        UserError: if the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    return lines if lines[-1] else lines[:-1]


def parse_line(kind: type[R], line: str) -> R:
    """The record of a line.

    Raises:
        ValueError: if it is none; the message begins with the field that is wrong.
        RecursionError: if it is nested too deeply.
    """
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {_shown(content.get('schema_version'))}")
    try:
        _FORMS[kind.__name__].model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise ValueError(f"'{key}' is missing") from error
        if first["type"] == "extra_forbidden":
            raise ValueError(f"there is no '{_shown(key)[1:-1]}'") from error
        raise ValueError(f"{key} is {_shown(content[key])}") from error
    record = kind(**content)
    if isinstance(record, QualityRecord):
        _check(record)
    return record


def _check(record: QualityRecord) -> None:
    """Check values that are possible alone but not together.

    Raises:
        ValueError: if they contradict each other.
    """
    if (record.value is None) == (record.status == "ok"):
        raise ValueError(f"value is {record.value} and status is '{record.status}'")
    of_id = record.metric == ID_ACCURACY or of_id_images(record.metric)
    if (record.ood_dataset is None) != of_id:
        raise ValueError(f"ood_dataset is {record.ood_dataset} and metric is '{record.metric}'")
    if record.status == "ok":
        for name, count in (("n_id", record.n_id), ("n_ood", record.n_ood)):
            counted = name == "n_id" or record.ood_dataset is not None
            if counted and count is None:
                raise ValueError(f"{name} is None and status is 'ok'")
    low, high = record.ci_low, record.ci_high
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ValueError(f"ci_low is {low} and ci_high is {high}")


def _form(kind: type[Record]) -> type[BaseModel]:
    """The form of a line: the keys of the class, values of exactly these types."""
    types = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {
        field.name: (
            types[field.name],
            field.default if field.name in ADDED_LATER and field.default is not MISSING else ...,
        )
        for field in fields(kind)
    }
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    return create_model(kind.__name__, __config__=strict, **values)


_FORMS = {
    kind.__name__: _form(kind)
    for kind in (QualityRecord, CostRecord, TrainingRecord, DifferenceRecord)
}


def _shown(value: Any) -> str:
    """A value in a message, on one line and not longer than a line."""
    try:
        text = ascii(value)
    except ValueError:  # more digits than Python prints
        return "a number that is too large"
    return text if len(text) <= 60 else f"{text[:57]}..."
