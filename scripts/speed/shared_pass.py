"""What sharing a pass saves: `python scripts/speed/shared_pass.py`.

Fits every gradient-free detector of the catalog that runs on the network, then scores ID and OOD
test sets in two ways, in one run, in turns: all detectors through the engine's shared pass, and
detector by detector with a pass over the ID set for every OOD set, as one does by hand. Prints
seconds, ratios and the network's passes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine_steps import fit_all, runner_of

from oodbench.api import plan_run
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.scoring import score_split
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.training.trained_models import ModelStore

MODEL = "SoftMax"
BATCH = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    catalog = Catalog()
    statuses = catalog.imported_detectors()
    plan = plan_run(catalog, "digits", statuses, seeds=1, methods=["all"])
    data = LoadedSplits(plan.datasets)
    models = ModelStore(plan.benchmark, data, torch.device("cpu"), Silent())
    classifier = models.trained(MODEL, 0)
    detectors = {
        method.detector.name: catalog.load_detector(method.detector.name, method.arguments)
        for method in plan.methods_of(MODEL)
        if method.detector.shares_forward
    }
    sets = [plan.benchmark.id, *plan.benchmark.ood_groups]
    images = {name: data.get(name, "test") for name in sets}
    first, classes = images[plan.benchmark.id], data.num_classes(plan.benchmark.id)
    together = runner_of(classifier, detectors, first, BATCH)
    alone = {
        name: runner_of(classifier, {name: detector}, first, BATCH)
        for name, detector in detectors.items()
    }

    def this_pass(split: str, mine: Mapping[str, Detector]) -> Iterator[Outputs]:
        return pass_outputs(together, data.get(plan.benchmark.id, split), mine)

    with together.attached():
        fit_all(detectors, this_pass, classes)
    passes = {"shared": len(sets), "apart": 2 * (len(sets) - 1) * len(detectors)}

    def bare() -> None:
        with torch.inference_mode():
            for name in sets:
                for batch, _ in together.batches(images[name]):
                    classifier(batch)

    def shared() -> None:
        with together.attached():
            for name in sets:
                score_split(together, images[name], detectors, dataset=name)

    def apart() -> None:
        for key, detector in detectors.items():
            with alone[key].attached():
                for name in sets[1:]:
                    for side in (sets[0], name):
                        score_split(alone[key], images[side], {key: detector}, dataset=side)

    times = _in_turns({"bare": bare, "shared": shared, "apart": apart}, arguments.rounds)
    print(
        f"{len(detectors)} detectors, 1 ID and {len(sets) - 1} OOD sets, 600 images each, "
        f"{torch.get_num_threads()} threads"
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
