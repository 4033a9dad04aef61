"""Raw scores against pytorch-ood 0.4.0 on one trained network, and docs/detectors.md.

Both libraries get the same network, the same images to fit on and the same images to score. Ours
are scored as a run scores them, theirs as its documentation shows, with the network cut up by hand.
There a higher score is more out-of-distribution: `CASES` says for each detector which function of
their score ours is. Where ours deviates on purpose, the settings of a case remove the deviation;
the tests after it show the deviation itself.
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_ood.api
import pytorch_ood.detector as peer
import torch
from numpy.typing import NDArray
from scipy.stats import weibull_min
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench import Head, Outputs
from oodbench.data import ImageArray, load_split
from oodbench.detector import NEEDS, Batches, DetectorInfo
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import pass_outputs, score_split
from oodbench.models.classifier import Classifier, Network
from oodbench.models.feature_map import find_map
from oodbench.numerics.weibull import TRANSLATION
from oodbench.plugins.catalog import Catalog

Make = Callable[..., Any]
Scores = NDArray[np.float64]

VERSION = "0.4.0"
CLASSES = 10
SCORED = 150
"""Images of each kind that are scored."""

CLIP = 1e-7
"""Entropy and GEN of pytorch-ood clip probabilities here."""

INFOS: dict[str, DetectorInfo] = {
    name: status.info for name, status in Catalog().detectors.items() if status.info is not None
}
PEERS: dict[str, type] = {
    name: member
    for name, member in inspect.getmembers(peer, inspect.isclass)
    if issubclass(member, pytorch_ood.api.Detector)
}
PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"


# --- the two sides -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """What both sides see.

    Attributes:
        train: labeled images that detectors are fitted on.
        validation: labeled images that were not trained on.
        scored: in-distribution images, then as many out-of-distribution ones, without labels.
    """

    train: ImageArray
    validation: ImageArray
    scored: ImageArray


class Normalize(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.mean, self.std = classifier.mean, classifier.std

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Peer:
    """The network cut up as pytorch-ood's detectors take it, in evaluation mode, and the data."""

    def __init__(self, classifier: Classifier, images: Images) -> None:
        own = copy.deepcopy(classifier).to(memory_format=torch.contiguous_format).eval()
        stages = [own.network.get_submodule(name) for name in own.network.tap_names]
        self.linear = own.network.head
        self.normalize = Normalize(own)
        self.layers = [nn.Sequential(self.normalize, stages[0]), *stages[1:]]
        pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        backbone = nn.Sequential(*self.layers)
        self.encoder = nn.Sequential(backbone, pool, flatten)
        self.model = nn.Sequential(self.encoder, self.linear)
        self.after_normalizing = nn.Sequential(*stages, pool, flatten, self.linear)
        self.head = nn.Sequential(pool, flatten, self.linear)
        self.splits = {
            "map": (backbone, self.head),
            "pooled": (nn.Sequential(backbone, pool), nn.Sequential(flatten, self.linear)),
        }
        self.train, self.validation = loader(images.train), loader(images.validation)
        self.images = torch.tensor(images.scored.images)
        with torch.no_grad():
            self.logits = self.model(self.images)
            self.features = self.encoder(self.images)

    @functools.cached_property
    def training(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and logits of the training images."""
        images, labels = (torch.cat(parts) for parts in zip(*self.train, strict=True))
        with torch.no_grad():
            return images, labels, self.model(images)


def loader(data: ImageArray) -> DataLoader[Any]:
    tensors = TensorDataset(torch.tensor(data.images), torch.tensor(data.labels))
    return DataLoader(tensors, batch_size=300)


# --- how ours follows from theirs ----------------------------------------------------------------


@dataclass(frozen=True)
class Relation:
    """Our score as a function of theirs.

    Attributes:
        text: as on the page, which says what its letters are.
        function: takes s, and the network and data that it came from.
    """

    text: str
    function: Callable[[Scores, Peer], Scores]


MINUS = Relation("-s", lambda s, net: -s)
MINUS_N = Relation("-N s", lambda s, net: -len(net.training[0]) * s)
LOG_ODDS = Relation("ln((1 - s) / s)", lambda s, net: np.log1p(-s) - np.log(s))


MINUS_LOG = Relation("-ln s", lambda s, net: -np.log(s))
# Of a probability, which is -s.
ODDS_OF_MINUS = Relation("ln(-s / (1 + s))", lambda s, net: np.log(-s) - np.log1p(s))


def everywhere(net: Peer) -> Tensor:
    return torch.ones(len(net.images), dtype=torch.bool)


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours: name of our detector.
        theirs: name of their class.
        scores: their scores; takes the network and data, and our fitted detector.
        relation: what makes ours of them.
        parameters: of our detector.
        settings: what makes the two comparable, beside equal parameters; empty for nothing.
        tolerance: largest `disagreement`. Theirs computes in float32.
        where: the images on which they must agree.
        one_tap: take the last stage's activation as the only tap.
        tag: tells it from a case with the same parameters.
    """

    ours: str
    theirs: str
    scores: Callable[[Peer, Any], Tensor]
    relation: Relation = MINUS
    parameters: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""
    tolerance: float = 1e-5
    where: Callable[[Peer], Tensor] = everywhere
    one_tap: bool = False
    tag: str = ""

    @property
    def name(self) -> str:
        values = [str(value) for value in self.parameters.values()]
        return "-".join([self.ours, *values, *([self.tag] if self.tag else [])])


def disagreement(found: Scores, expected: Scores) -> float:
    """The largest difference, relative to what separates images.

    A difference counts relative to the expected score's distance from the median score plus the
    interquartile range: relative to the score itself it would say little where scores share a large
    constant, as ODIN's at a high temperature.
    """
    assert found.shape == expected.shape
    low, middle, high = np.percentile(expected, [25, 50, 75])
    return float(np.max(np.abs(found - expected) / (high - low + np.abs(expected - middle))))


def complaint(found: Scores, expected: Scores, tolerance: float) -> str:
    """What is wrong with scores; empty if they agree, and differ from image to image."""
    for scores in (found, expected):
        if not np.isfinite(scores).all():
            return "scores are not finite"
        distinct = len(np.unique(scores))
        if distinct < 0.8 * len(scores):
            return f"{distinct} values for {len(scores)} images"
    worst = disagreement(found, expected)
    if worst > tolerance:
        return f"scores differ by {worst:.2g} of what separates images, not {tolerance:.2g}"
    return ""


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
    *(
        Case("nci", "NCI", with_linear("NCI", alpha=alpha), parameters={"alpha": alpha})
        for alpha in (0.0, 0.01)
    ),
    Case("fdbd", "fDBD", with_linear("fDBD")),
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
        *("dismax_entropy", "min_distance", "mmles"),
        *("GMM", "GradUncertainty", "LTS", "MCD", "MCM", "NACUE", "PNML", "WeightedEBO"),
    ),
    NO_COUNTERPART,
)
"""Detectors of either library that are not compared, and why."""


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


# --- the comparison ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(digits: Make) -> Images:
    """Digits, and letters as what is out-of-distribution."""
    letters = load_split(Catalog().dataset("letters"), "test").images[:SCORED]
    scored = np.concatenate([digits("test", SCORED).images, letters])
    return Images(digits("train"), digits("validation"), ImageArray(scored))


@pytest.fixture(scope="module")
def net(trained: Classifier, images: Images) -> Peer:
    return Peer(trained, images)


@pytest.fixture(scope="module")
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
                validation=need == "validation",
            )
            assert not any(fit.error for fit in fits.values()), fits
        scorers = {case.name: detectors[case.name] for case in cases}
        result = score_split(runner, images.scored, scorers, dataset="both", check_batches=True)
    assert not result.errors, result.errors
    return {name: (scores, detectors[name]) for name, scores in result.scores.items()}


@pytest.fixture(scope="module")
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


# --- the deviations ------------------------------------------------------------------------------


def outputs_of(net: Peer, features: Tensor, labels: Tensor | None = None) -> Outputs:
    """What our detectors see where the last layer's input is `features`."""
    head = Head("linear", net.linear.weight.detach(), net.linear.bias.detach())
    return Outputs(head.logits(features), features, {}, labels, head)


class Once(Batches):
    """All of a split in one batch."""

    num_classes = CLASSES

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def __iter__(self) -> Iterator[Outputs]:
        yield self.outputs


@pytest.fixture(scope="module")
def train_outputs(net: Peer) -> Outputs:
    with torch.no_grad():
        return outputs_of(net, net.encoder(net.training[0]), net.training[1])


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


# --- docs/detectors.md ---------------------------------------------------------------------------

DEFAULTS = (
    ("ash", "percentile", "percentile"),
    ("dice", "p", "p"),
    ("gen", "top_m", "M"),
    ("gram", "powers", "num_poles_list"),
    ("nci", "alpha", "alpha"),
    ("openmax", "tail_size", "tailsize"),
    ("scale", "percentile", "percentile"),
    ("vim", "dim", "d"),
    ("vra", "lower_percentile", "lower_percentile"),
    ("vra", "upper_percentile", "upper_percentile"),
)
"""Our detector, its parameter, theirs: the same thing with another default."""


def section(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the page, cell by cell."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    (part,) = (part for part in parts if part.startswith(heading + "\n"))
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown(value: object) -> str:
    """A value of a parameter, as on the page."""
    if value is inspect.Parameter.empty:
        return "required"
    return (
        f"{value:g}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_the_page_lists_every_detector_once() -> None:
    expected = {
        name: [
            code(name),
            info.title,
            f"[{info.reference}]({info.url})",
            code(*(need for need in NEEDS if need in info.needs)) or "logits only",
            info.cost_class,
        ]
        for name, info in INFOS.items()
    }
    check_rows(section("All detectors"), sorted(expected.values()))


def test_the_page_lists_every_parameter_once() -> None:
    expected = []
    for name, info in sorted(INFOS.items()):
        for parameter, default in oodbench.load_detector(name).parameters.items():
            tried = ", ".join(map(shown, info.search_space.get(parameter, ())))
            expected.append([code(name), code(parameter), shown(default), tried or "-"])
    check_rows(section("Parameters"), expected)


def test_the_page_lists_every_default_that_differs() -> None:
    expected = []
    for name, ours, theirs in DEFAULTS:
        mine, its = shown(defaults(name)[ours]), shown(defaults(peer_of(name))[theirs])
        assert mine != its
        expected.append([code(name), f"`{ours}` {mine}", f"`{theirs}` {its}"])
    check_rows([row[:3] for row in section("Defaults that differ")], expected)
    for name in {case.ours for case in CASES}:
        mine, its = defaults(name), defaults(peer_of(name))
        its["variant"] = str(its.get("variant")).removeprefix("ash-")  # the same, spelt otherwise
        differing = {shared for shared in mine.keys() & its.keys() if mine[shared] != its[shared]}
        assert differing <= {ours for listed, ours, _ in DEFAULTS if listed == name}, name


def peer_of(name: str) -> str:
    """Their class for one of our detectors; the first that it is compared with."""
    return next(case.theirs for case in CASES if case.ours == name)


def defaults(name: str) -> dict[str, object]:
    """Parameter -> default, of a detector of ours or of theirs."""
    made = PEERS[name] if name in PEERS else type(oodbench.load_detector(name))
    return {key: given.default for key, given in inspect.signature(made).parameters.items()}


def test_the_page_reports_every_comparison(both: Make) -> None:
    worst: dict[tuple[str, ...], float] = {}
    for case in CASES:
        key = (code(case.ours), code(case.theirs), code(case.relation.text), case.settings or "-")
        worst[key] = max(worst.get(key, 0.0), disagreement(*both(case)))
    rows = section("Agreement with pytorch-ood 0.4.0")
    check_rows([row[:4] for row in rows], [list(key) for key in worst])
    for row in rows:
        assert worst[tuple(row[:4])] < 10 * float(row[4]), row


def test_the_page_names_what_is_not_compared() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in EXCUSED:
        assert f"`{name}`" in text


def check_rows(found: list[list[str]], expected: list[list[str]]) -> None:
    missing = ["| " + " | ".join(row) + " |" for row in expected if row not in found]
    surplus = ["| " + " | ".join(row) + " |" for row in found if row not in expected]
    difference = "\n".join(["missing rows:", *missing, "surplus rows:", *surplus])
    assert not [*missing, *surplus], f"{PAGE.name}\n{difference}"
    assert len(found) == len(expected), "a row is there twice"
