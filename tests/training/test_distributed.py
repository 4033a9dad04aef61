"""Two processes give what one process gives."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn

from oodbench.errors import UserError
from oodbench.training import distributed
from oodbench.training.checkpoints import read_history
from oodbench.training.distributed import Group, SharedBatchNorm2d
from oodbench.training.trained_models import train_models

Make = Callable[..., Any]

BENCHMARK = """\
extends: digits
name: shared
version: 1
models:
  SoftMax: {training: {epochs: 3, batch_size: 128, learning_rate: 0.01, test_accuracy: each}}
  DisMax: {training: {epochs: 3, batch_size: 128, learning_rate: 0.01, test_accuracy: each}}
"""


def test_shares_are_nearly_equal_and_cover_the_batch() -> None:
    for count in range(2, 20):
        for size in range(1, 6):
            rows = [list(range(count))[Group(rank, size).share(count)] for rank in range(size)]
            assert list(itertools.chain(*rows)) == list(range(count))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_a_process_alone_is_a_group_of_one() -> None:
    with distributed.group(torch.device("cpu")) as group:
        assert group == Group(0, 1) == distributed.current()
        assert group.leads


# --- batch normalization over two processes ----------------------------------------------------


def _normalize(rank: int, folder: str) -> None:
    """Normalize a share of a batch, take a gradient, note everything."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    images = torch.load(f"{folder}/images.pt", weights_only=True)
    weights = torch.load(f"{folder}/weights.pt", weights_only=True)
    layer = SharedBatchNorm2d(3).double()
    rows = slice(0, 3) if rank == 0 else slice(3, 8)  # shares of unequal size
    mine = images[rows].requires_grad_()
    output = layer(mine)
    (output * weights[rows]).sum().backward()
    result = [output.detach(), mine.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()]
    torch.save(result, f"{folder}/result{rank}.pt")
    distributed.wait()
    torch.distributed.destroy_process_group()


def test_shared_batch_norm_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 4, 5, generator=generator, dtype=torch.float64) * 3 + 7
    weights = torch.randn(8, 3, 4, 5, generator=generator, dtype=torch.float64)
    torch.save(images, tmp_path / "images.pt")
    torch.save(weights, tmp_path / "weights.pt")
    torch.multiprocessing.spawn(_normalize, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"result{i}.pt", weights_only=True) for i in range(2))

    layer = nn.BatchNorm2d(3).double()
    images.requires_grad_()
    expected = layer(images)
    (expected * weights).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(torch.cat([one[0], two[0]]), expected.detach())
    torch.testing.assert_close(torch.cat([one[1], two[1]]), images.grad)
    # What DistributedDataParallel adds up afterwards.
    torch.testing.assert_close(one[2] + two[2], layer.weight.grad)
    torch.testing.assert_close(one[3] + two[3], layer.bias.grad)
    for buffers in (one[4:], two[4:]):
        for found, buffer in zip(buffers, layer.buffers(), strict=True):
            torch.testing.assert_close(found, buffer)


# --- training ----------------------------------------------------------------------------------


def torchrun(processes: int, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "oodbench", *arguments]
    environment = {**os.environ, "OODBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_train_what_one_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command under torchrun: the same curve, the same files, one voice."""
    from safetensors.torch import load_file

    from oodbench.plugins.catalog import Catalog
    from oodbench.progress import Silent

    path = tmp_path / "shared.yaml"
    path.write_text(BENCHMARK)
    together = torchrun(
        2, "train", str(path), "--seeds", "1", "--device", "cpu", cache=tmp_path / "two"
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("SoftMax seed 0") == 1, together.stdout

    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "one"))
    catalog = Catalog()
    alone = train_models(
        catalog.benchmark(str(path)),
        catalog,
        model=None,
        seeds=[0],
        device=torch.device("cpu"),
        say=Silent(),
    )
    assert set(alone) == {"SoftMax seed 0", "DisMax seed 0"}
    for single in alone.values():
        shared = tmp_path / "two" / "checkpoints" / single.name
        for one, two in zip(read_history(single), read_history(shared), strict=True):
            # Rounding differs, and grows with every step.
            assert two["learning_rate"] == one["learning_rate"]
            for value in ("loss", "test_loss"):
                assert two[value] == pytest.approx(one[value], rel=0.05), value
            for value in ("accuracy", "test_accuracy"):
                assert two[value] == pytest.approx(one[value], abs=0.05), value
        first = read_history(single)[0]["loss"] - read_history(shared)[0]["loss"]
        assert abs(first) < 1e-3, "the first epoch differs by rounding alone"
        weights, others = load_file(single), load_file(shared)
        assert weights.keys() == others.keys()
    left = {file.suffix for file in (tmp_path / "two" / "checkpoints").iterdir()}
    assert left == {".safetensors"}, "the state is removed at the end"


def test_run_refuses_to_be_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import oodbench

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="A run is one process") as raised:
        oodbench.run("digits", out=tmp_path / "run", methods=["baseline"], seeds=1)
    assert "torchrun" in raised.value.hint
    assert not (tmp_path / "run").exists()


def test_a_batch_too_small_to_share(digits: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.specs import ModelSpec
    from oodbench.training.loop import train

    monkeypatch.setattr(distributed, "current", lambda: Group(0, 5))
    spec = ModelSpec.model_validate(
        {
            "network": "resnet8",
            "head": "softmax",
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
        }
    )
    with pytest.raises(UserError, match="too small to share among 5 processes"):
        train(spec, 10, digits("train", 50), seed=0, device=torch.device("cpu"))
