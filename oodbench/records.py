"""The records of a run: flat values, one a line. Reports are made from them and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from oodbench.errors import UserError
from oodbench.files import canonical_json

SCHEMA_VERSION = 1
ID_ACCURACY = "id_accuracy"
"""The metric of a record that holds the classifier's test accuracy."""

Status = Literal["ok", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRecord:
    """One metric of one method on one OOD set, for one seed.

    `value` and the interval are fractions in [0, 1]; None unless `status` is "ok".
    `ood_dataset`, `ood_group` and `n_ood` are None for the metric `id_accuracy`.
    """

    run_id: str
    benchmark: str
    benchmark_version: int
    method: str
    model: str
    loss: str
    detector: str
    detector_params: dict[str, Any]
    tuned_on: str
    seed: int
    id_dataset: str
    ood_dataset: str | None
    ood_group: str | None
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n_id: int | None
    n_ood: int | None
    status: Status = "ok"
    reason: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRecord:
    """What one method costs, for one seed, measured with the method standing alone.

    Attributes:
        forwards_per_image: sweeps of the network, counted; a partial sweep counts as its share.
        backwards_per_image: likewise.
        flops_per_image: floating-point operations (2 per multiply-add).
        latency_ms_batch1: median time of one image alone.
        ms_per_image_batched: median time of a batch over its size.
        relative_to_baseline: batched time over the reference method's in the same run.
        fit_seconds: sweep over the training images and fitting.
        tune_seconds: making tuning data, sweeping the grid, training the detector's own model.
        peak_memory_bytes: weights, detector state and live tensors while a batch is scored.
        input_preprocessing .. ad_hoc_models: the columns of the DisMax paper's Table 1.
    """

    run_id: str
    benchmark: str
    method: str
    detector: str
    model: str
    seed: int
    device: str
    forwards_per_image: float
    backwards_per_image: float
    flops_per_image: float
    latency_ms_batch1: float
    ms_per_image_batched: float
    relative_to_baseline: float | None
    fit_seconds: float
    tune_seconds: float
    peak_memory_bytes: int
    input_preprocessing: bool
    feature_ensemble: bool
    ood_or_adversarial_samples: bool
    post_processing_phase: bool
    ad_hoc_models: bool
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What one epoch of one model ended with, for one seed.

    Attributes:
        epoch: counted from 1.
        learning_rate: of its last step.
        train_loss: mean over the epoch's augmented images, in nats, on the scale that is trained
            (with DisMax's alpha).
        train_accuracy: likewise, a fraction.
        test_loss, test_accuracy: on the ID test split after the epoch, the loss on the same scale;
            None if they were not asked for. Nothing is chosen by them.
        seconds: how long the epoch took.
    """

    run_id: str
    benchmark: str
    model: str
    loss: str
    seed: int
    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    schema_version: int = SCHEMA_VERSION


REQUIREMENTS = (
    "input_preprocessing",
    "feature_ensemble",
    "ood_or_adversarial_samples",
    "post_processing_phase",
    "ad_hoc_models",
)
"""Names of the columns of the DisMax paper's Table 1, in its order."""

R = TypeVar("R", QualityRecord, CostRecord, TrainingRecord)


def to_lines(records: Iterable[QualityRecord | CostRecord | TrainingRecord]) -> str:
    """JSON, one record a line, keys sorted."""
    return "".join(canonical_json(_values(record)) + "\n" for record in records)


def _values(record: QualityRecord | CostRecord | TrainingRecord) -> dict[str, Any]:
    # Not dataclasses.asdict, which copies every value deeply.
    return {name: getattr(record, name) for name in record.__slots__}


def read_lines(kind: type[R], path: Path) -> list[R]:
    """Records of a file; none if there is no file.

    Raises:
        UserError: naming the file and the line that is not a record.
    """
    if not path.exists():
        return []
    known = {field.name for field in fields(kind)}
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            if content.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {content.get('schema_version')!r}")
            records.append(kind(**{key: content[key] for key in known}))
        except (ValueError, AttributeError, KeyError) as error:
            raise UserError(
                f"{path}:{number}: not a record of this version of oodbench ({error})."
            ) from error
    return records
