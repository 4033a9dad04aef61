"""What two runs share, and why a method or an OOD set of them cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from oodbench.errors import listed
from oodbench.run_comparison.indexed_run import IndexedRun
from oodbench.storage.same_work import shared_differences

Networks = Literal["same", "different", "unknown"]


def different_benchmarks(base: IndexedRun, head: IndexedRun) -> str:
    """Why no value of the two runs can be compared; empty if it can."""
    one, other = base.board, head.board
    if one.benchmark != other.benchmark:
        return f"other benchmark: '{one.benchmark}' in the base, '{other.benchmark}' in the head"
    if one.version != other.version:
        return f"other benchmark version: {one.version} in the base, {other.version} in the head"
    if one.id_dataset != other.id_dataset:
        return f"other ID data set: {one.id_dataset} in the base, {other.id_dataset} in the head"
    if one.csid != other.csid:
        before, after = (listed(each.csid) or "none" for each in (one, other))
        return f"other csID sets, which count as ID: {before} in the base, {after} in the head"
    for name in (one.id_dataset, *one.csid):
        if found := _different_data(base, head, name):
            return found
    return ""


def different_set(base: IndexedRun, head: IndexedRun, method: str, ood: str) -> str:
    """Why the values of a method on an OOD set that both runs have cannot be compared."""
    if found := _different_data(base, head, ood):
        return found
    id_dataset = base.board.id_dataset
    for name, before, after in zip(
        (id_dataset, ood), base.images(method, ood), head.images(method, ood), strict=True
    ):
        if before != after:
            return (
                f"other number of images of {name}: {before:,} in the base, {after:,} in the head"
            )
    return ""


def different_protocol(base: IndexedRun, head: IndexedRun, method: str) -> str:
    """Why a method that has values in both runs cannot be compared on any OOD set."""
    one, other = base.rows[method], head.rows[method]
    if one.tuned_on != other.tuned_on:
        return (
            f"other protocol: tuned on '{one.tuned_on}' in the base, '{other.tuned_on}' in the head"
        )
    if one.fit_split != other.fit_split:
        before, after = (each.fit_split or "train" for each in (one, other))
        return f"other protocol: fitted on the {before} images in the base, {after} in the head"
    if one.tuned_on != "none":
        if one.untuned != other.untuned:
            before, after = (listed(each.untuned) or "nothing" for each in (one, other))
            return f"other protocol: {before} not tuned in the base, {after} in the head"
        if keys := _differing_keys(base, head, "tuning"):
            return f"other protocol: {listed(keys)} of the benchmark"
    sets = common_sets(base, head, method)
    if sets and not common_seeds(base, head, method):
        before, after = (listed(sorted(side.seeds(method, sets))) for side in (base, head))
        failed = [
            f"; seed {seed} {reason} in the {side.name}"
            for side in (base, head)
            for seed, reason in side.absences.get(method, {}).items()
        ]
        return f"other seeds: {before} in the base, {after} in the head{''.join(failed[:1])}"
    return ""


def common_sets(base: IndexedRun, head: IndexedRun, method: str) -> tuple[str, ...]:
    """OOD sets with values of a method in both runs."""
    known = base.sets_of(method)
    return tuple(ood for ood in head.sets_of(method) if ood in known)


def common_seeds(base: IndexedRun, head: IndexedRun, method: str) -> tuple[int, ...]:
    """Seeds with values of a method in both runs, on every one of `common_sets`."""
    sets = common_sets(base, head, method)
    return tuple(sorted(base.seeds(method, sets) & head.seeds(method, sets)))


def missing_seeds(base: IndexedRun, head: IndexedRun, method: str) -> tuple[int, ...]:
    """Seeds with values of a method in the base only, on one of `common_sets` or more."""
    sets = common_sets(base, head, method)
    return tuple(sorted(base.seeds(method, sets) - head.seeds(method, sets)))


def networks(base: IndexedRun, head: IndexedRun, method: str, seeds: Sequence[int]) -> Networks:
    """Whether a method's networks have the same weights in both runs, for these seeds."""
    pairs = [(base.weights(method, seed), head.weights(method, seed)) for seed in seeds]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return "different"
    return "unknown" if any(None in pair for pair in pairs) else "same"


def absence(side: IndexedRun, method: str) -> str:
    """Why a run has no values of a method that it names."""
    reasons = dict.fromkeys(side.absences[method].values())
    return f"{next(iter(reasons))} ({side.name})"


def side_notes(side: IndexedRun) -> Iterator[str]:
    """What a reader has to know of one run."""
    run = side.run
    if run.changed:
        yield (
            f"{run.folder}: {listed(run.changed)} changed after the run. `oodbench verify` finds "
            "what does not follow from the scores."
        )
    if run.description is None:
        yield f"{run.folder} has no run.json: its data and networks cannot be checked."
    elif run.description.status != "complete":
        yield f"{run.folder} is not complete: the run is '{run.description.status}'."


def pair_notes(base: IndexedRun, head: IndexedRun) -> Iterator[str]:
    """What a reader has to know of two runs of one benchmark."""
    id_dataset = base.board.id_dataset
    for split in ("train", "validation"):
        if _different_data(base, head, id_dataset, split):
            yield f"The {split} images of {id_dataset} differ between the runs."
    if keys := _differing_keys(base, head, "models"):
        yield f"The models of the benchmark differ: {listed(keys)}."
    for method in (name for name in head.rows if name in base.rows):
        one, other = base.rows[method], head.rows[method]
        for what in ("detector", "model", "loss"):
            before, after = getattr(one, what), getattr(other, what)
            if before != after:
                yield f"{method}: the {what} is '{before}' in the base and '{after}' in the head."
    for gone in base.rows.values():
        for new in head.rows.values():
            if (
                gone.method not in head.methods
                and new.method not in base.methods
                and (gone.model, gone.detector, gone.tuned_on, _parameters(gone.choices))
                == (new.model, new.detector, new.tuned_on, _parameters(new.choices))
            ):
                yield (
                    f"{gone.method} (base) and {new.method} (head) are the same detector on the "
                    "same model. Methods are compared by name, so they are not compared."
                )


def _parameters(choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(each.seed, each.ood_dataset, dict(each.values)) for each in choices]


def _different_data(base: IndexedRun, head: IndexedRun, dataset: str, split: str = "test") -> str:
    before, after = base.data_checksum(dataset, split), head.data_checksum(dataset, split)
    if before and after and before != after:
        return (
            f"other images of {dataset}: checksum {before[:8]} in the base, {after[:8]} in the head"
        )
    return ""


def _differing_keys(base: IndexedRun, head: IndexedRun, key: str) -> list[str]:
    """Keys of a part of the benchmark whose values differ, with dots between them."""
    before, after = (
        side.run.description.benchmark.get(key) if side.run.description else None
        for side in (base, head)
    )
    return shared_differences(before, after, key)
