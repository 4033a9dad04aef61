"""Tuning: exact search over the grids of detectors, in one pass over the tuning images.

Each batch takes one forward pass for all detectors, one backward pass for each combination of a
detector's parameters other than the step size, and one more forward pass for each step size. Every
setting scores it at once, so that nothing of a batch is kept. Only detectors that train a model of
their own keep outputs, without maps.

The setting with the largest TNR at 95 % TPR wins, or under the `ood_validation` protocol the
largest AUROC. A later one must be strictly better. The declared grids hold the setting without
temperature or perturbation. One setting serves all OOD sets, except under the `ood_oracle`
protocol. A setting that cannot be used (more neighbors than there are training images) is left out,
and so is one that scores the tuning images as another does; notes say which.
`oodbench.engine.tuning_data` gives the images.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import metrics
from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.input_gradients import differentiates
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.modes import settings_kept
from oodbench.engine.passes.own_passes import OwnPasses
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.scoring import checked_scores
from oodbench.engine.tuning_data import Kind, Part, SelectedBy, TuningImages
from oodbench.errors import listed
from oodbench.planning.plan import Method

log = logging.getLogger(__name__)

Scores = NDArray[np.float64]

_METRICS: Mapping[SelectedBy, Any] = {
    "tnr_at_95_tpr": metrics.tnr_at_95_tpr,
    "auroc": metrics.auroc,
}
_MAPS = {"feature_map", "tap_maps", "layers", "local_features"}
_NOT_STORED = frozenset({*_MAPS, "replaced_logits", "rotations"})
"""Needs that outputs are not stored with."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result of tuning one method.

    Attributes:
        detector: with the chosen parameters, and calibrated if it calibrates.
        parameters: the chosen values of the search space.
        selected_by: the metric of the selection.
        value: its value for that setting on the selecting images, a fraction.
        notes: settings that were left out, warnings of libraries.
        seconds: as if the method were tuned alone, without making the images.
    """

    detector: Detector
    parameters: dict[str, Any]
    selected_by: SelectedBy
    value: float
    notes: tuple[str, ...]
    seconds: float


def tune(
    runner: NetworkRunner,
    methods: Sequence[Method],
    detectors: Mapping[str, Detector],
    images: TuningImages,
) -> dict[str, Tuned | Exception]:
    """Choose the parameters of methods, and calibrate their detectors, in one pass.

    Args:
        runner: attached.
        methods: give the search spaces.
        detectors: method -> detector, fitted.
        images: tuning images.

    Returns:
        Method -> result, or the error for which no setting can be used.
    """
    started = time.perf_counter()
    searches = [_Search(method, detectors[method.name], images) for method in methods]
    done: Counter[Part] = Counter()
    for part, batch in images.batches(runner, lambda part: any(s.wants(part) for s in searches)):
        mine = [search for search in searches if search.wants(part)]
        compute = functools.partial(_found, runner, mine, part)
        for count, found in runner.within_memory(compute, batch, None, done[part]):
            done[part] += count
            for search, each in zip(mine, found, strict=True):
                search.add(part, each)
    # Alone, a method would have taken the pass and its own part of the work.
    this_pass = time.perf_counter() - started - sum(search.seconds for search in searches)
    return {search.method.name: search.result(this_pass) for search in searches}


@dataclass
class _Found:
    """What one method found in a batch.

    Attributes:
        scores: setting -> scores.
        views: setting -> outputs to train the detector's model on, or to score with it.
        errors: setting -> why it cannot be used.
        notes: warnings of libraries.
        seconds: spent for this method alone.
        saved: seconds that it would have spent alone for what another method computed.
    """

    scores: dict[int, Scores] = field(default_factory=dict)
    views: dict[int, Outputs] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    saved: float = 0.0


def _found(
    runner: NetworkRunner,
    searches: Sequence[_Search],
    part: Part,
    images: Tensor,
    _: Tensor | None,
    first: int | None,
) -> list[_Found]:
    """What each method finds in a batch; one forward pass serves all."""
    graph = any(differentiates(each) for search in searches for each in search.alive.values())
    with torch.set_grad_enabled(graph):
        images = images.detach().requires_grad_(graph)
        with runner.reading(search.method.name for search in searches if search.alive):
            outputs = runner.outputs(images)
        passes = OwnPasses(runner, images, outputs)
        return [search.found(passes, part, first or 0) for search in searches]


class _Search:
    """The search of one method.

    Attributes:
        method: gives the search space.
        settings: every combination of the grid, in the order of the selection.
        alive: setting -> detector with it, of those that can be used so far; in an order in which
            settings that share a gradient follow each other.
        seconds: spent for this method alone.
        saved: seconds that it would have spent alone for what another method computed.
    """

    def __init__(self, method: Method, detector: Detector, images: TuningImages) -> None:
        self.method = method
        self._selected_by, self._whole = images.selected_by, images.whole
        self._calibrates = "calibration" in method.detector.needs
        self._step = "epsilon" if "input_gradient" in method.detector.needs else None
        self.settings = list(_settings(method.search_space, images.selected_by))
        self.alive: dict[int, Detector] = {}
        self._errors: dict[int, Exception] = {}
        self._scores: dict[tuple[int, bool], list[Scores]] = defaultdict(list)
        self._views: dict[tuple[int, Part], list[Outputs]] = defaultdict(list)
        self._notes: list[str] = []
        self.seconds = self.saved = 0.0
        others = [self._others(setting) for setting in self.settings]
        self._gradient = [others.index(each) for each in others]
        for index in sorted(range(len(others)), key=self._gradient.__getitem__):
            try:
                self.alive[index] = self._candidate(detector, self.settings[index])
            except Exception as error:
                self._errors[index] = error
        if self._calibrates and method.detector.needs & _NOT_STORED:
            refusal = TuningError(
                f"detector '{method.detector.name}' declares calibration and maps, "
                "replaced_logits or rotations: they are not stored"
            )
            self._errors |= dict.fromkeys(self.alive, refusal)
            self.alive.clear()

    def _candidate(self, detector: Detector, setting: Mapping[str, Any]) -> Detector:
        if self.method.grid is not None:  # of the benchmark: the constructor checks its values
            type(detector)(**{**detector.parameters, **setting})
        return detector.with_parameters(**setting)

    def _others(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that the gradient depends on."""
        return {name: value for name, value in setting.items() if name != self._step}

    def wants(self, part: Part) -> bool:
        """Whether a part of the images serves this method."""
        if not self.alive:
            return False
        return self._calibrates or (part.kind != "noisy" and (self._whole or not part.fits))

    def found(self, passes: OwnPasses, part: Part, first: int) -> _Found:
        """Scores of a batch with every setting, or the outputs that a detector is trained on.

        Args:
            passes: over the batch, with a graph if a setting takes a gradient.
            part: the part that the batch is of.
            first: index of its first image in the part.
        """
        found, started = _Found(), time.perf_counter()
        with _noted(found.notes):
            for index, view in self._seen(passes, found):
                try:
                    if isinstance(view, Exception):
                        raise view
                    if self._calibrates:
                        found.views[index] = view.only(self.method.detector.needs)
                    else:
                        found.scores[index] = self._checked(self.alive[index], view, part, first)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    found.errors[index] = error
        found.seconds = time.perf_counter() - started
        return found

    def _checked(self, candidate: Detector, view: Outputs, part: Part, first: int = 0) -> Scores:
        side = "negatives" if part.kind == "negatives" else "in-distribution"
        return checked_scores(self.method.name, candidate, view, f"tuning images, {side}", first)

    def _seen(self, passes: OwnPasses, found: _Found) -> Iterator[tuple[int, Outputs | Exception]]:
        """What the detector sees of a batch with each setting, or why it sees nothing."""
        method = self.method.name
        for index, candidate in self.alive.items():
            try:
                view = passes.view(method, candidate, (method, self._gradient[index]))
            except Exception as error:
                yield index, error
            else:
                found.saved += passes.saved
                yield index, view

    def add(self, part: Part, found: _Found) -> None:
        """Keep what was found in a batch of a part."""
        self.seconds += found.seconds
        self.saved += found.saved
        self._notes += found.notes
        for index, error in found.errors.items():
            self._errors.setdefault(index, error)
            self.alive.pop(index, None)
        for index, scores in found.scores.items():
            self._scores[index, part.kind == "negatives"].append(scores)
        for index, view in found.views.items():
            self._views[index, part].append(view)

    # --- choosing ------------------------------------------------------------------------------

    def result(self, this_pass: float) -> Tuned | Exception:
        """The best setting, or the error of the first one if none can be used.

        Args:
            this_pass: seconds of the pass that methods share.
        """
        started = time.perf_counter()
        best: tuple[float, int] | None = None
        alike: dict[bytes, list[int]] = defaultdict(list)
        with _noted(self._notes):
            for index in sorted(self.alive):
                try:
                    sides = self._sides(index)
                except Exception as error:
                    self._errors[index] = error
                    continue
                same = alike[b"".join(side.tobytes() for side in sides)]
                same.append(index)
                if len(same) > 1:
                    continue
                value = _METRICS[self._selected_by](*sides)
                if best is None or value > best[0]:
                    best = value, index
        for index, why in self._errors.items():
            log.debug("%s: %s is left out", self.method.name, self.settings[index], exc_info=why)
        if best is None:
            return self._errors[min(self._errors)]
        value, index = best
        return Tuned(
            self.alive[index],
            self.settings[index],
            self._selected_by,
            value,
            (*dict.fromkeys(self._notes), *self._left_out(alike.values())),
            self.seconds + self.saved + time.perf_counter() - started + this_pass,
        )

    def _sides(self, index: int) -> list[Scores]:
        """Scores of positives and negatives by a setting, calibrated if it calibrates."""
        if not self._calibrates:
            return [np.concatenate(self._scores[index, side]) for side in (False, True)]
        candidate, needs = self.alive[index], self.method.detector.needs
        sides: tuple[tuple[Kind, ...], ...] = (("positives", "noisy"), ("negatives",))
        fitting = [self._outputs(index, kinds, fits=True) for kinds in sides]
        with settings_kept(), torch.no_grad():
            candidate.calibrate(*(side.copied(needs) for side in fitting))
        return [
            self._checked(
                candidate, self._outputs(index, kinds, fits=False), Part(kinds[0], fits=False)
            )
            for kinds in sides
        ]

    def _outputs(self, index: int, kinds: Sequence[Kind], *, fits: bool) -> Outputs:
        return Outputs.concatenate(
            [view for kind in kinds for view in self._views[index, Part(kind, fits)]]
        )

    def _left_out(self, alike: Iterable[Sequence[int]]) -> Iterator[str]:
        """Notes on settings that were left out.

        Args:
            alike: settings that give the same scores, of which the first was kept.
        """
        count = len(self.settings)
        if self._errors:
            why = reason_of(self._errors[min(self._errors)])
            yield f"tuned without {len(self._errors)} of {count} settings, which failed: {why}"
        pairs = [
            self._difference(index, same[:place])
            for same in alike
            for place, index in enumerate(same)
            if place
        ]
        if pairs:
            yield (
                f"tuned without {len(pairs)} of {count} settings, which score the tuning images as "
                f"others do: {listed(dict.fromkeys(pairs))}"
            )

    def _difference(self, index: int, earlier: Sequence[int]) -> str:
        """The values of a setting that have no effect, as "k 500 as k 200".

        Args:
            index: the setting.
            earlier: settings with the same scores; the words are of the most similar one.
        """
        mine = self.settings[index]
        differing = [
            {name: value for name, value in self.settings[each].items() if value != mine[name]}
            for each in earlier
        ]
        other = min(differing, key=len)
        words = [" ".join(f"{name} {each[name]}" for name in other) for each in (mine, other)]
        return " as ".join(words)


def _settings(
    space: Mapping[str, Sequence[Any]], selected_by: SelectedBy
) -> Iterator[dict[str, Any]]:
    """Every combination, in the order in which the first of equals is chosen.

    The step size is fastest, in the order of ODIN's published grid. Selected by AUROC, the first
    parameter is fastest, as in OpenOOD.
    """
    names = sorted(space, key=lambda name: name == "epsilon")
    if selected_by == "auroc":
        names = list(reversed([*space]))
    for values in itertools.product(*(space[name] for name in names)):
        setting = dict(zip(names, values, strict=True))
        yield {name: setting[name] for name in space}


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Keep the warnings of libraries."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(warning.message).splitlines()[0] for warning in caught]
