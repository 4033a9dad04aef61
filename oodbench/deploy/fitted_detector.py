"""A fitted detector with the model that it was fitted on: scores, a threshold, decisions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.deploy.artifact.artifact_writing import write_artifact
from oodbench.deploy.checked_runner import CheckedRunner
from oodbench.deploy.deployed_model import DeployedModel, Description, Preparation, found_identity
from oodbench.deploy.export import Export, export_fitted
from oodbench.deploy.given_images import source_of
from oodbench.detector import Detector
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import ID, EvaluationData, ImageSource
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.scoring import SplitScores, score_split
from oodbench.errors import UserError, counted, sentence
from oodbench.files import expanded
from oodbench.metrics.thresholds import Threshold, conformal_threshold
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.process import prepare_process
from oodbench.specs import ModelSpec, TuningSpec
from oodbench.user_data.image_files import ImageFile, ImageStream


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """Decisions on N images.

    Attributes:
        scores: float64, shape [N]; higher is more in-distribution.
        accepted: whether an image is accepted as in-distribution: score >= threshold, shape [N].
        predictions: class that the model gives each image, int64, shape [N].
        confidence: its largest softmax probability, float64, shape [N].
        paths: files of the images; None if they were no files.
        unreadable: file -> why it was left out.
    """

    scores: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    predictions: NDArray[np.int64]
    confidence: NDArray[np.float64]
    paths: tuple[str, ...] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)


class FittedDetector:
    """A fitted detector: scores images, decides with a threshold, and is saved to a folder.

    `oodbench.fit`, `oodbench.evaluate(...).fitted[name]` and `oodbench.load_fitted` make it. After
    each call the user's model is as it was: weights, modes, hooks.

    Args:
        name: name of the method.
        detector: fitted.
        model: that it was fitted on.
        fitted_on: fingerprints of the validation images that it was fitted, calibrated or tuned on
            (`oodbench.data.duplicates`), if they are known.
        uses_validation: whether it was fitted, calibrated or tuned on validation images.
        notes: remarks on how it was fitted; they are not saved.

    Attributes:
        threshold: set by `calibrate`; None before.
        threshold_set_on: what it was set on, in words; "" before.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        model: DeployedModel,
        *,
        fitted_on: NDArray[np.uint64] | None = None,
        uses_validation: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.detector, self.model = name, detector, model
        self.fitted_on, self.uses_validation = fitted_on, uses_validation
        self.notes = tuple(notes)
        self.threshold: Threshold | None = None
        self.threshold_set_on = ""

    @classmethod
    def of_classifier(
        cls,
        name: str,
        detector: Detector,
        classifier: Classifier,
        spec: ModelSpec,
        preparation: Preparation,
        *,
        num_classes: int,
        classes: Sequence[str] = (),
        uses_validation: bool = False,
    ) -> FittedDetector:
        """A detector that was fitted on a classifier of a benchmark; its artifact needs no model.

        For `oodbench fit RUN METHOD`: the classifier is `ModelStore.trained(model, seed)`, the spec
        is `benchmark.models[model]`, the detector is the fitted and tuned one of the method
        (`MethodResult.detectors[ood]`), and the preparation is that of the ID set,
        `benchmark.decoded(manifest)`: `Preparation(manifest.shape, manifest.resize)`. Then
        `calibrate` sets the threshold, on an `ImageArray`'s images, a tensor or an `ImageSource`,
        and `save` writes the folder.

        Args:
            name: name of the method.
            detector: fitted and tuned.
            classifier: in evaluation mode, on its device; nobody else may use it while it scores.
            spec: how the network is made again.
            preparation: how image files are decoded.
            num_classes: C.
            classes: names of the classes, in the order of the labels.
            uses_validation: whether the detector was fitted, calibrated or tuned on validation
                images.
        """
        images = torch.zeros(1, *preparation.shape)
        identity, inputs = found_identity(classifier, classifier, images, in_unit_range=True)
        model = DeployedModel(
            classifier,
            classifier,
            classifier.mean.device,
            identity,
            inputs,
            tuple(classes),
            Description(spec, num_classes, preparation.shape[0]),
            preparation,
            shared=False,
        )
        return cls(name, detector, model, uses_validation=uses_validation)

    def __repr__(self) -> str:
        limit = (
            "no threshold" if self.threshold is None else f"threshold {self.threshold.value:.6g}"
        )
        return f"FittedDetector({self.name!r} on {self.model.identity.name}, {limit})"

    # --- scores --------------------------------------------------------------------------------

    def score(self, images: Any) -> NDArray[np.float64]:
        """One score per image, float64, shape [N]; higher is more in-distribution.

        Args:
            images: a tensor or an array [N, channels, H, W], as the model takes them: in [0, 1] if
                it was fitted with `normalization`; a DataLoader or a Dataset, read in its order; an
                `ImageSource`; or a file, a folder or a list of them, if the preprocessing of the
                model is known.

        Raises:
            UserError: images cannot be read or do not fit the model, or the detector fails.
        """
        scored, _, unreadable = self._scored(images, "images")
        if unreadable:
            path, reason = next(iter(unreadable.items()))
            raise UserError(
                f"{counted(len(unreadable), 'file')} cannot be read; {path}: {reason}.",
                "predict() leaves such files out and names them.",
            )
        return scored

    def predict(self, images: Any) -> Decisions:
        """Scores, and whether each image is accepted: score >= threshold.

        Args:
            images: as of `score`; files that cannot be read are left out and named.

        Raises:
            UserError: no threshold is set, or as of `score`.
        """
        self._value()
        _, decisions, unreadable = self._scored(images, "images")
        decisions.unreadable.update(unreadable)
        return decisions

    def stream(self, source: ImageSource) -> Iterator[Decisions]:
        """Decisions on each batch of a source, as soon as it is scored.

        Without a threshold, all images are accepted. The model is ready until the last batch was
        taken, or the iterator is closed.

        Args:
            source: such as an `ImageStream`; images [B, channels, H, W], uint8 or in [0, 1].

        Raises:
            UserError: as of `score`.
        """
        value = -np.inf if self.threshold is None else self.threshold.value
        with self._running(source) as runner:
            for images, _ in source.batches():
                part = _OneBatch(source.name, torch.as_tensor(images))
                yield _decisions(self._split(runner, part), self.name, value)

    def calibrate(self, validation: Any, accept: float = 0.95) -> Threshold:
        """Set the threshold on ID validation images, so that it accepts a share of ID images.

        The threshold is a conformal quantile: see `oodbench.metrics.conformal_threshold`. It holds
        for images like those of validation that the detector was not fitted or tuned on.

        Args:
            validation: ID images, as of `score`; labels are not needed.
            accept: share of ID images to accept, above 0 and below 1.

        Returns:
            The threshold, which is kept in `threshold`. Its `warning`, and a detector that was
            fitted on these images, are reported as warnings, too.

        Raises:
            UserError: `accept` is no such share, or as of `score`.
        """
        if isinstance(accept, bool) or not isinstance(accept, int | float) or not 0 < accept < 1:
            percent = isinstance(accept, int | float) and 1 < accept < 100
            raise UserError(
                f"accept: expected a share above 0 and below 1, not {accept!r}.",
                f"Of {accept:g} % the share is {accept / 100:g}." if percent else "",
            )
        unreadable: dict[str, str] = {}
        source = self._source(validation, "validation", unreadable)
        result = self._all(source)
        threshold = conformal_threshold(result.scores[self.name], accept)
        if unreadable:
            warnings.warn(
                f"{counted(len(unreadable), 'file')} of {source.name} cannot be read and are left "
                "out.",
                stacklevel=2,
            )
        for text in (threshold.warning, self._seen_before(source)):
            if text is not None:
                warnings.warn(text, stacklevel=2)
        self.threshold = threshold
        self.threshold_set_on = f"{counted(threshold.images, 'ID image')} given to calibrate"
        return threshold

    def _seen_before(self, source: ImageSource) -> str | None:
        """A warning if the detector was fitted on the images that a threshold is set on."""
        if not self.uses_validation:
            return None
        now = getattr(source, "fingerprints", None)
        if now is not None and self.fitted_on is not None:
            shared = int(np.isin(now, self.fitted_on).sum())
            if not shared:
                return None
            which = f"{shared} of {len(now)} images are among those that"
        else:
            which = "If these are the validation images that"
        return (
            f"{which} detector '{self.name}' was fitted or tuned on, its threshold accepts fewer "
            "other ID images than it says. Set it on other images."
        )

    def _value(self) -> float:
        if self.threshold is None:
            raise UserError(
                f"Detector '{self.name}' has no threshold.",
                "Set it with calibrate(validation, accept=0.95), on ID images.",
            )
        return self.threshold.value

    # --- passes --------------------------------------------------------------------------------

    def _source(self, images: Any, name: str, unreadable: dict[str, str]) -> ImageSource:
        def report(file: ImageFile, reason: str) -> None:
            unreadable[file.path] = reason

        return source_of(images, self.model, name, report)

    def _scored(
        self, images: Any, name: str
    ) -> tuple[NDArray[np.float64], Decisions, dict[str, str]]:
        unreadable: dict[str, str] = {}
        source = self._source(images, name, unreadable)
        result = self._all(source)
        value = -np.inf if self.threshold is None else self.threshold.value
        decisions = _decisions(result, self.name, value, _paths(source))
        return decisions.scores, decisions, unreadable

    def _all(self, source: ImageSource) -> SplitScores[str]:
        try:
            with self._running(source) as runner:
                return self._split(runner, source)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    @contextmanager
    def _running(self, source: ImageSource) -> Iterator[NetworkRunner]:
        """A runner that captures what the detector reads, attached to the model."""
        prepare_process()
        method = Method(self.name, self.model.identity.name, self.detector.info)
        self.model.check_unchanged(self.name)
        with self.model.ready() as classifier:
            first, _ = source.first()
            runner = CheckedRunner(classifier, batch_size=max(1, len(first)))
            evaluation = ModelEvaluation(
                runner,
                [method],
                {self.name: self.detector},
                EvaluationData({ID: source}, {}, None),
                self.model.num_classes,
                tuning=TuningSpec(),
                seed=0,
                report=lambda text: None,
            )
            evaluation.prepare()
            self._raise(evaluation.results[self.name].error)
            with runner.attached():
                yield runner

    def _split(self, runner: NetworkRunner, source: ImageSource) -> SplitScores[str]:
        result = score_split(runner, source, {self.name: self.detector}, dataset=source.name)
        self._raise(result.errors.get(self.name))
        return result

    def _raise(self, error: Exception | None) -> None:
        if isinstance(error, UserError):
            raise error
        if error is not None:
            raise UserError(
                sentence(f"Detector '{self.name}' cannot score: {reason_of(error)}")
            ) from error

    # --- files ---------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the detector, its threshold, and how to recognize its model, to a folder.

        The folder has `artifact.json`, `detector.safetensors` and, for a model of a benchmark,
        `model.safetensors`. It holds no code and no pickle. `oodbench.load_fitted` reads it.

        Args:
            folder: a new folder, an empty one, or that of another artifact, which is replaced.

        Returns:
            The folder.

        Raises:
            UserError: the folder holds other files, an attribute of the detector cannot be stored,
                or the model has changed since the detector was fitted.
        """
        return write_artifact(
            expanded(folder),
            self.name,
            self.detector,
            self.model,
            threshold=self.threshold,
            set_on=self.threshold_set_on,
            fitted_on=self.fitted_on,
            uses_validation=self.uses_validation,
        )

    def export(self, path: str | Path) -> Export:
        """Write model and detector as one graph (`export_fitted`), to a .onnx or a .pt2 file."""
        return export_fitted(self.model, self.detector, expanded(path), self.threshold)


@dataclass(frozen=True, slots=True, eq=False)
class _OneBatch:
    name: str
    images: Tensor

    @property
    def size(self) -> int:
        return len(self.images)

    def first(self) -> tuple[Tensor, None]:
        return self.images, None

    def batches(self) -> Iterator[tuple[Tensor, None]]:
        yield self.images, None


def _decisions(
    result: SplitScores[str], name: str, value: float, paths: tuple[str, ...] | None = None
) -> Decisions:
    scores = result.scores[name]
    return Decisions(scores, scores >= value, result.predicted, result.confidence, paths)


def _paths(source: ImageSource) -> tuple[str, ...] | None:
    if not isinstance(source, ImageStream):
        return None
    return tuple(source.files[index].path for index in source.read)
