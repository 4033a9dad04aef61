"""Detectors fitted without a run, as the engine fits them: for scripts and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from oodbench.data import ImageArray
from oodbench.deploy.graph.scored_network import scoring_runner
from oodbench.detector import Detector, Outputs
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.folding import find_folding
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import FITTED_ON


def runner_of(
    classifier: Classifier,
    detectors: Mapping[str, Detector],
    images: ImageArray,
    batch_size: int,
    *,
    folded: bool = False,
) -> NetworkRunner:
    """A runner that captures what detectors read; not attached.

    Args:
        classifier: the network.
        detectors: name -> detector.
        images: a few of them are tried.
        batch_size: images of a pass.
        folded: whether BatchNorms are folded, as in a run.
    """
    few, _ = next(NetworkRunner(classifier, batch_size=4).batches(images))
    runner = scoring_runner(classifier, detectors, few)
    runner.batch_size = batch_size
    if folded:
        with evaluating(classifier):
            runner.folding = find_folding(classifier, few)
    return runner


def fit_all(
    detectors: Mapping[str, Detector],
    this_pass: Callable[[str, Mapping[str, Detector]], Iterator[Outputs]],
    classes: int,
) -> dict[str, float]:
    """Fit detectors, in one pass for those that need it.

    Args:
        detectors: name -> detector.
        this_pass: makes a pass over the images of a split, "train" or "validation", for detectors.
        classes: C.

    Returns:
        Name -> seconds that the detector took for itself.

    Raises:
        Exception: of the first detector that fails.
    """
    seconds = dict.fromkeys(detectors, 0.0)
    for need, split in FITTED_ON.items():
        mine = {name: each for name, each in detectors.items() if need in each.info.needs}
        fits = fit_together(
            mine, lambda split=split, mine=mine: this_pass(split, mine), classes, needs=need
        )
        for name, fit in fits.items():
            if fit.error is not None:
                raise fit.error
            seconds[name] += fit.seconds
    return seconds
