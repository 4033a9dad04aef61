"""Detectors on one user model: detectors that cannot run are skipped with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from oodbench.deploy.checked_runner import CheckedRunner, cannot_take
from oodbench.detector import Detector
from oodbench.engine.costs import Reference
from oodbench.engine.method_results import MethodResult
from oodbench.engine.mistakes import Values, features_signs, shared_signs, values_signs
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.passes.input_gradients import takes_gradients
from oodbench.engine.passes.replacement import replaced_taps
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.specs import TuningSpec
from oodbench.storage.predictions import Predictions
from oodbench.user_model.data_sets import FEW, DataSets
from oodbench.user_model.obstacles import Obstacles

_REFERENCE = "(baseline)"

_NO_SLOPE = (
    "the gradient of the logits with respect to the images is zero, for the first images and for "
    "noise, as in a model that rounds its images: these scores carry no information"
)


class NoDetectorError(UserError):
    """No detector can run on a model.

    Attributes:
        skipped: label -> why a detector cannot run.
    """

    def __init__(self, skipped: Mapping[str, str]) -> None:
        same = {why: [k for k, v in skipped.items() if v == why] for why in skipped.values()}
        super().__init__(
            "No detector can run.",
            " ".join(f"{', '.join(labels)}: {why}." for why, labels in same.items()),
        )
        self.skipped = skipped


class Session:
    """Evaluates the detectors that can run on a user model, and gives reasons for the others.

    Args:
        classifier: in evaluation mode.
        methods: in the order of the results.
        detectors: label -> detector of a method; it is fitted.
        data: images to fit on and to score.
        num_classes: C.
        attackable: whether images are in [0, 1], so that they can be attacked.
        seed: seed of the tuning data.
        report: called with progress messages.

    Attributes:
        methods: label -> method, including skipped methods.
        skipped: label -> why a detector cannot run.
        unmeasured: label -> why its costs could not be measured.

    Raises:
        NoDetectorError: if all are skipped.
    """

    def __init__(
        self,
        classifier: Classifier,
        methods: Sequence[Method],
        detectors: Mapping[str, Detector],
        data: DataSets,
        num_classes: int,
        *,
        attackable: bool,
        seed: int,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._classifier, self._data = classifier, data
        methods = [method.with_layers(data.splits) for method in methods]
        self.num_classes, self.attackable = num_classes, attackable
        self.methods = {method.name: method for method in methods}
        self._obstacles = Obstacles(classifier, data, attackable=attackable)
        reasons = {m.name: self._obstacles.of(m, detectors[m.name]) for m in methods}
        self.skipped = {label: reason for label, reason in reasons.items() if reason is not None}
        self.unmeasured: dict[str, str] = {}
        able = [method for method in methods if method.name not in self.skipped]
        if not able:
            raise NoDetectorError(self.skipped)
        self._detectors = {method.name: detectors[method.name] for method in able}
        largest = max(len(source.first()[0]) for source in data.all)
        self._evaluation = ModelEvaluation(
            CheckedRunner(classifier, batch_size=largest),
            able,
            self._detectors,
            data.for_engine(),
            num_classes,
            tuning=TuningSpec(),
            seed=seed,
            report=report,
        )

    def run(self, *, stop_early: bool = False, score: bool = True) -> None:
        """Fit, tune and score.

        Args:
            stop_early: stop after the first step in which a detector failed.
            score: score the test images.

        Raises:
            UserError: if the model does not accept the first images.
        """
        try:
            self._evaluation.prepare()
        except UserError:
            raise
        except Exception as error:
            few = self._data.test[ID].first()[0][:FEW]
            name = self._data.test[ID].name
            raise cannot_take(self._classifier, few, name, error) from error
        for label, result in self.results.items():
            if result.error is None:
                replaced = replaced_taps(self._detectors[label], self._classifier.network)
                if replaced:
                    result.notes.append(f"replaces the output of {', '.join(replaced)}")
            steps = takes_gradients(self.methods[label].detector.needs)
            if steps and self._obstacles.gradient_is_zero:
                result.notes.append(_NO_SLOPE)
        self._evaluation.run(stop_early=stop_early, score=score)
        self._evaluation.note_layers(only_dropped=False)
        values = {each.name: Values(each.scaled, *each.values) for each in self._data.all}
        self._evaluation.warnings += features_signs(
            [self.methods[label] for label in self.results],
            self._evaluation.scoring.negative_features,
        )
        self._evaluation.warnings += values_signs(values)
        read = {each.name: each.fingerprints for each in self._data.all}
        self._evaluation.warnings += shared_signs({k: v for k, v in read.items() if v is not None})

    def measure(self, baseline: Detector) -> None:
        """Measure the cost of each detector alone.

        Args:
            baseline: detector that times are divided by, if the user did not select it.
        """
        alive = [label for label, each in self.results.items() if each.error is None]
        same = [n for n in alive if self.methods[n].detector.name == baseline.info.name]
        reference = Reference(same[0] if same else _REFERENCE, self._classifier, baseline)
        try:
            errors = self._evaluation.measure(reference)
        except Exception as error:  # of the model: the scores are kept
            errors = dict.fromkeys(alive, error)
        self.unmeasured = {label: reason_of(error) for label, error in errors.items()}

    @property
    def results(self) -> dict[str, MethodResult]:
        """Label -> result of a detector that was not skipped."""
        return self._evaluation.results

    @property
    def predictions(self) -> Mapping[str, Predictions]:
        """Predictions of the model for the images of "id"; empty without labels."""
        return self._evaluation.scoring.predictions

    @property
    def warnings(self) -> list[str]:
        """Signs of a mistake in the data (`engine.mistakes`)."""
        return self._evaluation.warnings
