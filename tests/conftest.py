"""Small networks and data that several test modules share."""

from __future__ import annotations

import gc
import os

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded
for of_the_user in ("OODBENCH_PLUGINS", "OODBENCH_DATA", "OODBENCH_OFFLINE"):
    os.environ.pop(of_the_user, None)  # content of the user's, data and no network are not tested

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from helpers.commands import Command, command_here
from torch import Tensor, nn

from oodbench.data import ImageArray, load_split
from oodbench.losses import DisMaxHead, SoftMaxHead
from oodbench.models.classifier import Classifier, Network
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train

pytest_plugins = ["helpers.finished_run"]


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""
    return command_here(monkeypatch, capsys)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make small networks slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


class TinyNetwork(Network):
    """Two convolutions with a tap after each, mean over space, head; images of 2 channels."""

    def __init__(self, head: str, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, stride=2), nn.ReLU())
        self.tap_names = ("first", "second")
        self.head = {"softmax": SoftMaxHead, "dismax": DisMaxHead}[head](5, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Classifier]:
    """Makes an untrained classifier for images [B, 2, 6, 6], confident enough to differ."""

    def make(
        seed: int = 0,
        *,
        head: str = "softmax",
        num_classes: int = 3,
        dtype: torch.dtype = torch.float64,
    ) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TinyNetwork(head, num_classes)
            last = next(network.head.parameters())
            nn.init.normal_(last, std=3.0 if head == "softmax" else 0.3)
        return Classifier(network, mean=(0.4, 0.6), std=(0.2, 0.35)).to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def tiny_data() -> Callable[..., ImageArray]:
    """Makes random images [N, 2, 6, 6], of which those of one class resemble each other."""

    def make(count: int, seed: int = 0, *, num_classes: int = 3) -> ImageArray:
        generator = np.random.default_rng(seed)
        labels = generator.permutation(np.arange(count) % num_classes)
        centers = np.random.default_rng(99).uniform(0.2, 0.8, (num_classes, 2, 6, 6))
        images = centers[labels] + generator.uniform(-0.2, 0.2, (count, 2, 6, 6))
        return ImageArray(images.astype(np.float32), labels)

    return make


@pytest.fixture(scope="session")
def digits() -> Callable[..., ImageArray]:
    """Images of a split of the digits; the first `count` of them."""
    spec = Catalog().dataset("digits")

    def get(split: str, count: int | None = None) -> ImageArray:
        data = load_split(spec, split)
        return data if count is None else data.select(np.arange(count))

    return get


@pytest.fixture(scope="session")
def trained(digits: Callable[..., ImageArray]) -> Classifier:
    """A resnet8 trained for three epochs on the digits; do not change it."""
    return _trained("softmax", digits("train"))


@pytest.fixture(scope="session")
def trained_dismax(digits: Callable[..., ImageArray]) -> Classifier:
    """The same with a DisMax head."""
    return _trained("dismax", digits("train"))


def _trained(head: str, data: ImageArray) -> Classifier:
    recipe = TrainingSpec(epochs=3, batch_size=64, learning_rate=0.1, weight_decay=5e-4)
    spec = ModelSpec(network="resnet8", head=head, training=recipe)
    classifier, _ = train(spec, 10, data, seed=0, device=torch.device("cpu"))
    return classifier


@pytest.fixture(scope="session")
def tap_activations() -> Callable[[Classifier, Tensor], dict[str, Tensor]]:
    """Every tap averaged over space, by calling the network's parts one after the other."""

    def compute(classifier: Classifier, images: Tensor) -> dict[str, Tensor]:
        x = (images - classifier.mean) / classifier.std
        taps = {}
        for name in classifier.network.tap_names:
            x = classifier.network.get_submodule(name)(x)
            taps[name] = x.mean(dim=(2, 3))
        return taps

    return compute


@pytest.fixture(scope="session")
def built_in() -> Callable[..., Method]:
    """Makes a method "M" of a built-in detector."""
    infos = Catalog().detectors

    def make(detector: str, **parameters: object) -> Method:
        info = infos[detector].info
        assert info is not None, infos[detector].error
        return Method("M", "model", info, parameters)

    return make
