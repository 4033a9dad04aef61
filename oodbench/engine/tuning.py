"""Tuning: exact search over a detector's grid, one gradient for all step sizes.

The setting with the highest TNR at 95 % TPR wins; a later one must be strictly better. The grid
holds the setting without temperature or perturbation. One setting serves all OOD sets, except
under the `ood_oracle` protocol. A setting that cannot be used (more neighbors than there are
training images) is left out, with a note. `oodbench.engine.tuning_data` makes the images.
"""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import metrics
from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.input_gradients import (
    gradients_of,
    perturbed_outputs,
    shown_gradients,
    takes_gradients,
)
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.replacement import own_view
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.scoring import checked_scores
from oodbench.engine.tuning_data import TuningData, clean_outputs, image_batches
from oodbench.planning.plan import Method

log = logging.getLogger(__name__)

T = TypeVar("T", Tensor, Outputs)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result of tuning one method.

    Attributes:
        detector: with the chosen parameters, and calibrated if it calibrates.
        parameters: the chosen values of the search space.
        tnr: TNR at 95 % TPR of that setting on the selecting half, a fraction.
    """

    detector: Detector
    parameters: dict[str, Any]
    tnr: float


def tune(
    runner: NetworkRunner,
    method: Method,
    detector: Detector,
    data: TuningData[Tensor],
    clean: Callable[[], TuningData[Outputs]] | None = None,
) -> Tuned:
    """Choose a method's parameters, and calibrate its detector, on tuning data.

    A method without gradients is tuned on the stored outputs of the clean images. A method that
    reads maps or gradients of the images, or replaces layers, is scored batch by batch with every
    setting: maps are not stored; gradients are stored only to calibrate a detector on them.

    Args:
        runner: attached.
        method: gives the search space.
        detector: fitted.
        data: tuning images.
        clean: gives `clean_outputs(runner, data)`; default: they are computed.
    """
    settings = list(_settings(method.search_space))
    candidates = [detector.with_parameters(**setting) for setting in settings]
    needs = method.detector.needs
    shown = "input_gradients" in needs
    if needs & {"feature_map", "tap_maps", "layers", "replaced_logits"} or (
        shown and not _calibrates(method)
    ):
        scored = _scored_in_batches(runner, method, candidates, data)
    elif takes_gradients(needs):
        scored = _scored(
            method, candidates, _with_gradients(runner, detector, settings, method, data)
        )
    else:
        outputs = clean_outputs(runner, data) if clean is None else clean()
        views = itertools.repeat(_sides(method, outputs), len(candidates))
        scored = _scored(method, candidates, views)
    best: Tuned | None = None
    failures: list[Exception] = []
    for setting, candidate, scores in zip(settings, candidates, scored, strict=True):
        if isinstance(scores, Exception):
            failures.append(scores)
            log.debug("%s: %s is left out", method.name, setting, exc_info=scores)
            continue
        tnr = metrics.tnr_at_95_tpr(*scores)
        if best is None or tnr > best.tnr:
            best = Tuned(candidate, setting, tnr)
    if best is None:
        raise failures[0]
    if failures:
        warnings.warn(
            f"tuned without {len(failures)} of {len(settings)} settings, which failed: "
            f"{reason_of(failures[0])}",
            stacklevel=2,
        )
    return best


def _calibrates(method: Method) -> bool:
    return "calibration" in method.detector.needs


def _sides(method: Method, data: TuningData[T]) -> list[T]:
    """Positives and negatives to select on, then, for a method that calibrates, to fit on."""
    fitting, selecting = data.halves()
    sides = list(selecting.sides(with_noisy=_calibrates(method)))
    if _calibrates(method):
        sides.extend(fitting.sides(with_noisy=True))
    return sides


_WHAT = ("tuning images, in-distribution", "tuning images, negatives")

Scores = NDArray[np.float64]


def _scored(
    method: Method, candidates: Sequence[Detector], views: Iterable[Sequence[Outputs]]
) -> Iterator[tuple[Scores, Scores] | Exception]:
    """Scores of positives and negatives by each candidate, calibrated if it calibrates.

    Or the error that it raised: a setting that a method cannot use (more neighbors than images)
    does not end the search.
    """
    for candidate, outputs in zip(candidates, views, strict=True):
        try:
            if _calibrates(method):
                with torch.no_grad():
                    needs = method.detector.needs
                    candidate.calibrate(*(side.copied(needs) for side in outputs[2:]))
            yield (
                checked_scores(method.name, candidate, outputs[0], _WHAT[0], 0),
                checked_scores(method.name, candidate, outputs[1], _WHAT[1], 0),
            )
        except Exception as error:
            yield error


def _scored_in_batches(
    runner: NetworkRunner,
    method: Method,
    candidates: Sequence[Detector],
    data: TuningData[Tensor],
) -> Iterator[tuple[Scores, Scores] | Exception]:
    """The same from one pass over each side; no batch is stored."""
    if _calibrates(method):
        raise TuningError(
            f"detector '{method.detector.name}' declares calibration and maps or replaced_logits: "
            "they are not stored"
        )
    errors: dict[int, Exception] = {}
    sides: list[dict[int, list[Scores]]] = []
    for images, what in zip(_sides(method, data), _WHAT, strict=True):
        scores: dict[int, list[Scores]] = defaultdict(list)
        done = 0
        for batch in image_batches(runner, images):
            alive = {i: each for i, each in enumerate(candidates) if i not in errors}
            compute = functools.partial(_scored_batch, runner, method, alive, what, done)
            for count, found in runner.within_memory(compute, batch, None):
                for index, result in found.items():
                    if isinstance(result, Exception):
                        errors.setdefault(index, result)
                    else:
                        scores[index].append(result)
                done += count
        sides.append(scores)
    positives, negatives = sides
    for index in range(len(candidates)):
        yield errors.get(index) or (
            np.concatenate(positives[index]),
            np.concatenate(negatives[index]),
        )


def _scored_batch(
    runner: NetworkRunner,
    method: Method,
    candidates: Mapping[int, Detector],
    what: str,
    first: int,
    images: Tensor,
    labels: Tensor | None,
    _: int | None,
) -> dict[int, Scores | Exception]:
    """Scores of a batch by each candidate, or its error; one forward pass serves all."""
    graph = takes_gradients(method.detector.needs)
    found: dict[int, Scores | Exception] = {}
    with torch.set_grad_enabled(graph):
        images = images.detach().requires_grad_(graph)
        with runner.reading([method.name]):
            outputs = runner.outputs(images)
        for index, candidate in candidates.items():
            try:
                view = own_view(runner, candidate, images, outputs)
                found[index] = checked_scores(method.name, candidate, view, what, first)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                found[index] = error
    return found


def _settings(space: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the step size fastest, in the order of the published grid."""
    names = sorted(space, key=lambda name: name == "epsilon")
    for values in itertools.product(*(space[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def _with_gradients(
    runner: NetworkRunner,
    detector: Detector,
    settings: Sequence[Mapping[str, Any]],
    method: Method,
    data: TuningData[Tensor],
) -> Iterator[list[Outputs]]:
    """Outputs of all sides under every setting; one pass serves all sides.

    Each batch takes one forward pass, one backward pass per combination of the parameters other
    than the step size, and one more forward pass per step size.
    """
    sides = _sides(method, data)
    step = "epsilon" if "input_gradient" in method.detector.needs else None

    def compute(images: Tensor, labels: Tensor | None, _: int | None) -> list[Outputs]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            outputs = runner.outputs(images)
            views = []
            key: dict[str, Any] | None = None
            gradients: dict[str, Tensor] = {}
            shown: dict[str, Tensor] = {}
            for setting in settings:
                candidate = detector.with_parameters(**setting)
                others = {name: value for name, value in setting.items() if name != step}
                if others != key:
                    key, shown = others, shown_gradients(candidate, outputs, images)
                    gradients = gradients_of(candidate, outputs, images) if step else {}
                view = outputs.detach()
                if step:
                    view = perturbed_outputs(runner, candidate, images, outputs, gradients)
                view = replace(view, input_gradients=shown)
                views.append(view.without_maps())
            return views

    batches: list[list[Outputs]] = []
    for batch in image_batches(runner, torch.cat(sides)):
        batches += [views for _, views in runner.within_memory(compute, batch, None)]
    ends = list(itertools.accumulate(map(len, sides), initial=0))
    for parts in zip(*batches, strict=True):
        outputs = Outputs.concatenate(parts)
        yield [outputs[start:end] for start, end in itertools.pairwise(ends)]
