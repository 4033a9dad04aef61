"""Puts the result of `oodbench.evaluate` together: records, costs, notes, warnings."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oodbench.deploy.deployed_model import DeployedModel
from oodbench.engine.method_results import Evaluation, MethodResult
from oodbench.engine.metric_intervals import Recorder
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError
from oodbench.models.structure.user_network import UserNetwork
from oodbench.models.user_classifier import UserClassifier
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.report.differences import differences_to_best
from oodbench.report.score_warnings import score_warnings, tie_notes
from oodbench.specs import EvaluationSpec
from oodbench.storage.records import QualityRecord
from oodbench.training.distributed import device_name
from oodbench.user_model.evaluation_description import description_of
from oodbench.user_model.evaluation_result import EvaluatedModel, EvaluationResult
from oodbench.user_model.fitted_methods import fitted_method
from oodbench.user_model.session import DataSets, NoDetectorError, Session


@dataclass(frozen=True, slots=True)
class Tried:
    """A model that was evaluated.

    Attributes:
        name: name of the model in records.
        session: evaluated its detectors.
        classifier: the adapted model.
        notes: remarks on the model.
        model: as fitted detectors keep it.
    """

    name: str
    session: Session
    classifier: UserClassifier
    notes: Sequence[str]
    model: DeployedModel

    @property
    def network(self) -> UserNetwork:
        """The adapted network."""
        assert isinstance(self.classifier.network, UserNetwork)
        return self.classifier.network

    @property
    def errors(self) -> dict[str, Exception]:
        """Label -> error of a method that failed."""
        results = self.session.results
        return {label: each.error for label, each in results.items() if each.error is not None}

    @property
    def good(self) -> dict[str, MethodResult]:
        """Label -> result of a method that did not fail."""
        results = self.session.results
        return {label: each for label, each in results.items() if each.error is None}


@dataclass(frozen=True, slots=True)
class Lost:
    """One of several models that could not be evaluated.

    Attributes:
        name: name of the model.
        methods: those that did not run.
        error: why.
    """

    name: str
    methods: Sequence[Method]
    error: UserError

    @property
    def skipped(self) -> Mapping[str, str]:
        """Method -> why it cannot run, if that is why the model was not evaluated."""
        return self.error.skipped if isinstance(self.error, NoDetectorError) else {}


def result_of(
    tried: Sequence[Tried],
    lost: Sequence[Lost],
    broken: Mapping[str, str],
    seed: int,
    data: DataSets,
    *,
    catalog: Catalog,
    asked_for: bool,
    several: bool,
    optional: Sequence[str] = (),
    report: Callable[[str], None],
) -> EvaluationResult:
    """The result of a call.

    Args:
        tried: models that were evaluated.
        lost: models that could not be evaluated.
        broken: name of a detector that cannot be loaded -> why.
        seed: seed of the call.
        data: the images, read.
        catalog: gives the detectors.
        asked_for: whether the user named the detectors.
        several: whether models were given by name.
        optional: metrics on request, by the names of `metrics.OPTIONAL`.
        report: progress messages go here.
    """
    errors = {label: error for each in tried for label, error in each.errors.items()}
    for gone in lost:
        errors |= {m.name: gone.error for m in gone.methods if m.name not in gone.skipped}
    for error in errors.values():
        traceback.clear_frames(error.__traceback__)  # they hold images, outputs and the model
    good = {label: result for each in tried for label, result in each.good.items()}
    scores = {label: dict(result.scores) for label, result in good.items()}
    validation = {label: dict(each.validation) for label, each in good.items() if each.validation}
    ood = data.ood
    device = tried[0].model.device
    predictions = {
        each.name: each.session.predictions[ID] for each in tried if each.session.predictions
    }
    skipped = {label: why for each in tried for label, why in each.session.skipped.items()}
    for gone in lost:
        skipped |= gone.skipped
    for each in tried:
        skipped |= {(f"{each.name}+{n}" if several else n): why for n, why in broken.items()}
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
        data=data,
        labeled=bool(predictions),
        evaluation=EvaluationSpec(),
        metrics=optional,
        seed=seed,
        catalog=catalog,
        device=device,
    )
    benchmark = described.of_benchmark
    recorder = Recorder(
        benchmark=benchmark.name,
        version=benchmark.version,
        id_dataset=benchmark.id,
        ood_groups=dict.fromkeys(ood),
        heads={name: model["head"] for name, model in benchmark.models.items()},
        resamples=benchmark.evaluation.resamples,
        run_id=described.run_id,
        device=device_name(device),
        optional=optional,
        no_validation="thresholds are set on validation_data, which were not given",
    )
    records: list[QualityRecord] = []
    notes: list[str] = []
    of_methods: dict[str, list[str]] = {}
    found_warnings: list[str] = []
    everywhere = set[str].intersection(*(set(each.session.warnings) for each in tried))
    for each in tried:
        prefix = f"{each.name}: " if several else ""
        mine = list(_records(each.session, recorder, each.session.methods, seed, report))
        records += mine
        of_model = [*each.notes, *_layers_note(each.session.methods.values(), each.network)]
        notes += [f"{prefix}{note}" for note in of_model]
        of_methods |= {label: _notes_on(each.session, label, mine) for label in each.good}
        notes += [f"{label}: {note}." for label in each.good for note in of_methods[label]]
        notes += _notes(each.session, [each.session.methods[label] for label in each.good])
        found_warnings += [
            warning if warning in everywhere else f"{prefix}{warning}"
            for warning in each.session.warnings
        ]
        for name, reason in broken.items():
            label = f"{each.name}+{name}" if several else name
            records += recorder.missing(label, each.name, name, seed, "skipped", reason)
    for gone in lost:
        for method in gone.methods:
            identity = (method.name, gone.name, method.detector.name, seed)
            if method.name in gone.skipped:
                records += recorder.missing(*identity, "skipped", gone.skipped[method.name])
            else:
                reason = reason_of(gone.error)
                records += recorder.missing(*identity, "failed", reason, method.tuned_on)
    notes = list(dict.fromkeys([*notes, *(note for source in data.all for note in source.notes)]))
    warnings = list(dict.fromkeys([*found_warnings, *score_warnings(records)]))
    on_methods = {f"{label}: {note}." for label, found in of_methods.items() for note in found}
    complete = not errors and not (asked_for and skipped)
    return EvaluationResult(
        scores=scores,
        validation_scores=validation,
        records=records,
        differences=differences_to_best(records, recorder.resampled.__getitem__),
        costs=[
            recorder.cost(each.session.methods[label], seed, result)
            for each in tried
            for label, result in each.good.items()
            if result.cost is not None
        ],
        skipped=skipped,
        errors=errors,
        fitted={
            label: fitted_method(label, each.session, each.model, data)
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
                "notes": {f"{label}/seed{seed}": found for label, found in of_methods.items()}
                | {"evaluation": [note for note in notes if note not in on_methods]},
                "warnings": {"data": warnings} if warnings else {},
            }
        ),
    )


def _notes_on(session: Session, label: str, records: Sequence[QualityRecord]) -> list[str]:
    """Notes on a method."""
    ties = tie_notes(record for record in records if record.method == label)
    return [*session.results[label].notes, *ties]


def _notes(session: Session, methods: Iterable[Method]) -> Iterable[str]:
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


def _records(
    session: Session,
    recorder: Recorder,
    methods: Mapping[str, Method],
    seed: int,
    report: Callable[[str], None],
) -> Iterable[QualityRecord]:
    for label, method in methods.items():
        report(label)
        identity = (label, method.model, method.detector.name, seed)
        if label in session.skipped:
            yield from recorder.missing(*identity, "skipped", session.skipped[label])
            continue
        result = session.results[label]
        if result.error is not None:
            yield from recorder.missing(
                *identity, "failed", reason_of(result.error), method.tuned_on
            )
            continue
        yield from recorder.quality(method, seed, Evaluation(session.results, session.predictions))
