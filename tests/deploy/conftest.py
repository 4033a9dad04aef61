"""Networks, and all detectors that can run on them, fitted once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from oodbench import Detector, FittedDetector
from oodbench.deploy.checked_runner import CheckedRunner
from oodbench.deploy.restoration import reproducible
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import ID, EvaluationData
from oodbench.engine.scoring import score_split
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import TuningSpec
from oodbench.testing.small_network import SmallEnsemble, small_classifier, small_images
from oodbench.user_data.dataloader import LoadedImages
from oodbench.user_model.data_sets import DataSets
from oodbench.user_model.fitted_methods import deployed_model, fitted_method
from oodbench.user_model.model_adaptation import taken_over
from oodbench.user_model.requested_detectors import detectors_of, methods_of, requested_detectors
from oodbench.user_model.session import Session

CPU = torch.device("cpu")
SCALING = (0.5, 0.5), (0.25, 0.25)


def data(count: int, seed: int) -> TensorDataset:
    made = small_images(count, seed)
    return TensorDataset(torch.from_numpy(made.images), torch.from_numpy(made.labels))


class SmallViT(nn.Module):
    """A vision transformer for images of 2 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import VisionTransformer

        self.stem = nn.Conv2d(2, 3, 1)
        self.vit = VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=3, dropout=0.1)

    @torch.no_grad()
    def tell_classes(self) -> None:
        """Give the last layer the linear rule for classes with one covariance."""
        made, head = small_images(300, 0), self.vit.heads.head
        features: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
        self.eval()((torch.from_numpy(made.images) - 0.5) / 0.25)
        handle.remove()
        labels = torch.from_numpy(made.labels)
        means = torch.stack([features[0][labels == c].mean(dim=0) for c in range(3)])
        centered = features[0] - means[labels]
        covariance = centered.T @ centered / len(centered) + 1e-4 * torch.eye(16)
        head.weight.copy_(0.2 * torch.linalg.solve(covariance, means.T).T)
        head.bias.copy_(-0.5 * (head.weight * means).sum(dim=1))

    def forward(self, images: Tensor) -> Any:
        return self.vit(self.stem(images))


def _vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallViT()
        network.tell_classes()
        return network.train()


def _small(kind: Any) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(small_classifier(kind).network)


def _ensemble() -> nn.Module:
    first, second = _small("linear")(), _small("linear")()
    for parameter in second.parameters():
        parameter.data.mul_(1.1)
    return SmallEnsemble(first, second)  # type: ignore[arg-type]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": _small("linear"),
    "vit": _vit,
    "dismax": _small("dismax"),
    "ensemble": _ensemble,
}


@dataclass(frozen=True)
class Fitted:
    """Detectors that were fitted on a network in one go."""

    model: nn.Module
    detectors: dict[str, FittedDetector]

    def scores(self, detectors: dict[str, Detector]) -> dict[str, NDArray[np.float64]]:
        """Scores of 40 images by several detectors, in one pass."""
        model = next(iter(self.detectors.values())).model
        source = LoadedImages(data(40, 4), "images", labeled=False)
        with model.ready() as classifier:
            runner = CheckedRunner(classifier, batch_size=40)
            methods = [Method(name, "m", each.info) for name, each in detectors.items()]
            evaluation = ModelEvaluation(
                runner,
                methods,
                detectors,
                EvaluationData({ID: source}, {}, None),
                3,
                tuning=TuningSpec(),
                seed=0,
                report=lambda text: None,
            )
            evaluation.prepare()
            with runner.attached():
                result = score_split(runner, source, detectors, dataset="images")
        # RankFeat finds no map in the transformer.
        assert result.errors.keys() <= {"rankfeat"}
        return result.scores


@cache
def fitted_on(network: str) -> Fitted:
    """All detectors that can run on a network, fitted in one session."""
    module = NETWORKS[network]()
    catalog = Catalog()
    asked, _ = requested_detectors("ensemble" if network == "ensemble" else "all", catalog, "none")
    sets = DataSets(
        {ID: LoadedImages(data(40, 4), "id_data", labeled=True)},
        LoadedImages(data(200, 1), "fit_data", labeled=True),
        LoadedImages(data(60, 2), "validation_data", labeled=True),
    )
    with ExitStack() as stack:
        stack.enter_context(reproducible(0, CPU))
        options = dict.fromkeys(("head", "features", "output", "inputs")) | {"taps": "auto"}
        own = stack.enter_context(
            taken_over(module, sets, options, None, SCALING, CPU, reads_layers=True)
        )
        session = Session(
            own.classifier,
            methods_of(asked, "m", prefix=""),
            detectors_of(asked, catalog, prefix=""),
            sets,
            own.num_classes,
            attackable=True,
            seed=0,
        )
        session.run(score=False)
        model = deployed_model(module, own.classifier, CPU, sets)
        good = [label for label, each in session.results.items() if each.error is None]
        return Fitted(module, {label: fitted_method(label, session, model, sets) for label in good})


@pytest.fixture(params=["cnn", "vit", "dismax"])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """All detectors that can run on each of three networks."""
    return fitted_on(request.param)
