"""Raw scores against pytorch-ood 0.4.0 on one trained network.

Both libraries get the same network, the same images to fit on and the same images to score. Ours
are scored as a run scores them, theirs as its documentation shows, with the network cut up by hand.
There a higher score is more out-of-distribution: `CASES` says for each detector which function of
their score ours is. Where ours deviates on purpose, the settings of a case remove the deviation;
`test_deviations_from_pytorch_ood.py` shows the deviation itself.
"""

from __future__ import annotations

import importlib.metadata
import re

import numpy as np
import pytest
import torch
from helpers.pytorch_ood_cases import CASES, EXCUSED, NO_COUNTERPART
from helpers.pytorch_ood_peer import INFOS, PEERS, VERSION, Case, Make, Peer, complaint

from oodbench.engine.passes.modes import evaluating
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog


def test_every_detector_is_compared_or_excused() -> None:
    assert importlib.metadata.version("pytorch-ood") == VERSION
    both = {*INFOS, *PEERS}
    assert {"baseline", "MaxSoftmax"} <= both, "the registries are empty"
    assert INFOS.keys() == Catalog().entries["detector"].keys(), "a detector's file is broken"
    compared = {name for case in CASES for name in (case.ours, case.theirs)}
    assert compared | EXCUSED.keys() == both
    assert not compared & EXCUSED.keys()


def test_what_both_have_has_another_excuse() -> None:
    """Both have a detector if it has the same name, or is from the same paper."""

    def keys(*names: str, url: str) -> set[str]:
        paper = re.search(r"(\d{4}\.\d{5}|id=\w+)", url)
        return {name.lower().replace("_", "") for name in names} | {paper[0] if paper else url}

    ours = {name: keys(name, info.label, url=info.url) for name, info in INFOS.items()}
    theirs = {
        name: keys(name, url=member.info.paper.url if member.info.paper else "")
        for name, member in PEERS.items()
    }
    common = {(a, b) for a in ours for b in theirs if ours[a] & theirs[b]}
    assert {
        ("ash", "ASH"),
        ("mahalanobis_single", "Mahalanobis"),
        ("max_logit", "MaxLogit"),
    } < common
    for pair in sorted(common):
        assert all(EXCUSED.get(name) != NO_COUNTERPART for name in pair), pair


def test_the_peer_sees_the_same_network(trained: Classifier, net: Peer) -> None:
    with torch.no_grad(), evaluating(trained):
        expected = trained(net.images)
        torch.testing.assert_close(net.logits, expected, rtol=1e-5, atol=1e-5)
        for backbone, head in net.splits.values():
            torch.testing.assert_close(head(backbone(net.images)), expected, rtol=1e-5, atol=1e-5)
    assert net.features.min() >= 0
    assert 0.1 < net.features.mean() < 10
    right = net.training[2].argmax(dim=1) == net.training[1]
    assert right.double().mean() > 0.9, "the network has not learnt"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agreement(case: Case, both: Make) -> None:
    found, expected = both(case)
    assert not complaint(found, expected, case.tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_score_would_be_seen(case: Case, both: Make) -> None:
    found, expected = both(case)
    low, middle, high = np.percentile(expected, [25, 50, 75])
    image = np.arange(len(found)) == np.abs(expected - middle).argmin()
    wrong = {
        "sign": -found,
        "factor": 1.01 * found,
        "constant": found + 0.02 * (high - low),
        "order": np.roll(found, 1),
        "score of one image": found + 0.02 * (high - low) * image,
        "number": np.where(image, np.nan, found),
        "constant score": np.full_like(found, middle),
    }
    for what, scores in wrong.items():
        assert complaint(scores, expected, case.tolerance), f"a wrong {what} is not seen"
