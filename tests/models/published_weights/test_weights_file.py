"""Files with weights: formats, entries, what is refused; and how their names fit a network."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from oodbench import models
from oodbench.errors import UserError
from oodbench.models.published_weights.weight_loading import load_weights
from oodbench.models.published_weights.weights_file import read_weights

NETWORK = "resnet8"


def weights(num_classes: int = 3, head: str = "softmax", seed: int = 1) -> dict[str, Tensor]:
    """A state dict of a small network."""
    torch.manual_seed(seed)
    return dict(models.create(NETWORK, num_classes, head).state_dict())


def saved(tmp_path: Path, content: Any, name: str = "w.pt") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(path: Path, entry: str | None = None, num_classes: int = 3) -> tuple[str, ...]:
    """Load a file into a fresh network, compare all weights, return what was taken."""
    torch.manual_seed(99)
    network = models.create(NETWORK, num_classes)
    taken = load_weights(network, read_weights(path, entry), NETWORK)
    expected = weights(num_classes)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    return taken


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights().items()}, path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=suffix != ".th")
    assert loaded(path) == ()


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda w: {"state_dict": w, "epoch": 3}, ("entry 'state_dict'",)),
        (lambda w: {"model": w}, ("entry 'model'",)),
        (lambda w: {"net": w}, ("entry 'net'",)),
        (lambda w: prefixed(w, "module."), ("without the prefix 'module.'",)),
        (
            lambda w: {"net": prefixed(w, "module.")},
            ("entry 'net'", "without the prefix 'module.'"),
        ),
        (lambda w: prefixed(w, "backbone."), ("without the prefix 'backbone.'",)),
        (lambda w: prefixed(w, "model.module."), ("without the prefix 'model.module.'",)),
        (
            lambda w: {"state_dict": w, "state_dict_ema": weights(), "optimizer": {"state": {}}},
            ("entry 'state_dict_ema' (not 'state_dict')",),
        ),
        (
            lambda w: {"model_ema": w, "model": weights(seed=2)},
            ("entry 'model_ema' (not 'model')",),
        ),
        (lambda w: {"ema": {"module": w}}, ("entry 'ema/module'",)),
        (
            lambda w: {
                "pytorch-lightning_version": "2.5",
                "state_dict": prefixed(w, "model.") | {"criterion.weight": torch.ones(3)},
                "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
                "hyper_parameters": {"lr": 0.1},
            },
            (
                "entry 'state_dict'",
                "without the prefix 'model.'",
                "not read: 1 other tensor (criterion.weight)",
            ),
        ),
        (
            lambda w: {("" if "head" in name else "backbone.") + name: t for name, t in w.items()},
            ("without the prefix 'backbone.'",),
        ),
        (
            lambda w: {name: t for name, t in w.items() if "num_batches_tracked" not in name},
            (),
        ),
        (lambda w: OrderedDict(prefixed(w, "_orig_mod.")), ("without the prefix '_orig_mod.'",)),
    ],
)
def test_wrappers_and_prefixes(tmp_path: Path, wrap: Any, taken: tuple[str, ...]) -> None:
    assert loaded(saved(tmp_path, wrap(weights()))) == taken


def test_an_entry_can_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"teacher": weights(), "state_dict": weights(seed=5)})
    assert loaded(path, "teacher") == ("entry 'teacher' (not 'state_dict')",)
    with pytest.raises(UserError, match="no entry 'teachr'") as raised:
        read_weights(path, "teachr")
    assert raised.value.hint == "Did you mean 'teacher'?"


def test_other_number_types_become_those_of_the_network(tmp_path: Path) -> None:
    path = saved(tmp_path, {name: t.double() if t.ndim else t for name, t in weights().items()})
    assert loaded(path) == ()


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def refusal(
    path: Path, num_classes: int = 3, head: str = "softmax", channels: int = 3
) -> UserError:
    network = models.create(NETWORK, num_classes, head, channels)
    with pytest.raises(UserError) as raised:
        load_weights(network, read_weights(path), NETWORK, head=head)
    return raised.value


def test_a_pickle_payload_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, {"state_dict": weights(), "extra": Payload()})
    error = refusal(path)
    assert f"Checkpoint {path} is refused" in error.message
    assert "system" in error.message
    assert not (tmp_path / "executed").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    error = refusal(saved(tmp_path, models.create(NETWORK, 3)))
    assert "oodbench.models.resnet.ResNet" in error.message
    assert "torch.save" in error.hint


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_whose_values_are_not_in_the_file(tmp_path: Path) -> None:
    for tensor in (
        torch.zeros(1).expand(10**11),
        torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), [], (10**12,)),
        torch.empty(10**12, device="meta"),
    ):
        error = refusal(saved(tmp_path, {**weights(), "w": tensor}))
        assert "'w' is not a tensor with all its values in the file" in error.message


def test_pickles_that_fill_the_memory(tmp_path: Path) -> None:
    """A tensor of 4 GB in 40 bytes; bytes of any number; zeros that are compressed."""
    number = b"\x8a\x05" + (10**9).to_bytes(5, "little")
    pickled = b"\x80\x02}X\x01\x00\x00\x00wctorch\nTensor\n" + number + b"\x85Rs."
    for content, how, said in (
        (pickled, zipfile.ZIP_STORED, "'w' is not a tensor with all its values"),
        (pickled.replace(b"torch\nTensor", b"builtins\nbytearray"), 0, "(builtins.bytearray)"),
        (pickled, zipfile.ZIP_DEFLATED, "is compressed"),
    ):
        path = tmp_path / "w.pt"
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, held in (("data.pkl", content), ("version", b"3\n"), ("data/0", bytes(99))):
                archive.writestr(f"archive/{name}", held)
        assert said in refusal(path).message


@pytest.mark.parametrize("suffix", [".pt", ".th", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=suffix == ".pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    error = refusal(path)
    assert f"Checkpoint {path} is truncated, damaged or no checkpoint" in error.message
    assert "\n" not in error.message
    assert ". " not in error.message, "one sentence"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 no archive", "truncated, damaged"),
        (b"some text", "truncated, damaged"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert said in refusal(path).message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds a dict"),
        ({"epoch": 3, "lr": 0.1}, "it holds the keys 'epoch', 'lr'"),
        ({"mine": {"a": torch.ones(1)}}, "it holds the keys 'mine'"),
    ],
)
def test_no_weights(tmp_path: Path, content: Any, said: str) -> None:
    error = refusal(saved(tmp_path, content))
    assert "has no weights" in error.message
    assert said in error.message
    assert "entry: KEY" in error.hint


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    broken = weights() | {"head.bias": torch.tensor([1.0, float("nan"), 0.0])}
    assert "'head.bias' has values that are not finite" in refusal(saved(tmp_path, broken)).message


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "w.pt").message


@pytest.mark.parametrize("channels", [1, 3])
def test_another_architecture_is_named_by_its_first_differences(
    tmp_path: Path, channels: int
) -> None:
    other = models.create("resnet18_32x32", 3, in_channels=channels)
    path = saved(tmp_path, dict(other.state_dict()))
    error = refusal(path, channels=channels)
    assert error.message.startswith(
        f"Checkpoint {path} is of another architecture than network 'resnet8'"
    )
    assert "it lacks" in error.message
    assert "the first stem.0.weight" in error.message
    assert "too many, the first conv1.weight" in error.message
    assert error.hint == (
        "Its names and shapes are those of network 'resnet18_32x32': choose that one."
    )


@pytest.mark.parametrize("network", ["resnet20_option_a", "resnet20"])
def test_the_network_of_a_checkpoint_is_named(tmp_path: Path, network: str) -> None:
    wrapped = prefixed(dict(models.create(network, 100).state_dict()), "module.")
    assert f"those of network '{network}': choose" in refusal(saved(tmp_path, wrapped)).hint


def test_another_width_is_named_by_its_first_shape(tmp_path: Path) -> None:
    wide = {name: t.repeat_interleave(2, 0) if t.ndim else t for name, t in weights().items()}
    error = refusal(saved(tmp_path, prefixed(wide, "module.")))
    assert "the first of stem.0.weight: 32x3x3x3 instead of 16x3x3x3" in error.message
    assert "Prefix 'module.' was removed" in error.hint


def test_another_number_of_classes_is_named_as_that(tmp_path: Path) -> None:
    error = refusal(saved(tmp_path, weights(100)), num_classes=10)
    assert "another number of classes" in error.message
    assert "its last layer 'head' has 100 classes, the ID data set 10" in error.message


def test_another_head_is_named_as_that(tmp_path: Path) -> None:
    error = refusal(saved(tmp_path, weights()), head="dismax")
    assert "does not fit head 'dismax': it has no head." in error.message
    assert error.hint.endswith("head: softmax.")


@pytest.mark.parametrize("head", ["dismax", "isomax_plus", "dismax2022", "rotpred"])
def test_the_head_that_a_checkpoint_was_trained_with_is_named(tmp_path: Path, head: str) -> None:
    for asked in {"softmax", "dismax"} - {head}:
        error = refusal(saved(tmp_path, weights(head=head)), head=asked)
        assert f"does not fit head '{asked}'" in error.message
        assert f"--head {head}" in error.hint


def test_weights_that_fit_another_head_load(tmp_path: Path) -> None:
    network = models.create(NETWORK, 3, "dismax")
    path = saved(tmp_path, weights(head="dismax"))
    assert load_weights(network, read_weights(path), NETWORK, head="dismax") == ()
