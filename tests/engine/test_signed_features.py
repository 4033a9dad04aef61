"""Detectors whose formula assumes features that are not negative, on networks with signed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_benchmark import tiny_benchmark
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

import oodbench
from oodbench.detector import Detector, Outputs, register
from oodbench.engine.executors import executor_choice
from oodbench.engine.executors.executor import Ended
from oodbench.engine.executors.in_process import InProcess
from oodbench.engine.mistakes import FeatureSigns
from oodbench.errors import InterruptedRun, UserError
from oodbench.plugins.declarations import BrokenDetectorError, read_detector
from oodbench.progress import Silent

CLASSES = 4


def vit() -> nn.Module:
    return VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=CLASSES)


def swin() -> nn.Module:
    return SwinTransformer([2, 2], 8, [1, 1], [1, 2], [2, 2], num_classes=CLASSES)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, None, 2)], num_classes=CLASSES)


def rectified() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def signed_digits() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))


def evaluated(network: nn.Module, *detectors: str | Detector) -> oodbench.EvaluationResult:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 24, 3, 16, 16, generator=generator)
    labels = torch.arange(24) % CLASSES
    return oodbench.evaluate(
        network.eval(),
        list(detectors),
        id_data=TensorDataset(images[0]),  # without labels: no sign of a wrong order of classes
        ood_data={"far": TensorDataset(images[1])},
        fit_data=TensorDataset(images[2], labels),
        device="cpu",
    )


def said(result: oodbench.EvaluationResult) -> list[str]:
    return [each for each in result.warnings if "not negative" in each]


def features_of(network: nn.Module) -> Tensor:
    """The input of the last linear layer, for the ID images."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    with last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        network.eval()(torch.rand(3, 24, 3, 16, 16, generator=torch.Generator().manual_seed(0))[0])
    return seen[0]


@pytest.mark.parametrize("make", [vit, swin, convnext])
def test_signed_features_are_said_with_the_names_of_detectors(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(1)
    network = make()
    share = (features_of(network) < 0).double().mean()
    assert 0.1 < share < 0.9
    result = evaluated(network, "react", "energy", "dice", "knn")
    assert said(result) == [
        "ReAct, DICE assume features that are not negative; "
        f"{share:.0%} of the model's penultimate features are negative."
    ]
    for text in (result.to_text(), result.to_markdown(), result.leaderboard().to_json()):
        assert "ReAct, DICE assume features" in " ".join(text.split())


def test_one_detector_and_those_that_assume_nothing() -> None:
    torch.manual_seed(1)
    (sign,) = said(evaluated(vit(), "ash"))
    assert sign.startswith("ASH assumes features")
    assert not said(evaluated(vit(), "energy", "knn", "gradnorm"))


def test_networks_with_rectified_features_have_no_warning() -> None:
    torch.manual_seed(1)
    assert not said(evaluated(rectified(), "react", "ash", "energy"))


def test_rounded_zeros_are_not_negative() -> None:
    """The share is that of a whole data set, whatever its batches."""
    features = torch.tensor([[4.0, -2e-6, 0.0, 1.0], [1.0, -2e-6, -1.0, -0.5]])
    signs = FeatureSigns()
    assert signs.share == 0
    for row in features:
        signs.add(row[None])
    signs.add(torch.empty(3, 0))
    assert signs.share == 3 / 8


class LastFirst(InProcess[Any]):
    """Runs the last task first, as several workers may."""

    def ended(self) -> Iterator[Ended[Any]]:
        self._waiting.reverse()
        return super().ended()


class Stopping(Silent):
    """As a user who presses Ctrl-C when the first cell has ended."""

    def done(self, text: str) -> None:
        if "seed 1" in text:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:Signed")
def test_a_run_warns_once_for_a_model_and_resuming_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = f"{{network: {__name__}:signed_digits, head: softmax, training: *training}}"
    methods = {
        "Signed+ReAct": "{model: Signed, detector: react}",
        "Signed+Energy": "{model: Signed, detector: energy}",
    }
    benchmark = tmp_path / "tiny.yaml"
    benchmark.write_text(tiny_benchmark(methods, models=f"  Signed: {network}"))
    run = oodbench.run(benchmark, out=tmp_path / "run", seeds=2)
    (sign,) = [each for each in run.warnings if "not negative" in each]
    assert sign.startswith("Signed: ReAct assumes features")
    board = run.leaderboard()
    texts = [board.to_text(), board.to_markdown(), board.to_html(), board.to_json()]
    for text in texts:
        assert "ReAct assumes features" in " ".join(text.split())
    monkeypatch.setattr(executor_choice, "InProcess", LastFirst)
    other = oodbench.run(benchmark, out=tmp_path / "other", seeds=2)
    assert other.warnings == run.warnings, "the share differs between seeds"
    with pytest.raises(InterruptedRun):  # seed 0 is left
        oodbench.run(benchmark, out=tmp_path / "part", seeds=2, progress=Stopping())
    resumed = oodbench.run(benchmark, out=tmp_path / "part", seeds=2, resume=True)
    assert resumed.warnings == run.warnings
    again = oodbench.run(
        benchmark,
        out=tmp_path / "run",
        seeds=2,
        resume=True,
        methods=["Signed+ReAct", "Signed+ash"],
    )
    (sign,) = [each for each in again.warnings if "not negative" in each]
    assert sign.startswith("Signed: ReAct, ASH assume features")


# --- declaring -----------------------------------------------------------------------------------


def test_the_declaration_is_read_without_running_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = 'raise RuntimeError\n\n@register("mine", nonnegative_features={})\nclass Mine: pass\n'
    path.write_text(text.format(True))
    assert read_detector(path).nonnegative_features
    path.write_text(text.format("'yes'"))
    with pytest.raises(BrokenDetectorError, match="nonnegative_features: expected True or False"):
        read_detector(path)


def test_a_declaration_of_another_type_is_refused() -> None:
    with pytest.raises(UserError, match="expected True or False, not 1"):

        @register("mine", nonnegative_features=1)  # type: ignore[arg-type]
        class Mine(Detector):
            def score(self, outputs: Outputs) -> Tensor:
                return outputs.logits.amax(dim=1)
