"""Batch sizes and inputs of other kinds in `oodbench.evaluate`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_sequence import CLASSES, assert_same_scores, classifier, data, evaluated
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from oodbench import Detector, Outputs, UserError, register

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_data_as_mappings() -> None:
    """As Hugging Face's data sets give them."""

    class Mapped(Dataset[Any]):
        def __init__(self, pairs: Any) -> None:
            self.pairs = pairs

        def __len__(self) -> int:
            return len(self.pairs)

        def __getitem__(self, index: int) -> Any:
            image, *label = self.pairs[index]
            return {"pixel_values": image, **({"labels": label[0]} if label else {})}

    given = data()
    named = {
        "id_data": DataLoader(Mapped(given["id_data"]), 10),
        "ood_data": {"far": Mapped(given["ood_data"]["far"])},
        "fit_data": Mapped(given["fit_data"]),
    }
    detectors = ["energy", "mahalanobis_single"]
    found = evaluated(classifier(), detectors, **named)
    assert_same_scores(found, evaluated(classifier(), detectors))
    assert found.records[-1].metric == "id_accuracy", "labels were read"


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(50, 12), nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.embed(ids).mean(1))  # type: ignore[no-any-return]


RANKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "vectors": (
        lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, CLASSES)),
        lambda count: torch.rand(count, 5),
    ),
    "series": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 12, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
        lambda count: torch.rand(count, 3, 9),
    ),
    "series and a 1x1 convolution": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 12, 3),
            nn.ReLU(),
            nn.Conv1d(12, CLASSES, 1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        ),
        lambda count: torch.rand(count, 3, 9),
    ),
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 12, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
        lambda count: torch.rand(count, 2, 5, 6, 7),
    ),
    "tokens": (Tokens, lambda count: torch.randint(0, 50, (count, 8))),
}


@pytest.mark.parametrize("name", RANKS)
def test_inputs_that_are_no_images(name: str) -> None:
    make, draw = RANKS[name]
    torch.manual_seed(0)
    model, inputs, others, training = make(), draw(40), draw(30), draw(60)
    sets = {
        "id_data": TensorDataset(inputs, torch.arange(40) % CLASSES),
        "ood_data": {"o": TensorDataset(others)},
        "fit_data": TensorDataset(training, torch.arange(60) % CLASSES),
    }
    detectors = ["energy", "knn", "vim", "react", "mahalanobis_single", "odin"]
    found = evaluated(model, detectors, **sets, costs=True)
    assert found.failed == {}
    assert list(found.scores) == detectors[:-1]
    assert ("whole numbers" if name == "tokens" else "not images") in found.skipped["odin"]
    with torch.no_grad():
        expected = model(inputs).logsumexp(1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected, rtol=1e-5)
    if name in ("series", "volumes"):
        scale = (0.4, 0.2)
        scaled = evaluated(model, ["energy", "odin"], **sets, normalization=scale)
        with torch.no_grad():
            expected = model((inputs - 0.4) / 0.2).logsumexp(1)
        np.testing.assert_allclose(scaled.scores["energy"]["id"], expected, rtol=1e-5)
        assert "odin" in scaled.scores, "the step is in units of [0, 1]"


@pytest.mark.parametrize(
    ("together", "decompositions"),
    [
        (("mahalanobis_single", "relative_mahalanobis"), 2),  # within the classes, and of all
        (("residual", "vim"), 1),
        (("vim", "mahalanobis_single", "residual", "relative_mahalanobis"), 3),
    ],
)
def test_eigendecompositions_are_shared_and_scores_are_those_of_each_alone(
    together: tuple[str, ...], decompositions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    alone = {name: evaluated(model, [name]).scores[name] for name in together}
    decompose, calls = torch.linalg.eigh, []

    def counted(matrix: Tensor) -> Any:
        calls.append(matrix.shape)
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    found = evaluated(model, together)
    assert len(calls) == decompositions
    for name, sets in alone.items():
        for dataset, scores in sets.items():
            np.testing.assert_array_equal(found.scores[name][dataset], scores)


def test_detectors_that_cannot_be_copied_or_do_not_keep_their_arguments() -> None:
    @register("holding")
    class Holding_(Detector):  # noqa: N801
        """Holds a lock."""

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits[:, 0]

    @register("forgetting")
    class Forgetting(Detector):
        """Forgets its argument."""

        def __init__(self, power: int = 2) -> None:
            self.p = power

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits[:, 0]

    for detector, said in ((Holding_(), "cannot be copied"), (Forgetting(), "does not keep")):
        with pytest.raises(UserError, match=said):
            evaluated(classifier(), [detector])
