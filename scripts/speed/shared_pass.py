"""What sharing a pass saves: `python scripts/speed/shared_pass.py`.

Fits every gradient-free detector of the catalog that runs on the network, then scores ID and OOD
test sets in two ways, in one run, in turns: all detectors through the engine's shared pass, and
detector by detector with the ID set swept again for every OOD set, as one does by hand. Prints
seconds, ratios and the network's passes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from oodbench.api import plan_run
from oodbench.data import ImageArray
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.detector import Detector
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.planning.plan import FITTED_ON
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.training.trained_models import ModelStore

MODEL = "SoftMax"


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
    together = runner_for(classifier, detectors, images[plan.benchmark.id])
    alone = {
        name: runner_for(classifier, {name: detector}, images[plan.benchmark.id])
        for name, detector in detectors.items()
    }
    fit(together, detectors, data, plan.benchmark.id)
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


def runner_for(
    classifier: Classifier, detectors: Mapping[str, Detector], images: ImageArray
) -> NetworkRunner:
    """A runner that captures what these detectors need."""
    needs = frozenset[str]().union(*(detector.info.needs for detector in detectors.values()))
    few, _ = next(NetworkRunner(classifier, batch_size=4).batches(images))
    with evaluating(classifier):
        name = find_map(classifier, few) if "feature_map" in needs else None
    readers, _ = layer_readers(classifier, detectors, few)
    return NetworkRunner(classifier, batch_size=200, capture=Capture.of(needs, name, readers))


def fit(
    runner: NetworkRunner, detectors: Mapping[str, Detector], data: LoadedSplits, dataset: str
) -> None:
    """Fit detectors in one pass over each split that they are fitted on."""
    with runner.attached():
        for need, split in FITTED_ON.items():
            to_fit = {name: each for name, each in detectors.items() if need in each.info.needs}
            this_pass = functools.partial(pass_outputs, runner, data.get(dataset, split))
            classes = len(set(data.get(dataset, split).labels.tolist()))
            for outcome in fit_together(to_fit, this_pass, classes, needs=need).values():
                if outcome.error is not None:
                    raise outcome.error


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
