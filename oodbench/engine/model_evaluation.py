"""Everything that is done with detectors on one model: fit, tune, score, measure.

Benchmarks and user models share these steps. Their data are image sources, and the runner that
passes images through the model is handed in.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from oodbench.detector import Detector
from oodbench.engine import costs
from oodbench.engine.fitting import fit_together
from oodbench.engine.kept_out import KEPT_OUT
from oodbench.engine.method_results import (
    Evaluation,
    MethodResult,
    fail_constant_scores,
    note_missing_map,
)
from oodbench.engine.mistakes import Confusion, labels_signs
from oodbench.engine.passes.capture import Capture, LayerReader
from oodbench.engine.passes.contract import NO_LOCAL_FEATURES, DetectorError
from oodbench.engine.passes.fitting_pass import OwnSeconds, pass_outputs
from oodbench.engine.passes.folding import find_folding
from oodbench.engine.passes.image_sources import ID, EvaluationData, ImageSource
from oodbench.engine.passes.layer_readers import layer_readers, reads
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.own_passes import kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.passes.sampled_logits import find_sampled
from oodbench.engine.set_scoring import SetScoring
from oodbench.engine.tuning import tune
from oodbench.engine.tuning_data import TuningImages, ValidationImages, adversarial_data, in_memory
from oodbench.errors import counted
from oodbench.models.feature_map import find_map
from oodbench.planning.plan import FITTED_ON, Method
from oodbench.specs import SplitName, TuningProtocol, TuningSpec

_FEW = 4
"""Images that the map before pooling is searched with."""


class ModelEvaluation:
    """Evaluates detectors on one model: `prepare`, then `run`, then `measure`.

    All detectors share the passes over the images. A method that fails is left out from then on,
    with its error in its result.

    Args:
        runner: passes images through the model; not attached yet.
        methods: in the order of the results.
        detectors: method -> a detector of its own, not fitted.
        data: what to fit, tune and score on.
        num_classes: C.
        tuning: strengths of attack and noise.
        seed: seed of the tuning data.
        report: progress messages go here.

    Attributes:
        results: method -> result.
        warnings: signs of a mistake in the data (`engine.mistakes`).
        scoring: scores the test sets; has predictions.
    """

    def __init__(
        self,
        runner: NetworkRunner,
        methods: Sequence[Method],
        detectors: Mapping[str, Detector],
        data: EvaluationData,
        num_classes: int,
        *,
        tuning: TuningSpec,
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self.runner, self._methods, self._detectors = runner, methods, detectors
        self._data, self._num_classes = data, num_classes
        self._tuning, self._seed = tuning, seed
        self._report = runner.report = report
        self._readers: Sequence[LayerReader] = ()
        self.results = {method.name: MethodResult() for method in methods}
        self.warnings: list[str] = []
        self.scoring = SetScoring(runner, methods, data, num_classes, self.results, self.warnings)

    def prepare(self) -> None:
        """Find what the detectors read of the network, and what can be folded in it.

        Raises:
            Exception: what the network raises for the first images.
        """
        classifier = self.runner.classifier
        needs = frozenset[str]().union(*(method.detector.needs for method in self._methods))
        images = self._first_images()
        name = None
        with evaluating(classifier):
            if "feature_map" in needs:
                name = find_map(classifier, images[:_FEW])
            self.runner.folding = find_folding(classifier, images[:_FEW])
            sampled, unsuitable = find_sampled(classifier, images[:_FEW], needs)
        ((_, (self._readers, failures)), *_) = self.runner.within_memory(
            lambda images, *_: layer_readers(classifier, self._detectors, images), images, None
        )
        kept = kept_taps(classifier.network, self._detectors)
        for method, failure in (*failures.items(), *kept.errors.items()):
            self.results[method].error = failure
        if not classifier.network.has_local_features:
            for label, detector in self._detectors.items():
                if "local_features" in detector.info.needs:
                    self.results[label].error = DetectorError(NO_LOCAL_FEATURES)
        for need, obstacle in unsuitable.items():
            for label, detector in self._detectors.items():
                if need in detector.info.needs:
                    self.results[label].error = obstacle
        note_missing_map(self.results, self._detectors, name)
        self.runner.capture = Capture.of(
            needs,
            name,
            self._readers,
            kept,
            sampled.items(),
            features_apart=classifier.network.features_apart,
        )

    def run(self, *, stop_early: bool = False, score: bool = True) -> None:
        """Fit, tune and score.

        Args:
            stop_early: stop after the first step in which a method failed.
            score: score the test images; if not, the data need no OOD set.
        """
        steps: list[Callable[[], None]] = [
            *(functools.partial(self._fit, split) for split in FITTED_ON.values()),
            self._tune,
            *([self._score] if score else []),
        ]
        with self.runner.attached():
            for step in steps:
                step()
                if stop_early and len(self.scoring.alive) < len(self._methods):
                    return

    @property
    def fitted(self) -> Mapping[str, Detector]:
        """Method -> its detector, fitted and not tuned."""
        return self._detectors

    def restore(
        self,
        fitted: Mapping[str, Detector],
        results: Mapping[str, MethodResult],
        warnings: Sequence[str],
    ) -> None:
        """Take what another evaluation had after it had fitted and tuned; after `prepare`.

        Args:
            fitted: as the attribute there; methods that failed may be left out.
            results: as the attribute there, of every method.
            warnings: likewise.
        """
        self._detectors = {**self._detectors, **fitted}
        self._readers = [
            replace(reader, detector=self._detectors[reader.method]) for reader in self._readers
        ]
        self.runner.capture = replace(self.runner.capture, readers=tuple(self._readers))
        self.results.update(results)
        self.warnings[:] = warnings

    def note_layers(self, *, only_dropped: bool) -> None:
        """Add notes on the layers that detectors read.

        Args:
            only_dropped: only for detectors that left out some of the layers they chose.
        """
        for reader in self._readers:
            if reader.detector.dropped_layers or not only_dropped:
                self.results[reader.method].notes.insert(0, reads(reader))

    def measure(self, reference: costs.Reference | None) -> dict[str, Exception]:
        """Measure what each method costs alone.

        Args:
            reference: the method that times are divided by, or None.

        Returns:
            method -> error of those that could not be measured.
        """
        detectors = self.scoring.for_ood(self._data.ood[0])
        measured, errors = costs.measure(
            self.runner.classifier,
            detectors,
            reference,
            self._first_images(),
            capture=self.runner.capture,
            folding=self.runner.folding,
            report=self._report,
        )
        for method, cost in measured.items():
            self.results[method].cost = cost
        return {method: error for method, error in errors.items() if method in detectors}

    def outcome(self, reference: costs.Reference | None) -> Evaluation:
        """The results of a benchmark's model, with costs; after all else.

        A method fails if its costs cannot be measured.
        """
        for name, error in (self.measure(reference) if self._methods else {}).items():
            self.results[name].error = error
        return Evaluation(
            self.results,
            self.scoring.predictions,
            tuple(self.warnings),
            self.scoring.negative_features,
        )

    def _score(self) -> None:
        self.scoring.score_all()
        fail_constant_scores(self.results)

    @property
    def _tested(self) -> tuple[str, ...]:
        """The OOD sets; without any, the name of the ID images: detectors are only fitted."""
        return self._data.ood or (ID,)

    def _first_images(self) -> Tensor:
        first, _ = self._data.test[ID].first()
        images, _ = self.runner.placed(first[: self.runner.batch_size])
        return images

    # --- fitting -------------------------------------------------------------------------------

    def _fit(self, split: SplitName) -> None:
        """One pass for all detectors that are fitted on a split of the ID set."""
        wanted = {
            method.name: [need for need, on in method.fitted_on().items() if on == split]
            for method in self.scoring.alive
        }
        detectors = {name: self._detectors[name] for name, needs in wanted.items() if needs}
        if not detectors:
            return
        source = self._data.fitted_on[split]
        self.runner.doing = f"fitting on {source.name}"
        self._report(self.runner.doing)
        started = time.perf_counter()
        seen, own = Confusion.empty(self._num_classes), OwnSeconds()
        fits = fit_together(
            detectors,
            lambda: seen.watched(pass_outputs(self.runner, source, detectors, own)),
            self._num_classes,
            wanted,
            {method.name for method in self.scoring.alive if method.keeps_out},
        )
        # Alone, a method would have taken the pass and its own part of the work.
        elapsed = time.perf_counter() - started - own.spent
        this_pass = elapsed - sum(fit.seconds for fit in fits.values())
        for name, fit in fits.items():
            seconds = fit.seconds + fit.shared_seconds + own.alone[name]
            self.results[name].fit_seconds += this_pass + seconds
            self.results[name].error = fit.error
        for method in self._methods:
            if method.keeps_out and method.name in fits:
                self.results[method.name].notes.append(
                    f"combines its layers by their scores of {KEPT_OUT:.0%} of {source.name}, on "
                    "which it is not fitted: there are no other ID images"
                )
        zero_shot = self.runner.classifier.network.language is not None
        trained = split == "train" and not zero_shot
        perhaps = self._data.perhaps
        self.warnings += labels_signs(source.name, seen, fitted_on=trained, perhaps=perhaps)

    # --- tuning --------------------------------------------------------------------------------

    def _tune(self) -> None:
        """Tune the methods that are tuned; the others score as they are."""
        tuned: dict[tuple[TuningProtocol, str | None], list[Method]] = defaultdict(list)
        for method in self.scoring.alive:
            if method.tuned_on == "none":
                detector = self._detectors[method.name]
                self.results[method.name].detectors = dict.fromkeys(self._tested, detector)
            else:
                tuned[method.tuned_on, method.tuning_ood].append(method)
        for (protocol, one), methods in tuned.items():
            if protocol == "ood_oracle":
                for ood in self._data.ood:
                    alive = [m for m in methods if self.results[m.name].error is None]
                    self._tune_on(protocol, self._data.ood_tuning[ood], alive, [ood])
            else:
                source = None if one is None else self._data.ood_tuning[one]
                self._tune_on(protocol, source, methods, self._tested)

    def _tune_on(
        self,
        protocol: TuningProtocol,
        negatives: ImageSource | None,
        methods: Sequence[Method],
        ood_sets: Sequence[str],
    ) -> None:
        """Tune methods, in one pass over the images, for some OOD sets.

        Args:
            protocol: how.
            negatives: images of an OOD set; None to attack ID images.
            methods: not failed.
            ood_sets: the sets that the tuned detectors score.
        """
        on = "attacked images" if negatives is None else negatives.name
        self.runner.doing = f"tuning {counted(len(methods), 'method')} on {on}"
        self._report(self.runner.doing)
        started = time.perf_counter()
        try:
            images = self._tuning_images(negatives, oracle=protocol == "ood_oracle")
            made_in = time.perf_counter() - started
            found = tune(self.runner, methods, self._detectors, images)
        except Exception as error:
            for method in methods:
                self.results[method.name].error = error
            return
        for method in methods:
            result, tuned = self.results[method.name], found[method.name]
            if isinstance(tuned, Exception):
                result.error = tuned
                continue
            result.detectors |= dict.fromkeys(ood_sets, tuned.detector)
            result.notes += [note for note in tuned.notes if note not in result.notes]
            result.tune_seconds += made_in + tuned.seconds

    def _tuning_images(self, negatives: ImageSource | None, *, oracle: bool) -> TuningImages:
        """Attacked ID images, or ID images and those of an OOD set."""
        positives, spec = self._data.tuning, self._tuning
        assert positives is not None
        if negatives is None:
            inside = in_memory(positives)
            return adversarial_data(self.runner, inside, spec, self._seed, name=positives.name)
        return ValidationImages.of(positives, negatives, spec, self._seed, oracle=oracle)


def evaluate(
    runner: NetworkRunner,
    methods: Sequence[Method],
    detectors: Mapping[str, Detector],
    data: EvaluationData,
    num_classes: int,
    *,
    tuning: TuningSpec,
    seed: int,
    reference: costs.Reference | None,
    report: Callable[[str], None],
) -> Evaluation:
    """All steps for one model; arguments as those of `ModelEvaluation` and its `measure`.

    A method fails if its costs cannot be measured. Without methods, there are predictions alone.
    """
    evaluation = ModelEvaluation(
        runner, methods, detectors, data, num_classes, tuning=tuning, seed=seed, report=report
    )
    evaluation.prepare()
    evaluation.run()
    evaluation.note_layers(only_dropped=True)
    return evaluation.outcome(reference)
