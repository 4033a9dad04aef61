"""The work of a cell in steps: fit it once, score its shards one by one, make its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from oodbench.data.loaded_splits import ReadSplits
from oodbench.engine.cells.evaluator import BegunCell, CellEvaluator
from oodbench.engine.cells.fitted_file import read_fitted, write_fitted
from oodbench.engine.cells.grid import Cell, CellResult
from oodbench.engine.device import full_precision
from oodbench.engine.method_results import fail_constant_scores
from oodbench.engine.mistakes import FeatureSigns
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.reasons import reported
from oodbench.engine.set_scoring import Scores
from oodbench.errors import UserError
from oodbench.planning.shards import Shard, scored_splits, shards_of
from oodbench.training.determinism import deterministic


@dataclass(frozen=True, slots=True)
class FittedCell:
    """A cell whose detectors are fitted and tuned, and stored in a file of the cache.

    Attributes:
        source: where its classifier came from, in words.
        read: large splits that were read to fit it.
    """

    source: str
    read: ReadSplits


@dataclass(frozen=True, slots=True)
class ScoredShard:
    """Scores of a shard.

    Attributes:
        weights: checksum of the classifier's weights.
        scores: the scores; errors are without their tracebacks.
        read: in the first shard of a set, its split, if it is large.
    """

    weights: str
    scores: Scores
    read: ReadSplits


@dataclass(slots=True)
class _Held:
    """A fitted cell in memory.

    Attributes:
        file: path of its file in the cache.
        begun: the cell.
        evaluation: fitted and tuned.
        source: as of `FittedCell`.
        read: as of `FittedCell`.
        obstacle: why it is in memory alone; "" if it is stored.
    """

    file: str
    begun: BegunCell
    evaluation: ModelEvaluation
    source: str
    read: ReadSplits
    obstacle: str = ""


class ShardEvaluator:
    """Fits and scores the cells of one run in steps; keeps the last fitted cell in memory.

    Args:
        cells: begins the cells and makes their records.
    """

    def __init__(self, cells: CellEvaluator) -> None:
        self.cells = cells
        self._held: _Held | None = None

    def fit(self, cell: Cell, file: str) -> FittedCell | CellResult:
        """Fit and tune the detectors of a cell, unless that is stored.

        Args:
            cell: the cell.
            file: path of its file in the cache, with "/".

        Returns:
            The result of the cell if it was finished, or has a detector whose state cannot be
            stored: then all shards are scored here.

        Raises:
            UserError: as `CellEvaluator.result`.
        """
        with self._settings():
            held = self._fitted(cell, file)
            if held.begun.is_finished:
                return held.begun.result
            if held.obstacle:
                self.cells.say.warn(f"{cell.label}: one worker scores all shards. {held.obstacle}")
                return self._finished(held, {})
            return FittedCell(held.source, held.read)

    def score(self, cell: Cell, file: str, shard: Shard) -> ScoredShard:
        """Score a shard of a cell that is fitted.

        Raises:
            UserError: as `fit`.
        """
        with self._settings():
            return self._scored(self._fitted(cell, file), shard)

    def finish(self, cell: Cell, file: str, parts: Mapping[Shard, ScoredShard]) -> CellResult:
        """The result of a cell. Shards that are missing, or of other weights, are scored here.

        Raises:
            UserError: as `fit`.
        """
        with self._settings():
            return self._finished(self._fitted(cell, file), parts)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        with deterministic(self.cells.device), full_precision(self.cells.device):
            yield

    def _fitted(self, cell: Cell, file: str) -> _Held:
        """The fitted cell: in memory, from its file, or fitted now."""
        if self._held is not None and self._held.file == file:
            return self._held
        self._held = None  # its memory is needed
        begun = self.cells.begin(cell)
        evaluation = self.cells.evaluation(begun)
        held = _Held(file, begun, evaluation, begun.result.source, {})
        if begun.is_finished:
            return held
        evaluation.prepare()
        stored = read_fitted(file)
        if stored is not None and stored.weights == begun.result.weights:
            stored.restore(evaluation)
            held.source, held.read = stored.source, stored.read
        else:
            evaluation.run(score=False)
            evaluation.note_layers(only_dropped=True)
            held.read = self.cells.data.read()
            try:
                write_fitted(file, evaluation, held.source, begun.result.weights, held.read)
            except UserError as error:
                held.obstacle = str(error)
        self._held = held
        return held

    def _scored(self, held: _Held, shard: Shard) -> ScoredShard:
        runner = held.evaluation.runner
        with runner.attached():
            scores = held.evaluation.scoring.scores_of(shard.scored, shard)
        scores.errors = {key: reported(error) for key, error in scores.errors.items()}
        scores.signs = FeatureSigns(*scores.signs.counts)
        splits = {scored: (data, split) for scored, data, split in scored_splits(self.cells.plan)}
        read = self.cells.data.read(splits[shard.scored]) if shard.start == 0 else {}
        return ScoredShard(held.begun.result.weights, scores, read)

    def _finished(self, held: _Held, parts: Mapping[Shard, ScoredShard]) -> CellResult:
        evaluation, plan = held.evaluation, self.cells.plan
        found: dict[str, list[Scores]] = {}
        for shard in shards_of(plan):
            part = parts.get(shard)
            if part is None or part.weights != held.begun.result.weights:
                part = self._scored(held, shard)
            found.setdefault(shard.scored, []).append(part.scores)
        evaluation.scoring.take_parts(found)
        fail_constant_scores(evaluation.results)
        outcome = evaluation.outcome(self.cells.reference(held.begun.cell.seed))
        self._held = None
        begun = replace(held.begun, result=replace(held.begun.result, source=held.source))
        return self.cells.recorded(begun, outcome)
