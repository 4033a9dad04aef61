"""Ensembles of networks: their logits, and detector `ensemble`, from one shared forward pass."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import benchmark, plan
from helpers.user_network import MEAN, STD, Net, normalized, pairs
from torch import Tensor, nn

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


class Returning(nn.Module):
    """A network with its logits in a larger value."""

    def __init__(self, net: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.net(images))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, z.sum()),
        lambda z: {"features": z.T, "logits": z},
        lambda z: z[:, :, None],
        lambda z: SimpleNamespace(logits=z),
    ],
)
def test_members_return_what_single_networks_may(wrap: Callable[[Tensor], Any]) -> None:
    data = {"id_data": pairs(30, 1), "ood_data": {"noise": pairs(20, 2, kind="noise")}}
    scores = []
    for networks in (members(2), [Returning(net, wrap) for net in members(2)]):
        ensemble = oodbench.models.Ensemble(networks)
        result = oodbench.evaluate(ensemble, "ensemble", normalization=(MEAN, STD), **data)
        scores.append(result.scores["ensemble"]["id"])
    np.testing.assert_allclose(*scores, rtol=1e-6)


def test_bad_members() -> None:
    for networks, message in (
        (members(1), "1 networks are no ensemble"),
        (["net", *members(2)], "member 0 is a str"),
        (nn.Sequential(*members(2)), "a Sequential is no list of networks"),
        (members(1)[0], "a Net is no list of networks"),
        ([*members(1), members(1)[0].half()], "types: float32, float16"),
    ):
        with pytest.raises(UserError, match=message):
            oodbench.models.Ensemble(networks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: z[:, 1:], "different numbers of classes: 4, 3"),
        (lambda z: z[:, 0], r"returned a Tensor of shape \[\d+\], not logits"),
        (lambda z: "logits", "returned a str, not logits"),
        (lambda z: {"a": z, "b": z}, "several entries may be the logits"),
    ],
)
def test_members_without_logits_are_named(wrap: Callable[[Tensor], Any], message: str) -> None:
    net, other = members(2)
    ensemble = oodbench.models.Ensemble(each for each in (net, Returning(other, wrap)))
    with pytest.raises(UserError, match=f"^Ensemble: .*{message}"):
        oodbench.evaluate(ensemble, "ensemble", id_data=pairs(30, 1), ood_data={"x": pairs(20, 2)})


def test_confident_members_are_not_tied() -> None:
    logits = torch.tensor([[[1000.0, 0], [990, 0]], [[1001, 0], [991, 0]]]).double()
    outputs = Outputs(torch.zeros(2, 2), torch.zeros(2, 1), sampled_logits=logits)
    found = oodbench.load_detector("ensemble", statistic="max_probability").score(outputs)
    torch.testing.assert_close(found, torch.tensor([990.0, 991.0]).double() + np.log(2))
