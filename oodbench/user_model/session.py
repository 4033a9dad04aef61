"""Detectors on one user model: detectors that cannot run are skipped with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from oodbench.deploy.checked_runner import CheckedRunner, cannot_take
from oodbench.detector import Detector, head_obstacle
from oodbench.engine.costs import Reference
from oodbench.engine.method_results import MethodResult
from oodbench.engine.mistakes import Values, features_signs, shared_signs, values_signs
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.contract import NO_LOCAL_FEATURES
from oodbench.engine.passes.image_sources import ID, EvaluationData
from oodbench.engine.passes.input_gradients import takes_gradients
from oodbench.engine.passes.memory import arranged, is_out_of_memory
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.replacement import replaced_taps
from oodbench.engine.passes.sampled_logits import NEEDS as SAMPLED
from oodbench.engine.passes.sampled_logits import find_sampled
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.models.structure.head import UNREGISTERED, UNWATCHED
from oodbench.planning.plan import FITTED_ON, Method
from oodbench.specs import TuningSpec
from oodbench.storage.predictions import Predictions
from oodbench.user_data.dataloader import LoadedImages

OOD_DATA = "ood_validation_data"
"""The argument that OOD images to tune on are given as."""

REFERENCE = "(baseline)"

_FEW = 3
"""Images that the gradient is tried on."""


@dataclass(frozen=True, slots=True)
class DataSets:
    """The images that a user gives.

    Attributes:
        test: "id" and the names of the OOD sets -> images to score.
        fit: images that the classifier was trained on; None if there are none.
        validation: images of its classes that it was not trained on; None if there are none.
        ood_validation: OOD images that detectors are tuned on; None if there are none.
        sets_thresholds: whether thresholds are set on `validation`, if it is given.
    """

    test: Mapping[str, LoadedImages]
    fit: LoadedImages | None
    validation: LoadedImages | None
    ood_validation: LoadedImages | None = None
    sets_thresholds: bool = False

    @property
    def all(self) -> list[LoadedImages]:
        """All data sets that the user gave."""
        given = (*self.test.values(), self.fit, self.validation, self.ood_validation)
        return list(dict.fromkeys(source for source in given if source is not None))

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the OOD sets."""
        return tuple(name for name in self.test if name != ID)

    def for_need(self, need: str) -> tuple[str, LoadedImages | None]:
        """The data for detectors with the need "fit" or "validation", with a description."""
        if need == "fit":
            return "fit_data, images that the model was trained on", self.fit
        return "validation_data, images that the model was not trained on", self.validation

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the ID set that detectors can be fitted on."""
        return tuple(split for need, split in FITTED_ON.items() if self.for_need(need)[1])

    def for_engine(self) -> EvaluationData:
        """The data for the engine; the validation data are those to tune on."""
        fitted_on = {split: self.for_need(need)[1] for need, split in FITTED_ON.items()}
        return EvaluationData(
            test=self.test,
            fitted_on={split: each for split, each in fitted_on.items() if each is not None},
            tuning=self.validation,
            ood_tuning={} if self.ood_validation is None else {OOD_DATA: self.ood_validation},
            validation=self.validation if self.sets_thresholds else None,
        )

    def close(self) -> None:
        """Release workers."""
        for source in self.all:
            source.close()


def _without_features(why: str) -> str:
    """Why a detector that needs features cannot run on a model without known features."""
    if why == UNWATCHED:
        return (
            f"needs the features, the input of the model's last layer; {why}: pass the original "
            "torch.nn.Module, or give a function that computes them, features="
        )
    if why == UNREGISTERED:
        return (
            f"needs the features, the input of the model's last layer; {why}: keep them in "
            "torch.nn.ModuleList or ModuleDict"
        )
    return (
        f"needs the features, the input of the model's last layer ({why}): name the layer with "
        "head=, or the module that gives the features with features="
    )


NO_SLOPE = (
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
        reasons = {m.name: self._obstacle(m, detectors[m.name]) for m in methods}
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
            few = self._data.test[ID].first()[0][:_FEW]
            name = self._data.test[ID].name
            raise cannot_take(self._classifier, few, name, error) from error
        for label, result in self.results.items():
            if result.error is None:
                replaced = replaced_taps(self._detectors[label], self._classifier.network)
                if replaced:
                    result.notes.append(f"replaces the output of {', '.join(replaced)}")
            if takes_gradients(self.methods[label].detector.needs) and self._gradient[1]:
                result.notes.append(NO_SLOPE)
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
        reference = Reference(same[0] if same else REFERENCE, self._classifier, baseline)
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

    # --- what cannot run -----------------------------------------------------------------------

    def _obstacle(self, method: Method, detector: Detector) -> str | None:
        """Why a detector cannot run, or None."""
        data = self._data
        needs = method.detector.needs
        network = self._classifier.network
        if needs & {"features", "feature_map"} and not network.has_features:
            return _without_features(getattr(network, "head_note", ""))
        head, language = self._classifier.describe_head(), network.language is not None
        obstacle = head_obstacle(
            needs, head.kind, "the model", language=language, rotations=head.rotations
        )
        if obstacle is not None:
            return obstacle
        if "local_features" in needs and not network.has_local_features:
            return NO_LOCAL_FEATURES
        if needs & {"taps", "tap_maps"} and not self._classifier.network.tap_names:
            return "needs feature layers, and no stages were found: name modules with taps=[...]"
        layers = {"layers": getattr(detector, "layers", None)}
        obstacle = method.detector.layers_obstacle(layers, network.tap_names)
        if obstacle is not None:
            return obstacle
        try:
            replaced_taps(detector, network)
        except ValueError as error:
            return str(error)
        except Exception:  # an error of the detector: it fails when it runs
            pass
        for need in method.fitted_on():
            wanted, source = data.for_need("fit" if method.keeps_out else need)
            if source is None:
                return f"needs {wanted}"
            if "labels" in needs and source is not None and not source.has_labels:
                return f"needs labels; {source.name} has none"
        if method.tuned_on == "ood_validation" and data.validation is None:
            return f"is tuned on {OOD_DATA}: also needs {data.for_need('validation')[0]}"
        attacked = method.tuned_on == "fgsm"
        if attacked:
            if data.validation is None:
                return f"is tuned on attacked images: needs {data.for_need('validation')[0]}"
            if not data.validation.has_labels:
                return "is tuned on attacked images: needs labels; validation_data has none"
            if not self.attackable:
                return "is tuned on attacked images: needs images in [0, 1], and normalization"
            if data.validation.first()[0].ndim != 4:
                return "is tuned on attacked images: needs images [channels, height, width]"
        for need in SAMPLED & needs:
            if need in self._unsuitable:
                return self._unsuitable[need]
        if attacked or takes_gradients(needs):
            images, _ = data.test[ID].first()
            steps = "input_gradient" in needs and images.is_floating_point()
            if steps and images.ndim != 4 and not self.attackable:
                return "perturbs images; the data are not images"
            return self._gradient[0]
        return None

    @cached_property
    def _unsuitable(self) -> dict[str, str]:
        """Need of several logits for each image -> why the model does not give them."""
        images = self._data.test[ID].first()[0][:_FEW]
        few = arranged(images.to(self._classifier.mean.device), self._classifier.dtype)
        try:
            with evaluating(self._classifier):
                _, errors = find_sampled(self._classifier, few, SAMPLED)
        except Exception:  # an error of the model: it is raised with the first images
            return {}
        return {need: str(error) for need, error in errors.items()}

    @cached_property
    def _gradient(self) -> tuple[str | None, bool]:
        images = self._data.test[ID].first()[0][:_FEW]
        few = arranged(images.to(self._classifier.mean.device), self._classifier.dtype)
        with evaluating(self._classifier):
            return find_gradient(self._classifier, few)


def find_gradient(classifier: Classifier, images: Tensor) -> tuple[str | None, bool]:
    """Whether the logits of a classifier have a gradient with respect to its images.

    In any network the gradient may be zero for some images, such as black images, for which all
    rectifiers give zero. In a model that rounds its images, it is zero for noisy images too.

    Args:
        classifier: in evaluation mode, its parameters frozen.
        images: a few, on the device.

    Returns:
        Why there is no gradient, or None; and whether the gradient is zero for images and noise.
    """
    if not images.is_floating_point():
        return "needs the gradient with respect to its input, which is whole numbers", False
    try:
        gradient = _gradient(classifier, images)
        if gradient is not None:
            return None, not gradient.any() and _is_zero_for_noise(classifier, images)
    except Exception as error:  # a model under inference mode, in int8, or frozen, may raise
        if is_out_of_memory(error):
            return None, False
    return (
        "needs the gradient of the logits with respect to the images, and the model has none: a "
        "part of it computes without gradients (torch.no_grad, inference mode, detach, int8, a "
        "frozen export). Compute with gradients; freeze weights with requires_grad_(False)"
    ), False


def _is_zero_for_noise(classifier: Classifier, images: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images)
    try:
        gradient = _gradient(classifier, images + noise)
    except Exception:  # nothing is known
        return False
    return gradient is not None and not gradient.any()


def _gradient(classifier: Classifier, images: Tensor) -> Tensor | None:
    """Gradient of a random combination of the logits; None if no graph leads to the images.

    The gradient of their sum may be zero: the sum of centered logits is the same for every image.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits: Tensor = classifier(images)
        if not logits.requires_grad:
            return None
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (logits * weights).sum().backward(inputs=[images])
    return images.grad
