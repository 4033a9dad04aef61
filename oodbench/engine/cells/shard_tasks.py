"""The tasks of a cell that is scored in shards: fit it, score each shard, make its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from oodbench.engine.cells.cell_task import CellTask, evaluator_of
from oodbench.engine.cells.grid import Cell, CellResult, Grid
from oodbench.engine.cells.shard_evaluator import FittedCell, ScoredShard, ShardEvaluator
from oodbench.planning.shards import Shard
from oodbench.progress import Reporter


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a cell.

    Attributes:
        grid: what the cell has in common with others.
        cell: the cell.
        fitted: path in the cache of the file of the fitted cell.
    """

    grid: Grid
    cell: Cell
    fitted: str

    @property
    def doing(self) -> str:
        """What is done, for messages."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"{CellTask(self.grid, self.cell).label}: {self.doing}"

    @property
    def files(self) -> tuple[str, ...]:
        """The checkpoint of a model that is trained, and the file of the fitted cell."""
        return (*((self.cell.checkpoint,) if self.cell.checkpoint else ()), self.fitted)

    def _evaluator(self, say: Reporter) -> tuple[ShardEvaluator, bool]:
        """What does the work in this process; and whether it has images of its own."""
        cells, own = evaluator_of(self.grid, say)
        if cells.in_steps is None:
            cells.in_steps = ShardEvaluator(cells)
        evaluator: ShardEvaluator = cells.in_steps
        return evaluator, own


@dataclass(frozen=True, slots=True)
class FitTask(_Step):
    """Trains or reads the classifier, fits and tunes the detectors."""

    @property
    def doing(self) -> str:
        """As the base class says."""
        return "fit"

    def run(self, say: Reporter) -> FittedCell | CellResult:
        """Do it.

        Raises:
            UserError: as `ShardEvaluator.fit`.
        """
        evaluator, own = self._evaluator(say)
        done = evaluator.fit(self.cell, self.fitted)
        if own and isinstance(done, CellResult):
            return replace(done, read=evaluator.cells.data.read())
        return done


@dataclass(frozen=True, slots=True)
class ShardTask(_Step):
    """Scores a shard.

    Attributes:
        shard: the shard.
        number: its number, from 1.
        count: number of shards of the cell.
    """

    shard: Shard
    number: int
    count: int

    @property
    def doing(self) -> str:
        """As the base class says."""
        return f"shard {self.number} of {self.count}"

    def run(self, say: Reporter) -> ScoredShard:
        """Do it.

        Raises:
            UserError: as `ShardEvaluator.score`.
        """
        return self._evaluator(say)[0].score(self.cell, self.fitted, self.shard)


@dataclass(frozen=True, slots=True)
class FinishTask(_Step):
    """Measures costs and makes the records.

    Attributes:
        parts: the scores of the shards.
    """

    parts: Mapping[Shard, ScoredShard] = field(repr=False)

    @property
    def doing(self) -> str:
        """As the base class says."""
        return "costs and records"

    def run(self, say: Reporter) -> CellResult:
        """Do it.

        Raises:
            UserError: as `ShardEvaluator.finish`.
        """
        evaluator, own = self._evaluator(say)
        result = evaluator.finish(self.cell, self.fitted, self.parts)
        return replace(result, read=evaluator.cells.data.read()) if own else result
