"""The same network for pytorch-ood's detectors, and how our scores follow from theirs."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_ood.api
import pytorch_ood.detector as peer
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oodbench import Head, Outputs
from oodbench.data import ImageArray
from oodbench.detector import Batches, DetectorInfo
from oodbench.models.classifier import Classifier
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
        self.unit_encoder = nn.Sequential(self.encoder, UnitLength())
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


class UnitLength(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features, dim=1)


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
