"""Fields of records against `run.json` and against each other, without scores."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from oodbench.files import canonical_json
from oodbench.metrics import OPTIONAL
from oodbench.report.differences import ORACLE
from oodbench.storage.records import ID_ACCURACY, PUBLISHED, CostRecord, QualityRecord
from oodbench.storage.run_description import DescribedMethod, RunDescription
from oodbench.storage.run_directory import COSTS, RECORDS, TRAINING
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.record_sets import described_groups, ood_groups
from oodbench.verification.stored_lines import Line, StoredLines, label, wrong_value

_Quality = Sequence[Line[QualityRecord]]

_FROM_RUN = "run.json"

_ACCURACY_SLACK = 0.6
"""How far the ends of the interval of the test accuracy may be from those of the binomial
distribution, as a share of its standard deviation: the quantiles of 100 resamples scatter by 0.27
standard deviations (1 sigma), and the ends by 1.5 images more."""

_ROUNDED = 0.01
"""How far the test accuracy may be from that of the last epoch, which other batches compute."""


def check_fields(lines: StoredLines, description: RunDescription | None) -> Iterator[Discrepancy]:
    """Every value of the records that contradicts `run.json` or other records.

    Args:
        lines: of the run.
        description: contents of `run.json`, if there is one.
    """
    groups = ood_groups(lines.records, description)
    if description is not None:
        known = _Described(description)
        for line in lines.records:
            yield from _unequal(RECORDS, line, known.of_record(line.record))
            yield from known.fixed_parameters(line)
        for cost in lines.costs:
            yield from _unequal(COSTS, cost, known.of_cost(cost.record))
        for epoch in lines.training:
            head = known.heads.get(epoch.record.model)
            wanted = known.of_run | {"loss": (head or "no such model", _FROM_RUN)}
            del wanted["benchmark_version"], wanted["id_dataset"], wanted["csid"]
            yield from _unequal(TRAINING, epoch, wanted)
    else:
        of_run = ("run_id", "benchmark", "benchmark_version", "id_dataset", "csid")
        yield from _disagreeing(lines.records, lambda record: 0, of_run, "the other records")
        yield from _disagreeing(
            lines.records, lambda record: record.ood_dataset, ("ood_group",), "the other records"
        )
    yield from _disagreeing(
        lines.records,
        lambda record: record.method,
        ("model", "loss", "detector", "tuned_on", "weights"),
        "the other records of this method",
    )
    # A metric on request may have no value, alone of its method.
    whole = [each for each in lines.records if not _undefined(each.record)]
    yield from _disagreeing(
        whole,
        lambda record: (record.method, record.seed),
        ("status", "reason", "untuned", "fit_split", "tuning_ood", "validation_use"),
        "the other records of this method and seed",
    )
    yield from _disagreeing(
        whole,
        lambda r: (
            (r.method, r.seed, r.ood_dataset or next(iter(groups), None))
            if r.tuned_on == ORACLE
            else (r.method, r.seed)
        ),
        ("detector_params",),
        "the other records of this method and seed",
    )
    with_values = [line for line in lines.records if line.record.status == "ok"]
    for images, of in (("n_id", lambda record: 0), ("n_ood", lambda record: record.ood_dataset)):
        yield from _disagreeing(with_values, of, (images,), "the other records of this data set")
    yield from _values_without_result(lines.records)
    yield from _accuracies(lines)
    yield from _costs(lines)


def _undefined(record: QualityRecord) -> bool:
    return record.metric in OPTIONAL and record.status != "ok"


class _Described:
    """What `run.json` says about the fields of records."""

    def __init__(self, description: RunDescription) -> None:
        benchmark = description.of_benchmark
        self.heads = {name: str(model.get("head")) for name, model in benchmark.models.items()}
        self.of_run: dict[str, tuple[Any, str]] = {
            "run_id": (description.run_id, _FROM_RUN),
            "benchmark": (benchmark.name, _FROM_RUN),
            "benchmark_version": (benchmark.version, _FROM_RUN),
            "id_dataset": (benchmark.id, _FROM_RUN),
            "csid": (benchmark.csid or None, _FROM_RUN),
        }
        self.published = {
            name
            for name, model in benchmark.models.items()
            if model.get("checkpoint") or model.get("weights")
        }
        self.groups = described_groups(description)
        self.methods: Mapping[str, DescribedMethod] = {m.name: m for m in description.methods}
        self.skipped = description.skipped
        self.parameters: Mapping[str, Mapping[str, Any]] = {
            name: method.get("parameters") or {} for name, method in benchmark.methods.items()
        }

    def of_record(self, record: QualityRecord) -> dict[str, tuple[Any, str]]:
        """Field -> its value and where that is from."""
        wanted = dict(self.of_run)
        if record.ood_dataset is not None:
            wanted["ood_group"] = (self.groups.get(record.ood_dataset), _FROM_RUN)
        head = self.heads.get(record.model)
        wanted["loss"] = (head or f"no model '{record.model}'", _FROM_RUN)
        published = record.model in self.published
        wanted["weights"] = (PUBLISHED if published else None, _FROM_RUN)
        method = self.methods.get(record.method)
        if _undefined(record):
            return wanted
        if record.status == "skipped":
            if record.method in self.skipped:
                wanted["reason"] = (self.skipped[record.method], _FROM_RUN)
        elif method is not None and method.detector:  # older versions recorded names alone
            wanted["model"] = (method.model, _FROM_RUN)
            wanted["detector"] = (method.detector, _FROM_RUN)
            wanted["tuned_on"] = (method.tuned_on, _FROM_RUN)
            if record.status == "ok":
                wanted["untuned"] = (method.untuned or None, _FROM_RUN)
                wanted["fit_split"] = (method.fit_split or None, _FROM_RUN)
                wanted["tuning_ood"] = (method.tuning_ood or None, _FROM_RUN)
                same = record.ood_dataset in method.same_source
                wanted["same_source"] = (same or None, _FROM_RUN)
        return wanted

    def of_cost(self, cost: CostRecord) -> dict[str, tuple[Any, str]]:
        """The same for a cost record."""
        wanted = {name: self.of_run[name] for name in ("run_id", "benchmark")}
        method = self.methods.get(cost.method)
        if method is not None and method.detector:
            wanted["model"] = (method.model, _FROM_RUN)
            wanted["detector"] = (method.detector, _FROM_RUN)
            tuned = method.tuned_on != "none"
            wanted["ood_or_adversarial_samples"] = (tuned, "its tuning")
            if tuned:
                wanted["post_processing_phase"] = (True, "its tuning")
        return wanted

    def fixed_parameters(self, line: Line[QualityRecord]) -> Iterator[Discrepancy]:
        """Parameters that the benchmark fixes."""
        record = line.record
        if record.status != "ok":
            return
        for name, value in self.parameters.get(record.method, {}).items():
            found = record.detector_params.get(name)
            if isinstance(value, str | int | float | bool) and found != value:
                where = f"detector_params.{name}"
                yield _wrong(RECORDS, line, where, found, value, "the benchmark fixes it")


# --- each field ----------------------------------------------------------------------------------


def _unequal(
    file: str, line: Line[Any], wanted: Mapping[str, tuple[Any, str]]
) -> Iterator[Discrepancy]:
    for field, (value, reason) in wanted.items():
        found = getattr(line.record, field)
        if found != value:
            yield _wrong(file, line, field, found, value, reason)


def _disagreeing(
    lines: Iterable[Line[Any]],
    of: Callable[[Any], Any],
    fields: Iterable[str],
    others: str,
    file: str = RECORDS,
) -> Iterator[Discrepancy]:
    """Values that differ from those of most records of the same group."""
    grouped: dict[Any, list[Line[Any]]] = defaultdict(list)
    for line in lines:
        grouped[of(line.record)].append(line)
    for field in fields:
        for mine in grouped.values():
            # `untuned`, `n_ood` and others have no value for some records.
            values = {id(each): canonical_json(getattr(each.record, field)) for each in mine}
            most, count = Counter(values.values()).most_common(1)[0]
            if count == len(mine):
                continue
            usual = next(getattr(e.record, field) for e in mine if values[id(e)] == most)
            for each in mine:
                if values[id(each)] != most:
                    yield _wrong(file, each, field, getattr(each.record, field), usual, others)


def _values_without_result(lines: _Quality) -> Iterator[Discrepancy]:
    """Values where there can be none."""
    for line in lines:
        record = line.record
        empty = ["n_ood", "tie_fraction", "same_source"] if record.ood_dataset is None else []
        if record.status != "ok":
            empty = ["ci_low", "ci_high", "n_id", "n_ood", "tie_fraction", "untuned"]
            empty += ["fit_split", "tuning_ood", "same_source"]
            if record.detector_params:
                found = record.detector_params
                yield _wrong(RECORDS, line, "detector_params", found, {}, "it has no result")
        elif record.reason is not None:
            yield _wrong(RECORDS, line, "reason", record.reason, None, "it has a result")
        for field in empty:
            if (found := getattr(record, field)) is not None:
                yield _wrong(RECORDS, line, field, found, None, "nothing was measured")


def _accuracies(lines: StoredLines) -> Iterator[Discrepancy]:
    """The test accuracy: all methods of a model and seed share it; and it has to be possible."""
    found = [line for line in lines.records if line.record.metric == ID_ACCURACY]
    yield from _disagreeing(
        found,
        lambda record: (record.model, record.seed),
        ("value", "ci_low", "ci_high"),
        "the other methods of this model and seed",
    )
    last: dict[tuple[str, int], float] = {}
    for epoch in lines.training:
        if epoch.record.test_accuracy is not None:
            last[epoch.record.model, epoch.record.seed] = epoch.record.test_accuracy
    for line in found:
        record = line.record
        value, images = record.value, record.n_id
        if value is None or not images:
            continue
        # The training tests on the ID set alone.
        trained = None if record.csid else last.get((record.model, record.seed))
        if trained is not None and not math.isclose(value, trained, abs_tol=_ROUNDED):
            yield _wrong(RECORDS, line, "value", value, trained, f"the last epoch of {TRAINING}")
        elif abs(value * images - round(value * images)) > 1e-6 * images:
            yield _wrong(RECORDS, line, "value", value, "", f"not a share of {images} images")
        deviation = math.sqrt(value * (1 - value) / images)
        slack = _ACCURACY_SLACK * deviation + 1.5 / images
        for field, sign in (("ci_low", -1), ("ci_high", 1)):
            end = getattr(record, field)
            likely = min(1.0, max(0.0, value + sign * 1.96 * deviation))
            if end is not None and (abs(end - likely) > slack or sign * (end - value) < -1e-9):
                reason = f"not an end of the interval of this accuracy, which is near {likely:.4f}"
                yield _wrong(RECORDS, line, field, end, "", reason)


def _costs(lines: StoredLines) -> Iterator[Discrepancy]:
    """One cost record for each method and seed with a result; its fields."""
    yield from _disagreeing(
        lines.costs,
        lambda cost: cost.method,
        (
            *("model", "detector", "input_preprocessing", "feature_ensemble"),
            *("ood_or_adversarial_samples", "post_processing_phase", "ad_hoc_models"),
        ),
        "the other seeds of this method",
        COSTS,
    )
    by_key, first = lines.by_key, lines.cost_by_key
    for cost in lines.costs:
        key = cost.record.method, cost.record.seed
        if first[key] is not cost:
            reason = f"this method and seed is on line {first[key].number} too"
            yield Discrepancy(
                file=COSTS, line=cost.number, record=label(cost.record), reason=reason
            )
        elif key not in by_key or by_key[key][0].record.status != "ok":
            reason = f"{RECORDS} has no result of this method and seed"
            yield Discrepancy(
                file=COSTS, line=cost.number, record=label(cost.record), reason=reason
            )
    for key, mine in by_key.items():
        if lines.costs and mine[0].record.status == "ok" and key not in first:
            reason = f"no costs of {key[0]}, seed {key[1]}, which has a result"
            yield Discrepancy(file=COSTS, reason=reason)


def _wrong(
    file: str, line: Line[Any], field: str, found: Any, wanted: Any, reason: str
) -> Discrepancy:
    return wrong_value(file, line.number, label(line.record), field, found, wanted, reason)
