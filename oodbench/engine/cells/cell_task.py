"""A cell as a task of an executor: in the process of the run, or in another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from oodbench.engine.cells.evaluator import CellEvaluator
from oodbench.engine.cells.grid import Cell, CellResult, Grid
from oodbench.progress import Reporter


class _Relay:
    """Reports to the task that runs now: images and models serve one after the other."""

    def __init__(self, say: Reporter) -> None:
        self.say = say

    def __getattr__(self, name: str) -> Any:
        return getattr(self.say, name)


_begun_here: dict[str, CellEvaluator] = {}
_taken_over: dict[str, tuple[CellEvaluator, _Relay]] = {}
"""Key of a grid -> the evaluator of its cells in this process; and where it reports."""


@contextmanager
def shared(grid: Grid, evaluator: CellEvaluator) -> Iterator[None]:
    """Cells of a grid that are run in this process use the images and models of its run."""
    _begun_here[grid.key] = evaluator
    try:
        yield
    finally:
        del _begun_here[grid.key]


def evaluator_of(grid: Grid, say: Reporter) -> tuple[CellEvaluator, bool]:
    """What evaluates the cells of a grid in this process; and whether it has images of its own.

    Args:
        grid: the grid.
        say: takes the progress within a task, if it has.

    Raises:
        UserError: as `CellEvaluator.of`.
    """
    key = grid.key
    if key in _begun_here:
        return _begun_here[key], False
    if key not in _taken_over:  # kept for the next task of the grid
        _taken_over.clear()
        relay = _Relay(say)
        _taken_over[key] = CellEvaluator.of(grid, cast("Reporter", relay)), relay
    evaluator, relay = _taken_over[key]
    relay.say = say
    return evaluator, True


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell as a task of an executor (`engine.executors`).

    Attributes:
        grid: what it has in common with others.
        cell: the cell.
    """

    grid: Grid
    cell: Cell

    @property
    def label(self) -> str:
        """The name in messages."""
        return ": ".join(filter(None, (self.grid.title, self.cell.label)))

    @property
    def files(self) -> tuple[str, ...]:
        """The checkpoint of a model that is trained."""
        return (self.cell.checkpoint,) if self.cell.checkpoint else ()

    def run(self, say: Reporter) -> CellResult:
        """Evaluate the cell.

        Raises:
            UserError: as `CellEvaluator.result`.
        """
        evaluator, own = evaluator_of(self.grid, say)
        result = evaluator.result(self.cell)
        return replace(result, read=evaluator.data.read()) if own else result
