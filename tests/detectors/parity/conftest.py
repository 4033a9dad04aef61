"""Our scores and those of pytorch-ood, on the same network and images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pytorch_ood_cases import CASES
from helpers.pytorch_ood_peer import (
    CLASSES,
    INFOS,
    SCORED,
    Case,
    Images,
    Make,
    Peer,
    Scores,
    outputs_of,
)
from torch import Tensor

import oodbench
from oodbench import Outputs
from oodbench.data import ImageArray, load_split
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier, Network
from oodbench.models.feature_map import find_map
from oodbench.plugins.catalog import Catalog


@pytest.fixture(scope="session")
def images(digits: Make) -> Images:
    """Digits, and letters as what is out-of-distribution."""
    letters = load_split(Catalog().dataset("letters"), "test").images[:SCORED]
    scored = np.concatenate([digits("test", SCORED).images, letters])
    return Images(digits("train"), digits("validation"), ImageArray(scored))


@pytest.fixture(scope="session")
def net(trained: Classifier, images: Images) -> Peer:
    return Peer(trained, images)


@pytest.fixture(scope="session")
def ours(trained: Classifier, images: Images) -> dict[str, tuple[Scores, Any]]:
    """Name of a case -> our scores and the fitted detector, or the error."""
    one_tap = Classifier(OneTap(trained.network), (0.0,), (1.0,))
    one_tap.mean, one_tap.std = trained.mean, trained.std
    found = {}
    for classifier in (trained, one_tap):
        cases = [case for case in CASES if case.one_tap == (classifier is one_tap)]
        found |= score_together(classifier, images, cases)
    return found


class OneTap(Network):
    """A network whose only tap is its last one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.whole, self.head = network, network.head
        self.tap_names = (f"whole.{network.tap_names[-1]}",)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.whole(images)
        return logits


def score_together(
    classifier: Classifier, images: Images, cases: Sequence[Case]
) -> dict[str, tuple[Scores, Any]]:
    """Fitted and scored as in a run: every batch is computed once for all detectors."""
    detectors = {
        case.name: oodbench.load_detector(case.ours, **dict(case.parameters)) for case in cases
    }
    needs = frozenset().union(*(INFOS[case.ours].needs for case in cases))
    few = torch.tensor(images.train.images[:8])
    with evaluating(classifier):
        map_name = find_map(classifier, few)
    readers, errors = layer_readers(classifier, detectors, few)
    assert not errors, errors
    runner = NetworkRunner(classifier, batch_size=128, capture=Capture.of(needs, map_name, readers))
    with runner.attached():
        for need, data in (("fit", images.train), ("validation", images.validation)):
            fits = fit_together(
                {name: d for name, d in detectors.items() if need in d.info.needs},
                functools.partial(pass_outputs, runner, data),
                CLASSES,
                needs=need,
            )
            assert not any(fit.error for fit in fits.values()), fits
        scorers = {case.name: detectors[case.name] for case in cases}
        result = score_split(runner, images.scored, scorers, dataset="both", check_batches=True)
    assert not result.errors, result.errors
    return {name: (scores, detectors[name]) for name, scores in result.scores.items()}


@pytest.fixture(scope="session")
def both(net: Peer, ours: dict[str, tuple[Scores, Any]]) -> Callable[[Case], tuple[Scores, Scores]]:
    """Makes our scores of a case and those that follow from theirs, where they must agree."""

    @functools.cache
    def make(name: str) -> tuple[Scores, Scores]:
        case = next(case for case in CASES if case.name == name)
        scores, detector = ours[name]
        theirs = case.scores(net, detector).detach().double().numpy()
        where = case.where(net).numpy()
        assert where.sum() > 100, "too few images to compare on"
        return scores[where], case.relation.function(theirs, net)[where]

    return lambda case: make(case.name)


@pytest.fixture(scope="session")
def train_outputs(net: Peer) -> Outputs:
    with torch.no_grad():
        return outputs_of(net, net.encoder(net.training[0]), net.training[1])
