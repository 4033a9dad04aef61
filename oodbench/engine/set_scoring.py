"""Scoring the test sets of a model with its detectors, as a whole or in parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from oodbench.detector import Detector
from oodbench.engine.method_results import MethodResult
from oodbench.engine.mistakes import Confusion, labels_signs
from oodbench.engine.passes.image_sources import ID, EvaluationData, ImageRange, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import SplitScores, joined, score_split
from oodbench.planning.plan import Method
from oodbench.planning.shards import VALIDATION, Shard
from oodbench.report.differences import id_key
from oodbench.storage.predictions import Predictions

Scores = SplitScores[tuple[str, str]]
"""Scores by method and, if it is tuned on each OOD set and the images are ID, by set; else "id"."""


class SetScoring:
    """Scores of the test sets of one model, and of the validation images if thresholds are set.

    Args:
        runner: attached while scores are computed.
        methods: all of them.
        data: what to score.
        num_classes: C.
        results: method -> result, with detectors; gets scores and errors.
        warnings: gets signs of a mistake in the data.

    Attributes:
        predictions: "id" and csID sets -> predictions of the classifier; empty without labels.
        negative_features: share of the penultimate features of ID test images that are negative.
    """

    def __init__(
        self,
        runner: NetworkRunner,
        methods: Sequence[Method],
        data: EvaluationData,
        num_classes: int,
        results: Mapping[str, MethodResult],
        warnings: list[str],
    ) -> None:
        self._runner, self._methods, self._data = runner, methods, data
        self._num_classes, self._results, self._warnings = num_classes, results, warnings
        self.predictions: dict[str, Predictions] = {}
        self.negative_features = 0.0

    def score_all(self) -> None:
        """One pass over each set, as long as a method has not failed."""
        for name in self._data.scored:
            if name in self._data.ood and not self.alive:
                return
            self.take(name, self.scores_of(name))

    def scores_of(self, name: str, part: Shard | None = None) -> Scores:
        """The scores of one set; results do not change.

        Args:
            name: one of `EvaluationData.scored`.
            part: a part of it; None for all images.
        """
        source, dataset, start = self._data.source(name), name, 0
        detectors = self._detectors(name)
        if name == ID:
            dataset = self._data.id_name
        elif name == VALIDATION:
            dataset = source.name
        if part is not None and part.stop is not None:
            assert isinstance(source, SplitImages)
            source, start = ImageRange(source, part.start, part.stop), part.start
        return score_split(
            self._runner,
            source,
            detectors,
            dataset=dataset,
            check_batches=name == ID,
            start=start,
        )

    def take(self, name: str, found: Scores) -> None:
        """Take the scores of a set into the results; the sets come in their order.

        Of a method that failed on a set before, the error stays.
        """
        alive = {method.name for method in self.alive}
        for (method, _), error in found.errors.items():
            if method in alive:
                self._results[method].error = error
        for (method, key), scores in found.scores.items():
            result = self._results[method]
            if name == VALIDATION:
                result.validation[key] = scores
            elif name == ID:
                result.scores[ID if key == ID else id_key(key)] = scores
            else:
                result.scores[name] = scores
        if name == ID:
            self.negative_features = found.signs.share
            tested = Confusion.of(self._num_classes, found.labels, found.predicted)
            source = self._data.test[ID].name
            self._warnings += labels_signs(source, tested, perhaps=self._data.perhaps)
        if found.predictions is not None and name in (ID, *self._data.csid):
            self.predictions[name] = found.predictions
        assert name not in self._data.csid or found.predictions is not None  # the plan has checked

    def take_parts(self, parts: Mapping[str, Iterable[Scores]]) -> None:
        """Take the scores of all sets, each of its parts in their order."""
        for name in self._data.scored:
            self.take(name, joined(parts[name]))

    @property
    def alive(self) -> list[Method]:
        """The methods that have not failed."""
        return [method for method in self._methods if self._results[method.name].error is None]

    def for_ood(self, ood: str) -> dict[str, Detector]:
        """Method -> the detector that scores an OOD set, of those that have not failed."""
        return {m.name: self._results[m.name].detectors[ood] for m in self.alive}

    def _detectors(self, name: str) -> dict[tuple[str, str], Detector]:
        """The detectors that score a set, by the keys of `Scores`."""
        if name in (ID, VALIDATION):
            return {
                (method.name, ood if method.tuned_on == "ood_oracle" else ID): detector
                for method in self.alive
                for ood, detector in self._results[method.name].detectors.items()
            }
        ood = name if name in self._data.ood else self._data.ood[0]  # no method is tuned on each
        return {(method, ID): detector for method, detector in self.for_ood(ood).items()}
