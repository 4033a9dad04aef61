"""Ensembles of networks: their logits, and detector `ensemble`, from one shared forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.plans import benchmark, plan
from helpers.user_network import MEAN, STD, Net, normalized, pairs
from torch import nn

import oodbench
from oodbench import Outputs, UserError
from oodbench.plugins.catalog import Catalog


def members(count: int = 3) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [Net().eval() for _ in range(count)]


def test_logits_of_an_ensemble() -> None:
    """Their softmax is the mean of the members', their log-sum-exp the mean of the members'."""
    networks = [net.double() for net in members()]
    images = normalized(pairs(8, 1).tensors[0]).double()
    with torch.no_grad():
        logits = oodbench.models.Ensemble(networks)(images)
        each = torch.stack([net(images) for net in networks], dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), each.softmax(dim=2).mean(dim=1))
    torch.testing.assert_close(logits.logsumexp(dim=1), each.logsumexp(dim=2).mean(dim=1))


@pytest.mark.parametrize("statistic", ["entropy", "max_probability"])
def test_scores_by_hand(statistic: str) -> None:
    """As of the mean probabilities; the networks run once, and come back as they were."""
    networks = members()
    calls: list[int] = []
    handle = networks[1].conv1.register_forward_hook(lambda *given: calls.append(1))
    ensemble = oodbench.models.Ensemble(networks).train()
    detector = oodbench.load_detector("ensemble", statistic=statistic)
    data = pairs(60, 1), pairs(40, 2, kind="noise")
    result = oodbench.evaluate(
        ensemble,
        {"deep": detector, "MSP": "baseline"},
        id_data=data[0],
        ood_data={"noise": data[1]},
        normalization=(MEAN, STD),
        costs=True,
    )
    handle.remove()
    assert not result.skipped
    assert all(net.training for net in networks)
    costs = {record.method: record for record in result.costs}
    assert costs["deep"].forwards_per_image == costs["MSP"].forwards_per_image == 1
    ensemble.eval()
    with torch.no_grad():
        logits = torch.stack([net(normalized(data[0].tensors[0])) for net in networks], dim=1)
    p = logits.double().softmax(dim=2).mean(dim=1).numpy()
    if statistic == "entropy":
        expected = -np.log(-(p * np.log(p)).sum(axis=1))
    else:
        expected = np.log(p.max(axis=1) / (1 - p.max(axis=1)))
    np.testing.assert_allclose(result.scores["deep"]["id"], expected, rtol=1e-4, atol=1e-5)


def test_single_networks_have_no_members() -> None:
    result = oodbench.evaluate(
        members(1)[0],
        ["ensemble", "entropy"],
        id_data=pairs(60, 1),
        ood_data={"noise": pairs(40, 2, kind="noise")},
        normalization=(MEAN, STD),
    )
    (reason,) = result.skipped.values()
    assert reason == "needs an oodbench.models.Ensemble; the model is a single network"
    known = {name: Catalog().detectors[name] for name in ("baseline", "ensemble")}
    spec = benchmark(methods={}, matrix={"models": ["SoftMax"], "detectors": "all"}, exclude=[])
    (skip,) = plan(spec, known=known).skips
    assert skip.reason == "needs an oodbench.models.Ensemble; SoftMax is a single network"


def test_bad_members() -> None:
    with pytest.raises(UserError, match="1 networks are no ensemble"):
        oodbench.models.Ensemble(members(1))
    with pytest.raises(UserError, match="member 0 is a str"):
        oodbench.models.Ensemble(["net", *members(2)])  # type: ignore[list-item]


def test_confident_members_are_not_tied() -> None:
    logits = torch.tensor([[[1000.0, 0], [990, 0]], [[1001, 0], [991, 0]]]).double()
    outputs = Outputs(torch.zeros(2, 2), torch.zeros(2, 1), sampled_logits=logits)
    found = oodbench.load_detector("ensemble", statistic="max_probability").score(outputs)
    torch.testing.assert_close(found, torch.tensor([990.0, 991.0]).double() + np.log(2))
