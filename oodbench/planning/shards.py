"""Shards: parts of the test sets of a cell, which are scored one by one, by any worker.

A shard begins and ends where a batch does, so that its batches are those of a whole pass, and its
scores are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oodbench.data.decoding_choice import is_streamed
from oodbench.planning.plan import Plan
from oodbench.specs import SplitName

VALIDATION = "validation images"
"""Stands for the ID validation images among the sets that are scored."""
_ID = "id"


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a set that is scored.

    Attributes:
        scored: "id", `VALIDATION`, or the name of a csID or OOD set.
        start: index of the first image.
        stop: index after the last one; None if the set is not divided.
    """

    scored: str
    start: int = 0
    stop: int | None = None


def shards_of(plan: Plan) -> tuple[Shard, ...]:
    """The shards of each cell of a plan, in the order of the sets; a set has one or more.

    A set that is decoded each time it is read is not divided.
    """
    assert plan.shard_images is not None
    batch = plan.benchmark.evaluation.batch_size
    size = -(-plan.shard_images // batch) * batch
    return tuple(
        shard
        for scored, dataset, split in scored_splits(plan)
        for shard in _of_set(plan, scored, dataset, split, size)
    )


def tasks_at_once(plan: Plan) -> int:
    """How many tasks of a run can be computed at once: its cells, or their shards."""
    shards = 1 if plan.shard_images is None else len(shards_of(plan))
    return len(plan.models) * len(plan.seeds) * shards


def _of_set(plan: Plan, scored: str, dataset: str, split: SplitName, size: int) -> Iterator[Shard]:
    spec, most = plan.datasets[dataset], plan.benchmark.most_images
    images = plan.benchmark.images_of(spec, split)
    if images <= size or is_streamed(spec, split, _READ_AGAIN, most):
        yield Shard(scored)
        return
    for start in range(0, images, size):
        yield Shard(scored, start, min(start + size, images))


_READ_AGAIN = 2
"""How often shards read a split, for the choice whether it is cached."""


def scored_splits(plan: Plan) -> Iterator[tuple[str, str, SplitName]]:
    """What is scored, as in `Shard.scored`, with data set and split, in the order of the run."""
    benchmark = plan.benchmark
    yield _ID, benchmark.id, "test"
    if plan.sets_thresholds:
        yield VALIDATION, benchmark.id, "validation"
    for name in (*benchmark.csid, *benchmark.ood_groups):
        yield name, name, "test"
