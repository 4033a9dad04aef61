"""What sharing a pass saves: `python scripts/speed/shared_pass.py`.

Scores ID and OOD test sets with several detectors in two ways, in one run, in turns: through the
engine's shared pass, and detector by detector with the ID set swept again for every OOD set, as
one does by hand. Prints seconds, ratios and the network's passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import oodbench
from oodbench.api import plan_run
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.training.trained_models import ModelStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    catalog = Catalog()
    plan = plan_run(catalog, "digits", catalog.imported_detectors(), seeds=1, methods=None)
    data = LoadedSplits(plan.datasets)
    models = ModelStore(plan.benchmark, data, torch.device("cpu"), Silent())
    classifier = models.untrained("SoftMax", 0)  # the time does not depend on the weights
    simple = [m for m in plan.methods_of("SoftMax") if not m.detector.needs]
    # The same detectors several times over stand for a wider field.
    scorers = {
        f"{method.name} {copy}": oodbench.load_detector(method.detector.name)
        for method in simple
        for copy in range(6)
    }
    sets = [plan.benchmark.id, *plan.benchmark.ood_groups]
    images = {name: data.get(name, "test") for name in sets}
    runner = NetworkRunner(classifier, batch_size=200)
    passes = {"shared": len(sets), "apart": 2 * (len(sets) - 1) * len(scorers)}

    def bare() -> None:
        with torch.inference_mode():
            for name in sets:
                for batch, _ in runner.batches(images[name]):
                    classifier(batch)

    def shared() -> None:
        for name in sets:
            score_split(runner, images[name], scorers, dataset=name)

    def apart() -> None:
        for key, scorer in scorers.items():
            for name in sets[1:]:
                for side in (sets[0], name):
                    score_split(runner, images[side], {key: scorer}, dataset=side)

    with runner.attached():
        times = _in_turns({"bare": bare, "shared": shared, "apart": apart}, arguments.rounds)
    print(
        f"{len(scorers)} detectors, 1 ID and {len(sets) - 1} OOD sets, 600 images each, 2 threads"
    )
    print(f"one bare forward over all images   {times['bare']:7.3f} s")
    print(
        f"shared pass                        {times['shared']:7.3f} s   "
        f"{times['shared'] / times['bare']:6.2f} x bare, {passes['shared']} passes"
    )
    print(
        f"detector by detector               {times['apart']:7.3f} s   "
        f"{times['apart'] / times['bare']:6.2f} x bare, {passes['apart']} passes"
    )
    print(f"sharing is faster by               {times['apart'] / times['shared']:7.2f} x")


def _in_turns(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            started = time.perf_counter()
            work()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
