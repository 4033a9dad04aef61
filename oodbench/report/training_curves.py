"""Training curves and last epochs, from the records of each epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from oodbench.errors import UserError
from oodbench.storage.records import TrainingRecord

# model -> seed -> the epochs of that training, in order
Histories = Mapping[str, Mapping[int, tuple[TrainingRecord, ...]]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity after each epoch, over the seeds of one model.

    Attributes:
        model: name of the model.
        epochs: numbers of the epochs, from 1.
        mean: mean over seeds after each of these epochs, a fraction.
        low: minimum over seeds.
        high: maximum over seeds.
        seeds: number of seeds.
    """

    model: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int


def histories(records: Iterable[TrainingRecord]) -> Histories:
    """The epochs of every training, in order; models and seeds in the order of the records.

    Raises:
        UserError: if an epoch of a training is recorded twice.
    """
    found: dict[str, dict[int, list[TrainingRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        found[record.model][record.seed].append(record)
    for model, by_seed in found.items():
        for seed, epochs in by_seed.items():
            epochs.sort(key=lambda record: record.epoch)
            numbers = [record.epoch for record in epochs]
            if len(set(numbers)) < len(numbers):
                raise UserError(
                    f"Records contradict each other: '{model}', seed {seed}, has an epoch twice.",
                    "Give the records of one run.",
                )
    return {
        model: {seed: tuple(epochs) for seed, epochs in by_seed.items()}
        for model, by_seed in found.items()
    }


def last_epochs(trainings: Histories, model: str, measure: str) -> dict[int, float]:
    """A measure after the last epoch of each seed; seeds without it are left out.

    Args:
        trainings: the epochs of every training.
        model: name of the model.
        measure: name of a field of `TrainingRecord`, such as "test_accuracy".
    """
    values = {
        seed: getattr(epochs[-1], measure) for seed, epochs in trainings.get(model, {}).items()
    }
    return {seed: value for seed, value in values.items() if value is not None}


def accuracy_curves(trainings: Histories) -> list[Curve]:
    """Test accuracy of each model after the epochs for which every seed has it, two at least."""
    curves = []
    for model, by_seed in trainings.items():
        noted = [
            {
                record.epoch: record.test_accuracy
                for record in epochs
                if record.test_accuracy is not None
            }
            for epochs in by_seed.values()
        ]
        shared = sorted(set[int].intersection(*map(set, noted))) if noted else []
        values = [[seen[epoch] for seen in noted] for epoch in shared]
        if len(shared) > 1:  # one point makes no line
            curves.append(
                Curve(
                    model=model,
                    epochs=tuple(shared),
                    mean=tuple(sum(at) / len(at) for at in values),
                    low=tuple(map(min, values)),
                    high=tuple(map(max, values)),
                    seeds=len(noted),
                )
            )
    return curves
