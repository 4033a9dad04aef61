"""Everything that is done with one trained model of one seed: fit, tune, score, measure."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.engine import costs
from oodbench.engine.fitting import fit_together
from oodbench.engine.mistakes import Confusion, labels_signs
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.contract import DetectorError
from oodbench.engine.passes.layer_readers import layer_readers, reads
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.network import NetworkRunner
from oodbench.engine.passes.replacement import kept_taps
from oodbench.engine.scoring import Scorer, SplitScores, pass_outputs, score_split
from oodbench.engine.tuning import tune
from oodbench.engine.tuning_data import TuningData, adversarial_data, clean_outputs, oracle_data
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.planning.plan import FITTED_ON, Method
from oodbench.report.differences import id_key, id_scores
from oodbench.specs import BenchmarkSpec

Data = Callable[[str, str], ImageArray]
"""Gives the images of a data set's split."""


@dataclass
class MethodResult:
    """What came of one method.

    Attributes:
        detectors: OOD set -> the detector that judged it.
        scores: "id" and OOD sets -> scores; for a method tuned on each OOD set "id@SET" each.
        cost: measured; None if it failed.
        fit_seconds, tune_seconds: as a method standing alone would take.
        error: why it failed, or None.
        notes: warnings that its libraries gave.
    """

    detectors: dict[str, Detector] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cost: costs.InferenceCost | None = None
    fit_seconds: float = 0.0
    tune_seconds: float = 0.0
    error: Exception | None = None
    notes: list[str] = field(default_factory=list)

    def id_scores(self, ood: str) -> NDArray[np.float64]:
        """Scores of the ID test images, by the detector that judges an OOD set."""
        return id_scores(self.scores, ood)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of one model and seed.

    Attributes:
        results: method -> result.
        correct: whether the classifier is right, for each ID test image.
        warnings: signs of a mistake in the data (`engine.mistakes`).
    """

    results: Mapping[str, MethodResult]
    correct: NDArray[np.bool_]
    warnings: tuple[str, ...] = ()


def evaluate(
    classifier: Classifier,
    methods: Sequence[Method],
    detectors: Mapping[str, Detector],
    benchmark: BenchmarkSpec,
    data: Data,
    *,
    seed: int,
    num_classes: int,
    reference: tuple[Classifier, Scorer] | None,
    on_stage: Callable[[str], None],
) -> Evaluation:
    """Fit, tune and score all methods of a model, sharing passes; then measure each alone.

    A method that fails ends there, with its error; the others go on.

    Args:
        classifier: trained, on its device.
        methods: methods of this model.
        detectors: method -> a fresh detector.
        benchmark: data sets, tuning, batch size.
        data: gives images.
        seed: of the tuning data.
        num_classes: C.
        reference: what times are divided by.
        on_stage: told what is being done.
    """
    results = {method.name: MethodResult() for method in methods}
    needs = frozenset[str]().union(*(method.detector.needs for method in methods))
    few = _few(classifier, needs, data(benchmark.id, "test"))
    readers, failures = layer_readers(classifier, detectors, few)
    kept, refusals = kept_taps(classifier.network, detectors)
    for name, error in (*failures.items(), *refusals.items()):
        results[name].error = error
    map_name = _map_name(classifier, needs, few)
    note_missing_map(results, detectors, map_name)
    runner = NetworkRunner(
        classifier,
        batch_size=benchmark.evaluation.batch_size,
        capture=Capture.of(needs, map_name, readers, kept),
    )
    runner.report = on_stage
    with runner.attached():
        on_stage("fitting")
        runner.doing = "fitting"
        signs: list[str] = []
        perhaps = "" if benchmark.limited is None else benchmark.limited.weakens
        for need, split in FITTED_ON.items():
            train = functools.partial(data, benchmark.id, split)
            seen = Confusion.empty(num_classes)
            _fit(runner, methods, detectors, results, train, need, seen)
            name = f"the {split} images of '{benchmark.id}'"
            signs += labels_signs(name, seen, fitted_on=need == "fit", perhaps=perhaps)
        for reader in readers:
            if reader.detector.dropped_layers:
                results[reader.method].notes.append(reads(reader))
        on_stage("tuning")
        source = _TuningSource(runner, benchmark, data, seed)
        for method in methods:
            result = results[method.name]
            if result.error is None:
                detector = detectors[method.name]
                runner.doing = f"tuning {method.name}"
                on_stage(runner.doing)
                _tune(runner, method, detector, result, source, tuple(benchmark.ood_groups))
        on_stage("scoring")
        outcome = _score(runner, methods, results, benchmark, data)
    tested = Confusion.of(num_classes, outcome.labels, outcome.predicted)
    signs += labels_signs(f"the test images of '{benchmark.id}'", tested, perhaps=perhaps)
    on_stage("measuring costs")
    images, _ = next(runner.batches(data(benchmark.id, "test")))
    scorers = {
        method.name: Scorer(
            method, results[method.name].detectors[next(iter(benchmark.ood_groups))]
        )
        for method in methods
        if results[method.name].error is None
    }
    measured, errors = costs.measure(
        classifier,
        scorers,
        reference,
        images,
        capture=runner.capture,
        report=on_stage,
    )
    for name, cost in measured.items():
        results[name].cost = cost
    for name in scorers.keys() & errors.keys():
        results[name].error = errors[name]
    assert outcome.correct is not None
    return Evaluation(results, outcome.correct, tuple(signs))


def _few(classifier: Classifier, needs: Set[str], images: ImageArray) -> Tensor:
    """A few images to look at the network with; none if no detector needs that."""
    if not needs & {"feature_map", "layers"}:
        return torch.empty(0)
    few, _ = next(NetworkRunner(classifier, batch_size=4).batches(images))
    return few


def _map_name(classifier: Classifier, needs: Set[str], few: Tensor) -> str | None:
    """Name of the module that gives the map before pooling, if a detector needs it."""
    if "feature_map" not in needs:
        return None
    with evaluating(classifier):
        return find_map(classifier, few)


def _fit(
    runner: NetworkRunner,
    methods: Sequence[Method],
    detectors: Mapping[str, Detector],
    results: Mapping[str, MethodResult],
    images: Callable[[], ImageArray],
    need: str,
    seen: Confusion,
) -> None:
    """One pass over a split for every detector that has the need "fit", or "validation".

    What it shows of the labels is added to `seen`.
    """
    to_fit = {
        method.name: detectors[method.name]
        for method in methods
        if need in method.detector.needs and results[method.name].error is None
    }
    if not to_fit:
        return
    split = images()
    started = time.perf_counter()
    fits = fit_together(
        to_fit,
        lambda: seen.watched(pass_outputs(runner, split, to_fit)),
        len(seen.counts),
        validation=need == "validation",
    )
    # Alone, a method would have paid for the pass and for its own part of the work.
    pass_seconds = time.perf_counter() - started - sum(fit.seconds for fit in fits.values())
    for name, fit in fits.items():
        results[name].fit_seconds += pass_seconds + fit.seconds + fit.shared_seconds
        results[name].error = fit.error


class _TuningSource:
    """Makes tuning data once and remembers how long it took: every method would have paid it."""

    def __init__(
        self, runner: NetworkRunner, benchmark: BenchmarkSpec, data: Data, seed: int
    ) -> None:
        self._runner, self._benchmark, self._data, self._seed = runner, benchmark, data, seed
        self._made: dict[str | None, tuple[TuningData[Tensor], float]] = {}
        self._clean: dict[str | None, tuple[TuningData[Outputs], float]] = {}

    def clean(self, ood: str | None) -> tuple[TuningData[Outputs], float]:
        """What the network says of these images, and the seconds it took to ask."""
        if ood not in self._clean:
            data, _ = self.get(ood)
            started = time.perf_counter()
            outputs = clean_outputs(self._runner, data)
            self._clean[ood] = outputs, time.perf_counter() - started
        return self._clean[ood]

    def get(self, ood: str | None) -> tuple[TuningData[Tensor], float]:
        """Attacked ID images, or with an OOD set validation images of it; and the seconds."""
        if ood not in self._made:
            started = time.perf_counter()
            made = self._make(ood)
            self._made[ood] = made, time.perf_counter() - started
        return self._made[ood]

    def _make(self, ood: str | None) -> TuningData[Tensor]:
        spec = self._benchmark.tuning
        validation = self._data(self._benchmark.id, spec.split)
        if ood is None:
            return adversarial_data(self._runner, validation, spec, self._seed)
        return oracle_data(validation, self._data(ood, spec.split), spec, self._seed)


def _tune(
    runner: NetworkRunner,
    method: Method,
    detector: Detector,
    result: MethodResult,
    source: _TuningSource,
    ood_sets: Sequence[str],
) -> None:
    if method.tuned_on == "none":
        result.detectors = dict.fromkeys(ood_sets, detector)
        return
    try:
        with _notes(result.notes):
            if method.tuned_on == "ood_oracle":
                for ood in ood_sets:
                    result.detectors[ood] = _tuned(runner, method, detector, result, source, ood)
            else:
                tuned = _tuned(runner, method, detector, result, source, None)
                result.detectors = dict.fromkeys(ood_sets, tuned)
    except Exception as error:
        result.error = error


def _tuned(
    runner: NetworkRunner,
    method: Method,
    detector: Detector,
    result: MethodResult,
    source: _TuningSource,
    ood: str | None,
) -> Detector:
    data, seconds = source.get(ood)
    result.tune_seconds += seconds
    started = time.perf_counter()

    def clean() -> TuningData[Outputs]:
        # Every method would have paid for the shared pass, whichever asked for it first.
        nonlocal started
        outputs, swept_seconds = source.clean(ood)
        started = time.perf_counter() - swept_seconds
        return outputs

    tuned = tune(runner, method, detector, data, clean)
    result.tune_seconds += time.perf_counter() - started
    return tuned.detector


def _score(
    runner: NetworkRunner,
    methods: Sequence[Method],
    results: Mapping[str, MethodResult],
    benchmark: BenchmarkSpec,
    data: Data,
) -> SplitScores[tuple[str, str]]:
    """One pass over each test split; a method's scores are stored in its result.

    Returns:
        What the pass over the ID test split gave.
    """
    alive = [method for method in methods if results[method.name].error is None]
    scorers: dict[tuple[str, str], Scorer] = {}
    for method in alive:
        judges = results[method.name].detectors
        if method.tuned_on == "ood_oracle":
            for ood, judge in judges.items():
                scorers[method.name, id_key(ood)] = Scorer(method, judge)
        else:
            scorers[method.name, "id"] = Scorer(method, next(iter(judges.values())))
    outcome = score_split(
        runner,
        data(benchmark.id, "test"),
        scorers,
        dataset=benchmark.id,
        check_batches=True,
    )
    for (name, _), error in outcome.errors.items():
        results[name].error = error
    for (name, key), scores in outcome.scores.items():
        results[name].scores[key] = scores
    for ood in benchmark.ood_groups:
        judging = {
            method.name: Scorer(method, results[method.name].detectors[ood])
            for method in alive
            if results[method.name].error is None
        }
        ood_outcome = score_split(runner, data(ood, "test"), judging, dataset=ood)
        for name, error in ood_outcome.errors.items():
            results[name].error = error
        for name, scores in ood_outcome.scores.items():
            results[name].scores[ood] = scores
    fail_constant_scores(results)
    return outcome


NO_MAP = (
    "no module of the network gives a map whose mean is the penultimate features, so it works on "
    "these features, after pooling"
)


def note_missing_map(
    results: Mapping[str, MethodResult], detectors: Mapping[str, Detector], map_name: str | None
) -> None:
    """Note for detectors that work on maps that there is none.

    Args:
        results: method -> result, to be noted in.
        detectors: method -> detector.
        map_name: of the module that gives the map; None if none does.
    """
    if map_name is None:
        for name, detector in detectors.items():
            if name in results and detector.works_on_map:
                results[name].notes.append(NO_MAP)


def fail_constant_scores(results: Mapping[str, MethodResult]) -> None:
    """Mark methods as failed that give one score to every image: they rank nothing.

    Args:
        results: scored on every test set.
    """
    for result in results.values():
        if result.error is not None or not result.scores:
            continue
        scores = np.concatenate([*result.scores.values()])
        if len(scores) > 1 and _is_constant(scores):
            rounding = "" if (scores == scores[0]).all() else " up to rounding"
            result.error = DetectorError(
                f"all {len(scores)} test images, ID and OOD, have the same score{rounding}, "
                f"{scores[0] + 0.0:.6g}: "
                "the detector tells none apart"
            )


_CONSTANT_ULPS = 4
"""Scores of equal outputs differ by as many units of the last place: vectorized functions round
otherwise at the end of a batch."""


def _is_constant(scores: NDArray[np.float64]) -> bool:
    """Whether scores differ by no more than the rounding of the type they were computed in."""
    with np.errstate(over="ignore"):  # of float64 that has no float32
        single = bool((scores.astype(np.float32) == scores).all())
    unit = float(np.finfo(np.float32 if single else np.float64).eps)
    low, high = float(scores.min()), float(scores.max())
    return high == low or high - low <= _CONSTANT_ULPS * unit * max(abs(low), abs(high))


@contextmanager
def _notes(notes: list[str]) -> Iterator[None]:
    """Keep what libraries warn of, once each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += dict.fromkeys(str(warning.message).splitlines()[0] for warning in caught)


def chosen_parameters(detector: Detector) -> dict[str, Any]:
    """The parameters a detector ended with, as plain JSON values."""
    return {
        name: value if isinstance(value, str | int | float | bool | None) else str(value)
        for name, value in detector.parameters.items()
    }
