"""Puts the result of `oodbench.evaluate` together: records, costs, notes, warnings."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from oodbench.engine.method_results import Evaluation
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording.recorder import Recorder
from oodbench.models.structure.user_network import UserNetwork
from oodbench.planning.plan import Method
from oodbench.report.differences import differences_to_best
from oodbench.report.score_warnings import score_warnings, tie_notes
from oodbench.specs import EvaluationSpec
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_description import RunDescription
from oodbench.training.distributed import device_name
from oodbench.user_model.data_sets import DataSets
from oodbench.user_model.evaluation_description import description_of
from oodbench.user_model.evaluation_result import EvaluatedModel, EvaluationResult
from oodbench.user_model.fitted_methods import fitted_method
from oodbench.user_model.model_trials import Lost, Trials, Tried
from oodbench.user_model.session import Session


def result_of(
    trials: Trials,
    tried: Sequence[Tried],
    lost: Sequence[Lost],
    broken: Mapping[str, str],
    *,
    asked_for: bool,
    optional: Sequence[str] = (),
) -> EvaluationResult:
    """The result of a call.

    Args:
        trials: what the trials of all models had in common.
        tried: models that were evaluated.
        lost: models that could not be evaluated.
        broken: name of a detector that cannot be loaded -> why.
        asked_for: whether the user named the detectors.
        optional: metrics on request, by the names of `metrics.OPTIONAL`.
    """
    errors, skipped = _errors(tried, lost), _skipped(trials, tried, lost, broken)
    for error in errors.values():
        traceback.clear_frames(error.__traceback__)  # they hold images, outputs and the model
    good = {label: result for each in tried for label, result in each.good.items()}
    predictions = {
        each.name: each.session.predictions[ID] for each in tried if each.session.predictions
    }
    described = description_of(
        networks={
            **{each.name: each.network for each in tried},
            **dict.fromkeys(gone.name for gone in lost),
        },
        methods=[
            *(method for each in tried for method in each.session.methods.values()),
            *(method for gone in lost for method in gone.methods),
        ],
        skipped=skipped,
        data=trials.data,
        labeled=bool(predictions),
        evaluation=EvaluationSpec(),
        metrics=optional,
        seed=trials.seed,
        catalog=trials.catalog,
        device=tried[0].model.device,
    )
    recorder = _recorder(described, trials.data, tried[0].model.device, optional)
    records = [record for each in tried for record in _records(trials, each, recorder, broken)]
    records += [record for gone in lost for record in _lost_records(gone, recorder, trials.seed)]
    of_methods = {
        label: _notes_on(each.session, label, records) for each in tried for label in each.good
    }
    notes = [note for each in tried for note in _notes(trials, each, of_methods)]
    notes = list(dict.fromkeys([*notes, *(n for source in trials.data.all for n in source.notes)]))
    warnings = list(dict.fromkeys([*_warnings(trials, tried), *score_warnings(records)]))
    on_methods = {f"{label}: {note}." for label, found in of_methods.items() for note in found}
    complete = not errors and not (asked_for and skipped)
    return EvaluationResult(
        scores={label: dict(result.scores) for label, result in good.items()},
        validation_scores={
            label: dict(result.validation) for label, result in good.items() if result.validation
        },
        records=records,
        differences=differences_to_best(records, recorder.resampled.__getitem__),
        costs=[
            recorder.cost(each.session.methods[label], trials.seed, result)
            for each in tried
            for label, result in each.good.items()
            if result.cost is not None
        ],
        skipped=skipped,
        errors=errors,
        fitted={
            label: fitted_method(label, each.session, each.model, trials.data)
            for each in tried
            for label in each.good
        },
        models={
            each.name: EvaluatedModel(
                each.network.tap_names, each.network.head_name or "", each.session.num_classes
            )
            for each in tried
        },
        predictions=predictions,
        notes=tuple(notes),
        warnings=tuple(warnings),
        description=described.model_copy(
            update={
                "status": "complete" if complete else "incomplete",
                "notes": {f"{label}/seed{trials.seed}": each for label, each in of_methods.items()}
                | {"evaluation": [note for note in notes if note not in on_methods]},
                "warnings": {"data": warnings} if warnings else {},
            }
        ),
    )


def _errors(tried: Sequence[Tried], lost: Sequence[Lost]) -> dict[str, Exception]:
    """Method -> why it failed."""
    errors = {label: error for each in tried for label, error in each.errors.items()}
    for gone in lost:
        errors |= {m.name: gone.error for m in gone.methods if m.name not in gone.skipped}
    return errors


def _skipped(
    trials: Trials, tried: Sequence[Tried], lost: Sequence[Lost], broken: Mapping[str, str]
) -> dict[str, str]:
    """Method -> why it cannot run."""
    skipped = {label: why for each in tried for label, why in each.session.skipped.items()}
    for gone in lost:
        skipped |= gone.skipped
    for each in tried:
        skipped |= {f"{trials.prefix(each.name)}{name}": why for name, why in broken.items()}
    return skipped


def _recorder(
    described: RunDescription, data: DataSets, device: torch.device, optional: Sequence[str]
) -> Recorder:
    benchmark = described.of_benchmark
    return Recorder(
        benchmark=benchmark.name,
        version=benchmark.version,
        id_dataset=benchmark.id,
        ood_groups=dict.fromkeys(data.ood),
        heads={name: model["head"] for name, model in benchmark.models.items()},
        resamples=benchmark.evaluation.resamples,
        run_id=described.run_id,
        device=device_name(device),
        optional=optional,
        no_validation="thresholds are set on validation_data, which were not given",
    )


def _records(
    trials: Trials, each: Tried, recorder: Recorder, broken: Mapping[str, str]
) -> Iterator[QualityRecord]:
    """Records of a model that was evaluated."""
    session, seed = each.session, trials.seed
    for label, method in session.methods.items():
        trials.say.detail(label)
        if label in session.skipped:
            yield from _skipped_records(method, recorder, seed, session.skipped[label])
            continue
        result = session.results[label]
        if result.error is not None:
            yield from recorder.missing_of(method, seed, "failed", reason_of(result.error))
            continue
        yield from recorder.quality(method, seed, Evaluation(session.results, session.predictions))
    for name, reason in broken.items():
        label = f"{trials.prefix(each.name)}{name}"
        yield from recorder.missing(label, each.name, name, seed, "skipped", reason)


def _lost_records(gone: Lost, recorder: Recorder, seed: int) -> Iterator[QualityRecord]:
    """Records of a model that could not be evaluated."""
    for method in gone.methods:
        if method.name in gone.skipped:
            yield from _skipped_records(method, recorder, seed, gone.skipped[method.name])
        else:
            yield from recorder.missing_of(method, seed, "failed", reason_of(gone.error))


def _skipped_records(
    method: Method, recorder: Recorder, seed: int, reason: str
) -> list[QualityRecord]:
    """Records of a method that cannot run, and so is not tuned."""
    return recorder.missing(
        method.name, method.model, method.detector.name, seed, "skipped", reason
    )


def _warnings(trials: Trials, tried: Sequence[Tried]) -> Iterator[str]:
    """Signs of a mistake; those that not all models show begin with the model's name."""
    everywhere = set[str].intersection(*(set(each.session.warnings) for each in tried))
    for each in tried:
        for warning in each.session.warnings:
            yield warning if warning in everywhere else f"{trials.heading(each.name)}{warning}"


def _notes(trials: Trials, each: Tried, of_methods: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Notes on a model and on its methods."""
    session = each.session
    for note in (*each.notes, *_layers_note(session.methods.values(), each.network)):
        yield f"{trials.heading(each.name)}{note}"
    for label in each.good:
        yield from (f"{label}: {note}." for note in of_methods[label])
    yield from _session_notes(session, [session.methods[label] for label in each.good])


def _notes_on(session: Session, label: str, records: Sequence[QualityRecord]) -> list[str]:
    """Notes on a method."""
    ties = tie_notes(record for record in records if record.method == label)
    return [*session.results[label].notes, *ties]


def _session_notes(session: Session, methods: Iterable[Method]) -> Iterable[str]:
    """Notes on several methods."""
    for label, reason in session.unmeasured.items():
        yield f"The costs of {label} could not be measured: {reason}."
    stepping, looking = [], []
    for method in methods:
        if "input_gradient" in method.detector.needs:
            stepping.append(method.name)
        if "input_gradients" in method.detector.needs:
            looking.append(method.name)
    if stepping and not session.attackable:
        yield (
            f"{', '.join(stepping)}: normalization was not given, so the step of the input "
            "perturbation is in units of the images as they came."
        )
    if looking and not session.attackable:
        yield (
            f"{', '.join(looking)}: normalization was not given, so gradients are with respect to "
            "the images as they came, not to pixels in [0, 1]."
        )


def _layers_note(methods: Iterable[Method], network: UserNetwork) -> Iterable[str]:
    """Notes on features and feature layers, if a detector reads them."""
    needs = frozenset[str]().union(*(method.detector.needs for method in methods))
    if network.has_features and network.head_note and needs & {"features", "feature_map"}:
        yield network.head_note
    if needs & {"taps", "tap_maps", "layers"} and network.tap_names:
        yield f"Feature layers: {', '.join(network.tap_names)} ({network.tap_reason})."
