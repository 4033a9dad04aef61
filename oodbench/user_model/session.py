"""Detectors on one classifier and its owner's data: skip, fit, tune, score, measure."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs, head_obstacle
from oodbench.engine import costs
from oodbench.engine.evaluation import MethodResult, fail_constant_scores, note_missing_map
from oodbench.engine.fitting import fit_together
from oodbench.engine.mistakes import Confusion, Values, labels_signs, shared_signs, values_signs
from oodbench.engine.passes.batches import arranged, is_out_of_memory
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.layer_readers import layer_readers, reads
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.perturbation import takes_gradients
from oodbench.engine.passes.replacement import kept_taps, replaced_taps
from oodbench.engine.reasons import reason_of
from oodbench.engine.scoring import Scorer, pass_outputs, score_split
from oodbench.engine.tuning import tune
from oodbench.engine.tuning_data import TuningData, adversarial_data, clean_outputs
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.planning.plan import FITTED_ON, Method
from oodbench.specs import TuningSpec
from oodbench.user_model.checked_runner import CheckedRunner, cannot_take
from oodbench.user_model.loaded_images import LoadedImages
from oodbench.user_model.structure.head import UNREGISTERED, UNWATCHED

ID = "id"
"""What in-distribution scores are called."""

ID_DATA = "id_data"
"""The argument that in-distribution images are given as."""

REFERENCE = "(baseline)"

_FEW = 3
"""Images that the gradient is tried on."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A detector, not fitted yet, and what it is called."""

    method: Method
    detector: Detector


@dataclass(frozen=True, slots=True)
class DataSets:
    """What a session reads.

    Attributes:
        test: "id" and the names of the OOD sets -> images to score.
        fit: images that the classifier was trained on; None if there are none.
        validation: images of its classes that it was not trained on; None if there are none.
    """

    test: Mapping[str, LoadedImages]
    fit: LoadedImages | None
    validation: LoadedImages | None

    @property
    def all(self) -> list[LoadedImages]:
        """Every one that is there."""
        given = (*self.test.values(), self.fit, self.validation)
        return [source for source in given if source is not None]

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the OOD sets."""
        return tuple(name for name in self.test if name != ID)

    def for_need(self, need: str) -> tuple[str, LoadedImages | None]:
        """What a detector with the need "fit", or "validation", learns from, and its name."""
        if need == "fit":
            return "fit_data, images that the model was trained on", self.fit
        return "validation_data, images that the model was not trained on", self.validation

    def close(self) -> None:
        """Let go of workers."""
        for source in self.all:
            source.close()


T = TypeVar("T")


class _Once(Generic[T]):
    """What is made when it is first asked for.

    Attributes:
        seconds: that it took, once it is made.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: Exception | None = None
        self.seconds = 0.0

    def get(self) -> T:
        """What was made.

        Raises:
            Exception: what making it raised; it is not tried again.
        """
        if self._error is not None:
            raise self._error
        if not self._made:
            started = time.perf_counter()
            try:
                self._made.append(self._make())
            except Exception as error:
                self._error = error
                raise
            finally:
                self.seconds = time.perf_counter() - started
        return self._made[0]


def _without_features(why: str) -> str:
    """The reason of a detector that needs features that are not known."""
    if why == UNWATCHED:
        return (
            f"needs the features, the input of the model's last layer; {why}: pass the "
            "torch.nn.Module itself, or the one that it was made from"
        )
    if why == UNREGISTERED:
        return (
            f"needs the features, the input of the model's last layer; {why}: keep them in "
            "torch.nn.ModuleList or ModuleDict"
        )
    return (
        f"needs the features, the input of the model's last layer ({why}): name the layer with "
        "head=..., or the module that gives the features with features=..."
    )


NO_SLOPE = (
    "the gradient of the logits for the images is zero, for the first images and for noise, as in "
    "a model that rounds its images: it tells nothing of an image"
)


class NoDetectorError(UserError):
    """No detector can run on a model.

    Attributes:
        skipped: label -> why a detector cannot run.
    """

    def __init__(self, skipped: Mapping[str, str]) -> None:
        super().__init__(
            "No detector can run.", " ".join(f"{label}: {why}." for label, why in skipped.items())
        )
        self.skipped = skipped


class Session:
    """Runs detectors on a classifier; what comes of it is in its attributes.

    Args:
        classifier: in evaluation mode.
        contenders: label -> detector; it is fitted.
        data: what to fit on and to score.
        num_classes: C.
        attackable: whether images are in [0, 1], so that they can be attacked.
        seed: of the tuning data.
        report: takes how far it is.

    Attributes:
        results: label -> what came of a detector that was not skipped.
        skipped: label -> why a detector cannot run.
        correct: whether the classifier is right, for each ID image; None if they have no labels.
        unmeasured: label -> why its costs could not be measured.
        warnings: signs of a mistake in the data (`engine.mistakes`).
    """

    def __init__(
        self,
        classifier: Classifier,
        contenders: Mapping[str, Contender],
        data: DataSets,
        num_classes: int,
        *,
        attackable: bool,
        seed: int,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._report = report
        self._classifier, self._data, self._seed = classifier, data, seed
        self.num_classes, self.attackable = num_classes, attackable
        self._gradient = _Once(self._find_gradient)
        reasons = {label: self._obstacle(each) for label, each in contenders.items()}
        self.skipped = {label: reason for label, reason in reasons.items() if reason is not None}
        self.contenders = {
            label: each for label, each in contenders.items() if label not in self.skipped
        }
        self.results = {label: MethodResult() for label in self.contenders}
        self.correct: NDArray[np.bool_] | None = None
        self.unmeasured: dict[str, str] = {}
        self.warnings: list[str] = []
        if not self.contenders:
            raise NoDetectorError(self.skipped)

    def _obstacle(self, contender: Contender) -> str | None:
        """Why a detector cannot run, or None."""
        method, data = contender.method, self._data
        needs = method.detector.needs
        network = self._classifier.network
        if needs & {"features", "feature_map"} and not network.has_features:
            return _without_features(getattr(network, "head_note", ""))
        obstacle = head_obstacle(needs, self._classifier.describe_head().kind, "the model")
        if obstacle is not None:
            return obstacle
        if needs & {"taps", "tap_maps"} and not self._classifier.network.tap_names:
            return "needs taps, and no stages were found: name modules with taps=[...]"
        try:
            replaced_taps(contender.detector, network)
        except ValueError as error:
            return str(error)
        except Exception:  # its own mistake: it fails when it is run
            pass
        for need in FITTED_ON:
            wanted, source = data.for_need(need)
            if need in needs and source is None:
                return f"needs {wanted}"
            if need in needs and "labels" in needs and source is not None and not source.has_labels:
                return f"needs labels; {source.name} gives images alone"
        tuned = method.tuned_on != "none"
        if tuned:
            if data.validation is None:
                return f"is tuned on attacked images: needs {data.for_need('validation')[0]}"
            if not data.validation.has_labels:
                return "is tuned on attacked images: needs labels; validation_data gives none"
            if not self.attackable:
                return "is tuned on attacked images: needs images in [0, 1], and normalization"
            if data.validation.first()[0].ndim != 4:
                return "is tuned on attacked images [channels, height, width]; these are no images"
        if tuned or takes_gradients(needs):
            images, _ = data.test[ID].first()
            steps = "input_gradient" in needs and images.is_floating_point()
            if steps and images.ndim != 4 and not self.attackable:
                return "perturbs its input by a step in units of a pixel, and these are no images"
            return self._gradient.get()[0]
        return None

    def _find_gradient(self) -> tuple[str | None, bool]:
        images = self._data.test[ID].first()[0][:_FEW]
        few = arranged(images.to(self._classifier.mean.device), self._classifier.dtype)
        with evaluating(self._classifier):
            return find_gradient(self._classifier, few)

    def _note_gradients(self) -> None:
        """Note for detectors that take gradients of a model whose gradients are zero."""
        for label, each in self.contenders.items():
            if takes_gradients(each.method.detector.needs) and self._gradient.get()[1]:
                self.results[label].notes.append(NO_SLOPE)

    def run(self, *, stop_early: bool = False) -> None:
        """Fit, tune and score.

        Args:
            stop_early: stop after the first step in which a detector failed.
        """
        needs = frozenset[str]().union(
            *(each.method.detector.needs for each in self.contenders.values())
        )
        largest = max(len(source.first()[0]) for source in self._data.all)
        self._runner = CheckedRunner(self._classifier, batch_size=largest)
        self._runner.report = self._report
        few, _ = self._runner.placed(self._data.test[ID].first()[0][:4])
        detectors = {label: each.detector for label, each in self.contenders.items()}
        name = None
        try:
            if "feature_map" in needs:
                with evaluating(self._classifier):
                    name = find_map(self._classifier, few)
            readers, failures = self._runner.within_memory(
                lambda images, *_: layer_readers(self._classifier, detectors, images),
                self._runner.placed(self._data.test[ID].first()[0])[0],
                None,
            )[0][1]
        except UserError:
            raise
        except Exception as error:
            raise cannot_take(self._classifier, few, ID_DATA, error) from error
        kept, refusals = kept_taps(self._classifier.network, detectors)
        for label, failure in (*failures.items(), *refusals.items()):
            self.results[label].error = failure
        for label, each in self._alive().items():
            replaced = replaced_taps(each.detector, self._classifier.network)
            if replaced:
                self.results[label].notes.append(f"replaces the output of {', '.join(replaced)}")
        note_missing_map(self.results, detectors, name)
        self._note_gradients()
        self._runner.capture = Capture.of(needs, name, readers, kept)
        steps: list[Callable[[], None]] = [
            *(functools.partial(self._fit, need) for need in FITTED_ON),
            self._tune,
            self._score,
        ]
        with self._runner.attached():
            for step in steps:
                step()
                if stop_early and len(self._alive()) < len(self.contenders):
                    return
        for reader in readers:
            self.results[reader.method].notes.insert(0, reads(reader))
        values = {each.name: Values(each.scaled, *each.values) for each in self._data.all}
        self.warnings += values_signs(values)
        read = {each.name: each.fingerprints for each in self._data.all}
        self.warnings += shared_signs({k: v for k, v in read.items() if v is not None})

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the OOD sets."""
        return self._data.ood

    def _alive(self) -> dict[str, Contender]:
        return {
            label: each
            for label, each in self.contenders.items()
            if self.results[label].error is None
        }

    def _fit(self, need: str) -> None:
        """One pass for all detectors that have the need "fit", or "validation"."""
        detectors = {
            label: each.detector
            for label, each in self._alive().items()
            if need in each.method.detector.needs
        }
        if not detectors:
            return
        _, source = self._data.for_need(need)
        assert source is not None
        self._runner.doing = f"fitting on {source.name}"
        self._report(self._runner.doing)
        started = time.perf_counter()
        seen = Confusion.empty(self.num_classes)
        fits = fit_together(
            detectors,
            lambda: seen.watched(pass_outputs(self._runner, source, detectors)),
            self.num_classes,
            validation=need == "validation",
        )
        # Alone, a detector would have paid for the pass and for its own part of the work.
        this_pass = time.perf_counter() - started - sum(fit.seconds for fit in fits.values())
        for label, fit in fits.items():
            self.results[label].fit_seconds += this_pass + fit.seconds + fit.shared_seconds
            self.results[label].error = fit.error
        self.warnings += labels_signs(source.name, seen, fitted_on=need == "fit")

    # --- tuning --------------------------------------------------------------------------------

    def _tune(self) -> None:
        """Tune what calibrates, on attacked images; the others judge as they are."""
        attacked = _Once(self._attacked)
        outputs = _Once(lambda: clean_outputs(self._runner, attacked.get()))
        for label, each in self._alive().items():
            result, chosen = self.results[label], each.detector
            self._runner.doing = f"tuning {label}"
            if each.method.tuned_on != "none":
                # Each would have paid for what was made for all.
                waited = attacked.seconds
                started = time.perf_counter()
                try:
                    data = attacked.get()
                except Exception as error:  # no attack, or the model's own
                    result.error = error
                    continue

                def clean() -> TuningData[Outputs]:
                    nonlocal waited
                    waited += outputs.seconds
                    return outputs.get()

                try:
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        chosen = tune(self._runner, each.method, chosen, data, clean).detector
                except Exception as error:  # the detector's
                    result.error = error
                    continue
                result.tune_seconds = time.perf_counter() - started + waited
                result.notes += dict.fromkeys(str(w.message).splitlines()[0] for w in caught)
            result.detectors = dict.fromkeys(self._data.ood, chosen)

    def _attacked(self) -> TuningData[Tensor]:
        """Attacked validation images.

        Raises:
            TuningError: if they cannot be attacked.
        """
        assert self._data.validation is not None
        batches = list(self._data.validation.batches())
        if len({images.shape[1:] for images, _ in batches}) > 1:
            raise TuningError("images of validation_data have several sizes, and are not attacked")
        images = torch.cat([images for images, _ in batches]).float().clamp(0, 1)
        labels = torch.cat([labels for _, labels in batches if labels is not None])
        array = ImageArray(images.cpu().numpy(), labels.cpu().numpy())
        spec = TuningSpec()
        try:
            return adversarial_data(self._runner, array, spec, self._seed)
        except TuningError:
            raise TuningError(
                f"attacking the {len(array)} images of validation_data fooled the model on fewer "
                f"than {spec.min_adversarial}, too few to tune on: give more"
            ) from None

    # --- scoring -------------------------------------------------------------------------------

    def _score(self) -> None:
        """One pass over each data set to test on."""
        for name, source in self._data.test.items():
            scorers = self._scorers()
            if not scorers and name != ID:  # the accuracy is known, and nobody is left
                return
            outcome = score_split(
                self._runner, source, scorers, dataset=name, check_batches=name == ID
            )
            if name == ID:
                self.correct = outcome.correct
                tested = Confusion.of(self.num_classes, outcome.labels, outcome.predicted)
                self.warnings += labels_signs(source.name, tested)
            for label, error in outcome.errors.items():
                self.results[label].error = error
            for label, scores in outcome.scores.items():
                self.results[label].scores[name] = scores
        fail_constant_scores(self.results)

    def _scorers(self) -> dict[str, Scorer]:
        first = self._data.ood[0]
        return {
            label: Scorer(each.method, self.results[label].detectors[first])
            for label, each in self._alive().items()
        }

    # --- costs ---------------------------------------------------------------------------------

    def measure(self, baseline: Contender) -> None:
        """Measure what each detector costs alone.

        Args:
            baseline: what times are divided by, if it is not among the detectors.
        """
        scorers = self._scorers()
        name = baseline.method.detector.name
        known = [s for s in scorers.values() if s.method.detector.name == name]
        renamed = replace(baseline.method, name=REFERENCE)
        reference = known[0] if known else Scorer(renamed, baseline.detector)
        first, _ = self._data.test[ID].first()
        images, _ = self._runner.placed(first[: self._runner.batch_size])
        try:
            measured, errors = costs.measure(
                self._classifier,
                scorers,
                (self._classifier, reference),
                images,
                capture=self._runner.capture,
                report=self._report,
            )
        except Exception as error:  # the model's: scores are not lost for it
            measured, errors = {}, dict.fromkeys(scorers, error)
        for label, cost in measured.items():
            self.results[label].cost = cost
        self.unmeasured = {
            label: reason_of(error) for label, error in errors.items() if label in scorers
        }


def find_gradient(classifier: Classifier, images: Tensor) -> tuple[str | None, bool]:
    """Whether the logits of a classifier have a gradient with respect to its images.

    It may be zero for some images in any network: where all rectifiers are at zero, as for black
    images. In a model that rounds its images it is zero for noise around them, too.

    Args:
        classifier: in evaluation mode, its parameters frozen.
        images: a few, on the device.

    Returns:
        Why there is none, or None; and whether there is one that is zero for images and noise.
    """
    if not images.is_floating_point():
        return "needs the gradient for its input, which is whole numbers", False
    try:
        gradient = _gradient(classifier, images)
        if gradient is not None:
            return None, not gradient.any() and _is_zero_for_noise(classifier, images)
    except Exception as error:  # a model under inference mode, in int8, or frozen, may raise
        if is_out_of_memory(error):
            return None, False
    return (
        "needs the gradient of the logits for the images, and the model gives none: a part of it "
        "computes without gradients (torch.no_grad, inference mode, detach, int8, a frozen "
        "export). Let it compute with gradients; freeze weights with requires_grad_(False)"
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

    Of their sum it may be zero: that of centered logits is the same for every image.
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
