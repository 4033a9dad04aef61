"""What is compared with pytorch-ood: their scores, one case for each setting."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_ood.detector as peer
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from helpers.pytorch_ood_peer import (
    CLASSES,
    CLIP,
    LOG_ODDS,
    MINUS,
    MINUS_LOG,
    MINUS_N,
    ODDS_OF_MINUS,
    PEERS,
    Case,
    Peer,
    Relation,
    everywhere,
)
from oodbench.numerics.likelihood.weibull import TRANSLATION

# --- their scores --------------------------------------------------------------------------------


def logits_only(name: str, **parameters: Any) -> Callable[[Peer, Any], Tensor]:
    return lambda net, ours: PEERS[name](net.model, **parameters)(net.images)


def fitted(name: str, part: str, **parameters: Any) -> Callable[[Peer, Any], Tensor]:
    """A detector that takes one part of the network and is fitted on the training images."""
    return lambda net, ours: PEERS[name](getattr(net, part), **parameters).fit(net.train)(
        net.images
    )


def with_linear(name: str, **parameters: Any) -> Callable[[Peer, Any], Tensor]:
    """A detector that takes the encoder and the last layer, and is fitted."""
    return lambda net, ours: PEERS[name](net.encoder, net.linear, **parameters).fit(net.train)(
        net.images
    )


def shaping(name: str, place: str, **parameters: Any) -> Callable[[Peer, Any], Tensor]:
    """A detector that changes activations; `fit` does nothing where none is needed."""
    return lambda net, ours: PEERS[name](*net.splits[place], **parameters).fit(net.train)(
        net.images
    )


def odin(epsilon: float, temperature: float) -> Callable[[Peer, Any], Tensor]:
    return lambda net, ours: peer.ODIN(
        net.after_normalizing,
        eps=epsilon,
        temperature=temperature,
        norm_std=net.normalize.std.flatten().tolist(),
    )(net.normalize(net.images))


def temperature_scaling(net: Peer, ours: Any) -> Tensor:
    detector = peer.TemperatureScaling(net.model).fit(net.validation)
    with torch.no_grad():
        detector.t.fill_(ours.fitted_temperature)
    return detector(net.images)


def kl_matching(net: Peer, ours: Any) -> Tensor:
    return peer.KLMatching(net.model).fit(net.validation)(net.images)


def gradnorm(net: Peer, ours: Any) -> Tensor:
    detector = peer.GradNorm(net.model, param_filter=lambda name: name == "1.weight")
    return detector(net.images)


def grad_uncertainty(net: Peer, ours: Any) -> Tensor:
    last = ("1.weight", "1.bias")
    return peer.GradUncertainty(net.model, param_filter=lambda name: name in last)(net.images)


def dice(p: float) -> Callable[[Peer, Any], Tensor]:
    return lambda net, ours: peer.DICE(net.encoder, net.linear.weight, net.linear.bias, p=p).fit(
        net.train
    )(net.images)


def fitted_vim(net: Peer, dim: int, *, exact: bool) -> Any:
    """Theirs; `exact`: with principal axes from float64 instead of float32."""
    detector = peer.ViM(net.encoder, dim, net.linear.weight, net.linear.bias).fit(net.train)
    if exact:
        with torch.no_grad():
            features = net.encoder(net.training[0])
        axes = torch.linalg.svd((features - detector.u).double()).Vh
        detector.principal_subspace = axes[dim:].T.float()
        residuals = ((features - detector.u) @ detector.principal_subspace).norm(dim=1)
        detector.alpha = (net.training[2].amax(dim=1).mean() / residuals.mean()).item()
    return detector


def vim(dim: int, *, exact: bool) -> Callable[[Peer, Any], Tensor]:
    return lambda net, ours: fitted_vim(net, dim, exact=exact)(net.images)


def residual(dim: int) -> Callable[[Peer, Any], Tensor]:
    def scores(net: Peer, ours: Any) -> Tensor:
        detector = fitted_vim(net, dim, exact=True)
        return (detector(net.images) + net.logits.logsumexp(dim=1)) / detector.alpha

    return scores


def gmm(net: Peer, ours: Any) -> Tensor:
    """Theirs with our covariances: in the directions in which the training features vary."""
    detector = peer.GMM(net.encoder).fit(net.train)
    whitening, factors = ours.gaussians.space.whitening, ours.gaussians.factors
    square_roots = factors @ whitening.T
    dropped = whitening.shape[0] - whitening.shape[1]
    detector._precision = square_roots.mT @ square_roots
    log_det = -2 * factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    detector._log_det = log_det - 2 * whitening.norm(dim=0).log().sum()
    detector._log_det -= dropped * np.log(2 * np.pi)
    return detector(net.images)


def openmax(*, own_weibull: bool) -> Callable[[Peer, Any], Tensor]:
    def scores(net: Peer, ours: Any) -> Tensor:
        detector = fitted_openmax(net, ours)
        if own_weibull:
            tails = ours.tails()
            for index, distribution in detector._openmax.distributions.items():
                distribution.c = float(tails.shape[index])
                distribution.scale = float(tails.log_scale[index].exp()) * TRANSLATION
        return detector(net.images)

    return scores


def fitted_openmax(net: Peer, ours: Any) -> Any:
    """Theirs, fitted on the training images that are classified right; a copy."""
    return copy.deepcopy(_fitted_openmax(net, ours.tail_size, ours.alpha))


@functools.cache
def _fitted_openmax(net: Peer, tail_size: int, alpha: int) -> Any:
    _, labels, logits = net.training
    right = logits.argmax(dim=1) == labels
    detector = peer.OpenMax(net.model, tailsize=tail_size, alpha=alpha)
    return detector.fit_logits(logits[right], labels[right])


def gram(net: Peer, ours: Any) -> Tensor:
    poles = list(range(1, ours.powers + 1))
    detector = peer.Gram(net.head, net.layers, CLASSES, poles)
    detector.validation_fraction = 0.0
    images, _, logits = net.training
    predicted = TensorDataset(images, logits.argmax(dim=1))
    detector.fit(DataLoader(predicted, batch_size=300))
    detector.layer_norm = torch.stack(list(ours.expected.values())).float()
    return detector(net.images)


def vra_with_our_rule(net: Peer, ours: Any) -> Tensor:
    """Their thresholds; values below the lower one are set to zero."""
    lower, upper = ours.lower_percentile, ours.upper_percentile
    backbone, head = net.splits["pooled"]
    detector = peer.VRA(backbone, head, lower_percentile=lower, upper_percentile=upper)
    detector.fit(net.train)
    low, high = detector._lower_threshold, detector._upper_threshold
    detector._clip = lambda z: torch.where(z < low, 0, z.minimum(high))
    return detector(net.images)


def pnml(net: Peer, ours: Any) -> Tensor:
    """Theirs, with the pseudo-inverse from float64 instead of float32."""
    detector = peer.PNML(net.encoder, net.linear).fit(net.train)
    with torch.no_grad():
        features = torch.nn.functional.normalize(net.encoder(net.training[0]).double())
    detector._feature_projector = torch.linalg.pinv(features.T @ features).float()
    return detector(net.images)


# --- the table -----------------------------------------------------------------------------------


def unclipped(net: Peer) -> Tensor:
    """Images whose probabilities all are where theirs does not clip them."""
    p = net.logits.double().softmax(dim=1)
    return (p.amin(dim=1) > CLIP) & (p.amax(dim=1) < 1 - CLIP)


def unsaturated(net: Peer) -> Tensor:
    """Images whose largest probability, at half the temperature, leaves digits to its complement.

    The temperature that is found on these data is between a half and one.
    """
    return (net.logits.double() / 0.5).softmax(dim=1).amax(dim=1) < 0.999


def enough_positive(place: str, percentile: float) -> Callable[[Peer], Tensor]:
    """Images with as many positive activations as are kept: no choice among ties."""

    def where(net: Peer) -> Tensor:
        with torch.no_grad():
            values = net.splits[place][0](net.images).flatten(1)
        kept = values.shape[1] - round(values.shape[1] * percentile)
        return (values > 0).sum(dim=1) >= kept

    return where


def above_lowest(net: Peer) -> Tensor:
    """Images without a feature below all those of the training images."""
    with torch.no_grad():
        lowest = net.encoder(net.training[0]).amin(dim=0)
    return (net.features >= lowest).all(dim=1)


PLACES = ("map", "pooled")
UNCLIPPED = "images with no probability outside [1e-7, 1 - 1e-7]"
UNSATURATED = "images with no probability above 0.999"
AXES = "its principal axes in float64"
BOTH_PLACES = "on the map, and pooled"

CASES = (
    Case(
        "baseline",
        "MaxSoftmax",
        logits_only("MaxSoftmax"),
        ODDS_OF_MINUS,
        settings=UNSATURATED,
        tolerance=2e-4,
        where=unsaturated,
    ),
    Case("max_logit", "MaxLogit", logits_only("MaxLogit")),
    Case("energy", "EnergyBased", logits_only("EnergyBased")),
    Case(
        "energy",
        "EnergyBased",
        logits_only("EnergyBased", t=10.0),
        parameters={"temperature": 10.0},
        tolerance=1e-4,
    ),
    Case(
        "entropy",
        "Entropy",
        logits_only("Entropy"),
        MINUS_LOG,
        settings=UNCLIPPED,
        where=unclipped,
    ),
    *(
        Case(
            "gen",
            "GEN",
            logits_only("GEN", gamma=gamma, M=m),
            Relation("-ln(min(M, C) s)", lambda s, net, m=m: -np.log(min(m, CLASSES) * s)),
            {"gamma": gamma, "top_m": m},
            UNCLIPPED,
            tolerance=2e-4,
            where=unclipped,
        )
        for gamma, m in ((0.1, 100), (0.1, 4), (0.5, 10))
    ),
    *(
        Case(
            "odin",
            "ODIN",
            odin(epsilon, temperature),
            ODDS_OF_MINUS,
            parameters={"epsilon": epsilon, "temperature": temperature, "sign_zero": "zero"},
            settings=f"its `norm_std` given; our `sign_zero` zero{settings}",
            tolerance=tolerance,
            where=where,
        )
        for epsilon, temperature, settings, tolerance, where in (
            (0.0014, 1000.0, "", 3e-4, everywhere),
            (0.05, 1000.0, "", 3e-4, everywhere),
            (0.05, 1.0, f"; {UNSATURATED}", 2e-3, unsaturated),
        )
    ),
    Case(
        "temperature_scaling",
        "TemperatureScaling",
        temperature_scaling,
        ODDS_OF_MINUS,
        settings=f"its T set to ours; {UNSATURATED}",
        tolerance=2e-4,
        where=unsaturated,
    ),
    Case(
        "kl_matching",
        "KLMatching",
        kl_matching,
        MINUS_LOG,
        settings="both fitted on validation images",
        tolerance=2e-4,
    ),
    Case("mahalanobis_single", "Mahalanobis", fitted("Mahalanobis", "encoder"), MINUS_N),
    Case("relative_mahalanobis", "RMD", fitted("RMD", "encoder"), MINUS_N, tolerance=2e-4),
    Case(
        "mahalanobis",
        "MultiMahalanobis",
        fitted("MultiMahalanobis", "layers"),
        MINUS_N,
        settings="without a step; without regression",
        tolerance=5e-5,
    ),
    Case(
        "mahalanobis",
        "MahalanobisODIN",
        fitted("MahalanobisODIN", "encoder", eps=0.01),
        MINUS_N,
        {"epsilon": 0.01, "sign_zero": "zero"},
        "last tap alone; without regression; our `sign_zero` zero",
        tolerance=5e-5,
        one_tap=True,
        tag="one-tap",
    ),
    Case(
        "mahalanobis_plus",
        "Mahalanobis",
        fitted("Mahalanobis", "unit_encoder"),
        Relation("-2 N s", lambda s, net: 2 * MINUS_N.function(s, net)),
        settings="its features divided by their length",
        tolerance=2e-4,
    ),
    Case(
        "relative_mahalanobis_plus",
        "RMD",
        fitted("RMD", "unit_encoder"),
        MINUS_N,
        settings="its features divided by their length",
        tolerance=2e-4,
    ),
    Case("gmm", "GMM", gmm, settings="its covariances set to ours"),
    *(Case("knn", "KNN", fitted("KNN", "encoder", k=k), parameters={"k": k}) for k in (1, 50)),
    *(
        Case("nnguide", "NNGuide", with_linear("NNGuide", k=k), parameters={"k": k})
        for k in (10, 100)
    ),
    Case("vim", "ViM", vim(32, exact=False), parameters={"dim": 32}, tolerance=2e-3),
    *(
        Case("vim", "ViM", vim(dim, exact=True), MINUS, {"dim": dim}, AXES, 5e-5, tag="exact")
        for dim in (10, 32, 60)
    ),
    Case(
        "residual",
        "ViM",
        residual(32),
        Relation("-(s + E) / alpha", lambda s, net: -s),  # `residual` does the rest
        {"dim": 32},
        f"{AXES}; E = log sum exp z",
        tolerance=5e-5,
    ),
    *(
        Case("react", "ReAct", shaping("ReAct", on), MINUS, {"on": on}, BOTH_PLACES)
        for on in PLACES
    ),
    *(
        Case(
            "ash",
            "ASH",
            shaping("ASH", on, variant=f"ash-{variant}", percentile=percentile),
            parameters={"variant": variant, "percentile": percentile, "on": on},
            settings=settings,
            where=enough_positive(on, percentile) if variant == "b" else everywhere,
        )
        for variant, settings in (
            ("s", f"variant s, {BOTH_PLACES}"),
            ("p", f"variant p, {BOTH_PLACES}"),
            ("b", "variant b; images of which no zero is kept"),
        )
        for on in PLACES
        for percentile in (0.65, 0.9)
    ),
    *(
        Case(
            "scale",
            "SCALE",
            shaping("SCALE", on, percentile=0.85),
            parameters={"on": on, "percentile": 0.85},
            settings=BOTH_PLACES,
            tolerance=2e-5,
        )
        for on in PLACES
    ),
    *(Case("dice", "DICE", dice(p), parameters={"p": p}) for p in (0.5, 0.9)),
    Case("she", "SHE", with_linear("SHE")),
    Case(
        "gradnorm", "GradNorm", gradnorm, settings="its `param_filter` on the last layer's weights"
    ),
    Case(
        "grad_uncertainty",
        "GradUncertainty",
        grad_uncertainty,
        settings="its `param_filter` on the last layer",
    ),
    *(
        Case("nci", "NCI", with_linear("NCI", alpha=alpha), parameters={"alpha": alpha})
        for alpha in (0.0, 0.01)
    ),
    Case("fdbd", "fDBD", with_linear("fDBD")),
    *(
        Case("lts", "LTS", with_linear("LTS", p=1 - percentile), MINUS, {"percentile": percentile})
        for percentile in (0.65, 0.95)
    ),
    Case("pnml", "PNML", pnml, MINUS_LOG, settings="its pseudo-inverse in float64", tolerance=2e-4),
    Case("rankfeat", "RankFeat", shaping("RankFeat", "map"), tolerance=1e-4),
    Case(
        "openmax",
        "OpenMax",
        openmax(own_weibull=True),
        LOG_ODDS,
        settings="fitted on images classified right; its Weibull parameters set to ours",
        tag="own-weibull",
        tolerance=2e-5,
    ),
    Case(
        "openmax",
        "OpenMax",
        openmax(own_weibull=False),
        LOG_ODDS,
        settings="fitted on images classified right",
        tolerance=4e-3,
    ),
    Case(
        "gram",
        "Gram",
        gram,
        parameters={"layers": "taps", "divide_by_confidence": False},
        settings="same orders; our `layers` taps, not divided by the confidence; fitted on "
        "predicted classes; its expected deviations set to ours",
        tolerance=5e-5,
    ),
    Case(
        "vra",
        "VRA",
        shaping("VRA", "pooled", lower_percentile=0.0, upper_percentile=0.95),
        parameters={"lower_percentile": 0.0, "upper_percentile": 0.95},
        settings="lower percentile 0; images with no feature below its smallest training value",
        where=above_lowest,
    ),
    Case(
        "vra",
        "VRA",
        vra_with_our_rule,
        settings="its rule set to ours, between its thresholds",
        tag="our-rule",
    ),
)

NO_COUNTERPART = "the other library has no such detector"

EXCUSED = dict.fromkeys(
    (
        *("adascale_a", "adascale_l", "iodin"),
        *("dismax_entropy", "min_distance", "mmles"),
        *("gl_mcm", "neglabel"),
        *("caref", "cadref", "optfs", "weiper"),
        *("gini", "relation", "ensemble", "neco", "cop", "corp", "sirc"),
        *("cosine", "rcos", "ssd"),
        *("rotpred", "WeightedEBO"),
    ),
    NO_COUNTERPART,
)
EXCUSED |= dict.fromkeys(("nac_ue", "NACUE"), "other states, bins and layers")
EXCUSED |= dict.fromkeys(("mcd", "MCD"), "both draw units at random, from other generators")
EXCUSED |= dict.fromkeys(
    ("mcm", "MCM"), "it needs text features: see tests/detectors/test_detectors_language.py"
)
"""Detectors of either library that are not compared, and why."""
