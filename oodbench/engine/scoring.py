"""Scoring: one first forward for every method of a model, checked scores out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.engine.mistakes import FeatureSigns
from oodbench.engine.passes.contract import DetectorError, named
from oodbench.engine.passes.image_sources import ImageSource
from oodbench.engine.passes.input_gradients import differentiates
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.modes import settings_kept
from oodbench.engine.passes.own_passes import OwnPasses, passes_alone
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.storage.predictions import Predictions

K = TypeVar("K", str, tuple[str, str])
"""Key of a detector: the method's name, or a tuple that begins with it."""


def method_of(key: str | tuple[str, str]) -> str:
    """The name of the method that a key belongs to."""
    return key if isinstance(key, str) else key[0]


@dataclass
class SplitScores(Generic[K]):
    """Scores of one split.

    Attributes:
        scores: key -> one float64 per image.
        errors: key -> why there are no scores.
        predicted: the class that the classifier gives each image, int64, shape [N].
        confidence: its largest softmax probability, float64, shape [N].
        labels: the class that each image has, likewise; None where the data have none.
        signs: of the penultimate features.
    """

    scores: dict[K, NDArray[np.float64]] = field(default_factory=dict)
    errors: dict[K, Exception] = field(default_factory=dict)
    predicted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    labels: NDArray[np.int64] | None = None
    signs: FeatureSigns = field(default_factory=FeatureSigns)

    @property
    def correct(self) -> NDArray[np.bool_] | None:
        """Whether the classifier is right, one boolean per image; None without labels."""
        return None if self.labels is None else self.predicted == self.labels

    @property
    def predictions(self) -> Predictions | None:
        """Whether the classifier is right, and how sure it is; None without labels."""
        if self.correct is None:
            return None
        return Predictions(self.correct, self.confidence, self.labels)


def score_split(
    runner: NetworkRunner,
    data: ImageArray | ImageSource,
    detectors: Mapping[K, Detector],
    *,
    dataset: str,
    check_batches: bool = False,
    start: int = 0,
) -> SplitScores[K]:
    """Score a split with every detector, in one pass over it.

    Args:
        runner: attached.
        data: the split.
        detectors: key -> detector, fitted and tuned. One that fails is left out from then on.
        dataset: name of the data set, for messages.
        check_batches: check on the first batch of the data set that scores do not depend on the
            batch.
        start: index of the first image of `data` in the data set.
    """
    runner.doing = f"scoring {dataset}"
    result: SplitScores[K] = SplitScores()
    parts: dict[K, list[NDArray[np.float64]]] = {key: [] for key in detectors}
    predicted: list[NDArray[np.int64]] = []
    confidence: list[NDArray[np.float64]] = []
    known: list[NDArray[np.int64]] = []
    active = dict(detectors)
    done = start

    def compute(
        images: Tensor, _: Tensor | None, first: int | None
    ) -> tuple[Outputs, dict[K, Outputs]]:
        return _views(runner, images, active, result.errors, first)

    for images, labels in runner.batches(data):
        if labels is not None:
            known.append(labels.cpu().numpy())
        for count, (clean, views) in runner.within_memory(compute, images, labels, done):
            for key, view in views.items():
                detector = active.get(key)
                if detector is None:
                    continue
                method = method_of(key)
                try:
                    with settings_kept():
                        parts[key].append(checked_scores(method, detector, view, dataset, done))
                        if check_batches and done == 0:
                            _check_batch_invariance(method, detector, view, parts[key][0])
                except Exception as error:
                    result.errors[key] = error
            for key in result.errors:
                active.pop(key, None)
            predicted.append(clean.logits.argmax(dim=1).cpu().numpy())
            largest = clean.logits.double().softmax(dim=1).amax(dim=1)
            confidence.append(largest.cpu().numpy())
            result.signs.add(clean.features)
            done += count
    result.scores = {key: _whole(parts[key]) for key in active}
    result.predicted = np.concatenate(predicted) if predicted else result.predicted
    result.confidence = _whole(confidence)
    result.labels = np.concatenate(known) if known else None
    return result


def _whole(batches: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(batches) if batches else np.empty(0)


def joined(parts: Iterable[SplitScores[K]]) -> SplitScores[K]:
    """The scores of a split from those of its parts, in their order.

    Of a detector that failed in several parts, the first error counts, as in one pass.
    """
    each, errors = list(parts), dict[K, Exception]()
    for part in each:
        for key, error in part.errors.items():
            errors.setdefault(key, error)
    labels = [part.labels for part in each if part.labels is not None]
    negative, features = zip(*(part.signs.counts for part in each), strict=True)
    return SplitScores(
        {
            key: np.concatenate([part.scores[key] for part in each])
            for key in each[0].scores
            if key not in errors
        },
        errors,
        np.concatenate([part.predicted for part in each]),
        np.concatenate([part.confidence for part in each]),
        np.concatenate(labels) if labels else None,
        FeatureSigns(sum(negative), sum(features)),
    )


def _views(
    runner: NetworkRunner,
    images: Tensor,
    detectors: Mapping[K, Detector],
    errors: dict[K, Exception],
    first: int | None = None,
) -> tuple[Outputs, dict[K, Outputs]]:
    """The outputs that each detector gets for a batch: shared, or from its own passes.

    Labels are never shown: a score is for images of unknown class.
    """
    alone: dict[K, Detector] = {}
    for key, detector in detectors.items():
        try:
            if passes_alone(detector, runner.classifier.network):
                alone[key] = detector
        except Exception as error:
            errors[key] = error
    graph = any(map(differentiates, alone.values()))
    # A detector sees copies, made outside: it may take gradients of its own all the same.
    with torch.enable_grad() if graph else torch.inference_mode():
        if graph:
            images = images.detach().requires_grad_()
        with runner.reading(map(method_of, detectors)):
            outputs = runner.outputs(images, first=first)
        clean, own = outputs.detach(), OwnPasses(runner, images, outputs)
        views = dict.fromkeys(detectors, clean)
        for key, detector in alone.items():
            try:
                with settings_kept():
                    views[key] = own.view(method_of(key), detector, key)
            except Exception as error:
                if is_out_of_memory(error):
                    raise  # the caller tries a smaller batch
                errors[key] = error
    return clean, {key: view for key, view in views.items() if key not in errors}


def raw_scores(method: str, detector: Detector, outputs: Outputs) -> Tensor:
    """Scores of a detector, unchecked.

    It gets a copy of its inputs: changes in place do not affect other detectors.
    """
    view = outputs.copied(detector.info.needs, method)
    with torch.no_grad():
        return detector.score(view)


def checked_scores(
    method: str, detector: Detector, outputs: Outputs, dataset: str, first: int
) -> NDArray[np.float64]:
    """Scores of a batch, shape [B], on the CPU in float64.

    Args:
        method: its name.
        detector: gives the scores.
        outputs: outputs of the batch.
        dataset: name of the data set, for messages.
        first: index of the batch's first image in the data set.

    Raises:
        DetectorError: if they have another shape, are complex, or one is not finite.
    """
    scores = raw_scores(method, detector, outputs)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (len(outputs),):
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise DetectorError(
            f"{named(detector)} gave {shape} for a batch of {len(outputs)} images; "
            f"expected a torch tensor of shape [{len(outputs)}], one score for each image"
        )
    if scores.is_complex():
        raise DetectorError(
            f"{named(detector)} gave scores of type "
            f"{str(scores.dtype).removeprefix('torch.')}; complex numbers have no order: give real "
            "numbers, such as scores.abs() or scores.real"
        )
    values: NDArray[np.float64] = scores.double().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DetectorError(
            f"method '{method}': score {values[bad[0]]} for image {first + bad[0]} of "
            f"'{dataset}' ({len(bad)} of {len(values)} in its batch are not finite)"
        )
    return values


def _check_batch_invariance(
    method: str, detector: Detector, outputs: Outputs, scores: NDArray[np.float64]
) -> None:
    """Scores of a batch must be those of its parts, up to rounding."""
    cut = len(outputs) // 3
    if cut == 0:
        return
    parts = [raw_scores(method, detector, part) for part in (outputs[:cut], outputs[cut:])]
    again = torch.cat(parts).double().cpu().numpy()
    allowed = 1e-3 * scores.std() + 1e-5 * np.abs(scores).max()
    difference = np.abs(again - scores)
    worst = int(difference.argmax())
    if not difference[worst] <= allowed:
        raise DetectorError(
            f"scores depend on the batch: image {worst} has {scores[worst]:.6g} in a batch of "
            f"{len(outputs)} and {again[worst]:.6g} in a part of it; or the detector draws random "
            "numbers, or changes while it scores"
        )


def score_batch(runner: NetworkRunner, method: str, detector: Detector, images: Tensor) -> Tensor:
    """Scores of one batch by one method alone, shape [B].

    Raises:
        Exception: whatever the detector raises.
    """
    errors: dict[str, Exception] = {}
    _, views = _views(runner, images, {method: detector}, errors)
    if errors:
        raise errors[method]
    return raw_scores(method, detector, views[method])
