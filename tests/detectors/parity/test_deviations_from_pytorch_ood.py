"""Where we deviate from pytorch-ood: each reason is shown."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_ood.detector as peer
import torch
from helpers.pytorch_ood_cases import fitted_openmax, shaping, unclipped
from helpers.pytorch_ood_peer import (
    CLASSES,
    CLIP,
    SCORED,
    Once,
    Peer,
    Scores,
    disagreement,
    outputs_of,
)
from scipy.stats import weibull_min
from torch import nn
from torch.nn import functional as F

import oodbench
from oodbench import Head, Outputs
from oodbench.numerics.likelihood.weibull import TRANSLATION


def test_confident_images_are_tied_there() -> None:
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0], [30.0, 0.0]])
    assert len(peer.MaxSoftmax(None).predict_logits(logits).unique()) == 1
    outputs = Outputs(logits.double(), torch.zeros(3, 1))
    for name in ("baseline", "gen", "entropy"):
        assert oodbench.load_detector(name).score(outputs).diff().min() > 0


def test_clipped_probabilities_count_there(net: Peer) -> None:
    clipped = ~unclipped(net)
    assert clipped.sum() > 5
    outputs = Outputs(net.logits.double(), net.features)
    entropy = (-oodbench.load_detector("entropy").score(outputs)).exp()
    surplus = (peer.Entropy.score(net.logits.double()) - entropy)[clipped]
    assert surplus.min() > 0
    assert surplus.max() < CLASSES * CLIP * -np.log(CLIP)
    gen = (-oodbench.load_detector("gen").score(outputs)).exp()
    assert (CLASSES * peer.GEN.score(net.logits.double()) - gen)[clipped].min() > 0


def test_the_temperature_is_the_likeliest(net: Peer, ours: dict[str, tuple[Scores, Any]]) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*net.validation, strict=True))
    with torch.no_grad():
        logits = net.model(images).double()

    def loss(temperature: float) -> float:
        return F.cross_entropy(logits / temperature, labels).item()

    found = ours["temperature_scaling"][1].fitted_temperature
    theirs = peer.TemperatureScaling(net.model).fit(net.validation).t.item()
    assert loss(found) < loss(theirs)
    for factor in (0.99, 1.01):
        assert loss(found) < loss(factor * found)


def test_a_dead_unit_decides_there(net: Peer, train_outputs: Outputs) -> None:
    """One that is zero on all training images and 0.1 on every other image that is scored."""
    training, asleep = train_outputs.features.clone(), net.features.clone()
    training[:, 3] = asleep[:, 3] = 0
    awake = asleep.clone()
    awake[::2, 3] = 0.1
    for name in ("mahalanobis_single", "relative_mahalanobis"):
        detector: Any = oodbench.load_detector(name)
        detector.fit(Once(outputs_of(net, training, train_outputs.labels)))
        expected, found = (detector.score(outputs_of(net, x)) for x in (asleep, awake))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    other = peer.Mahalanobis(None).fit_features(training, train_outputs.labels)
    before, after = (other.predict_features(x).double() for x in (asleep, awake))
    expected = torch.full((SCORED,), 0.1**2 / 1e-6 / 2, dtype=torch.float64)
    torch.testing.assert_close((after - before)[::2], expected, rtol=0.01, atol=0)
    assert before.max() < 1


def test_activations_that_are_tied_share_the_places(net: Peer) -> None:
    """ASH-B of images with fewer positive values than are kept: theirs takes some of the zeros."""
    features = net.features * (net.features >= net.features.topk(5, dim=1).values[:, -1:])
    order = torch.arange(features.shape[1]).flip(0)
    weight, bias = net.linear.weight.detach(), net.linear.bias.detach()
    detector = oodbench.load_detector("ash", variant="b", percentile=0.65)
    found, theirs = [], []
    for f, w in ((features, weight), (features[:, order], weight[:, order])):
        head = Head("linear", w, bias)
        found.append(detector.score(Outputs(head.logits(f), f, head=head)))
        other = peer.ASH(
            nn.Identity(), lambda z, w=w: z.flatten(1) @ w.T + bias, "ash-b", 0.65
        ).predict_feature_maps(f[:, :, None, None])
        theirs.append(other)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert (theirs[0] - theirs[1]).abs().max() > 0.1, "its score depends on the order of channels"


def test_weibull_fits_are_likelier(net: Peer, ours: dict[str, tuple[Scores, Any]]) -> None:
    _, detector = ours["openmax"]
    tails, theirs = detector.tails(), fitted_openmax(net, detector)._openmax
    _, labels, logits = net.training
    right = logits.argmax(dim=1) == labels
    for index, fit in theirs.distributions.items():
        rows = logits[right & (labels == index)].numpy()
        distances = np.sort(np.linalg.norm(rows - theirs.centers[index], axis=1))
        values = distances[-detector.tail_size :].astype(np.float64) - fit.min_val + fit.translation
        found, other = (
            weibull_min.logpdf(values, shape, scale=scale).sum()
            for shape, scale in (
                (float(tails.shape[index]), float(tails.log_scale[index].exp()) * TRANSLATION),
                (fit.c, fit.scale),
            )
        )
        assert found > other - 1e-6


def test_openmax_sees_the_batch_there(net: Peer, ours: dict[str, tuple[Scores, Any]]) -> None:
    """The distance from a class that no image of the batch is predicted as is left at 0."""
    _, detector = ours["openmax"]
    other = fitted_openmax(net, detector)
    logits = net.logits[:30]
    whole = other.predict_logits(logits)
    alone = torch.cat([other.predict_logits(row[None]) for row in logits])
    assert (whole - alone).abs().max() > 0.1


def test_vra_is_another_method_there(net: Peer, ours: dict[str, tuple[Scores, Any]]) -> None:
    """Low values are raised to the lower threshold, where the paper sets them to zero."""
    found, detector = ours["vra-our-rule"]
    lower, upper = detector.lower_percentile, detector.upper_percentile
    theirs = shaping("VRA", "pooled", lower_percentile=lower, upper_percentile=upper)
    assert disagreement(found, -theirs(net, detector).double().numpy()) > 0.5


def test_gram_of_theirs_is_random(net: Peer) -> None:
    """It holds out a tenth of what it is fitted on, drawn from torch's global generator."""
    scores = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = peer.Gram(net.head, net.layers, CLASSES).fit(net.validation)
        scores.append(-detector(net.images).double().numpy())
    assert disagreement(*scores) > 0.05


def test_vim_without_a_residual(net: Peer, train_outputs: Outputs) -> None:
    features, labels = train_outputs.features, net.training[1]
    dim = features.shape[1]
    other = peer.ViM(None, dim, net.linear.weight, net.linear.bias).fit_features(features, labels)
    assert not other.predict_features(net.features).isfinite().any()
    detector = oodbench.load_detector("vim", dim=dim)
    detector.fit(Once(train_outputs))
    with pytest.raises(ValueError, match="leaves no residual"):
        detector.score(outputs_of(net, net.features))


def test_features_without_direction(net: Peer, train_outputs: Outputs) -> None:
    """Theirs are not a number: NCI at the mean feature, SCALE and ASH-S without activation."""
    zero, mean = torch.zeros(1, 64), train_outputs.features.mean(dim=0, keepdim=True)
    nci = peer.NCI(None, net.linear).fit_features(train_outputs.features)
    assert nci.predict_features(nci.global_mean[None]).isnan().all()
    split = (nn.Identity(), net.splits["pooled"][1])
    for other in (peer.SCALE(*split), peer.ASH(*split)):
        assert other.predict_feature_maps(zero[:, :, None, None]).isnan().all()
    for name in ("nci", "scale", "ash"):
        detector: Any = oodbench.load_detector(name)
        detector.fit(Once(train_outputs))
        for features in (zero, mean):
            assert detector.score(outputs_of(net, features)).isfinite().all()


def test_classes_without_a_boundary_between_them(net: Peer, train_outputs: Outputs) -> None:
    """fDBD of two classes with the same weights and bias: 0 / 0 there."""
    linear = copy.deepcopy(net.linear)
    with torch.no_grad():
        linear.weight[1], linear.bias[1] = linear.weight[0], linear.bias[0]
        logits = linear(net.features)
    either = logits.argmax(dim=1) < 2
    assert either.any()
    theirs = peer.fDBD(None, linear).fit_features(train_outputs.features)
    assert theirs.predict_features(net.features)[either].isnan().all()
    head = Head("linear", linear.weight.detach(), linear.bias.detach())
    detector: Any = oodbench.load_detector("fdbd")
    detector.fit(Once(replace(train_outputs, head=head)))
    assert detector.score(Outputs(logits.double(), net.features, head=head)).isfinite().all()
