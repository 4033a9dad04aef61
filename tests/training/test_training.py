"""Training by the recipe, and checkpoints addressed by what they were made from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.kills import killed_at, needs_fork
from helpers.tiers import by_default
from safetensors.torch import load_file
from torch import Tensor, nn

import oodbench
from oodbench.data import ImageArray
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.errors import UserError
from oodbench.losses import SoftMaxLoss
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.specs import AugmentSpec, ModelSpec, TrainingSpec
from oodbench.storage.run_description import TrainedOn
from oodbench.training import checkpoints
from oodbench.training.augmentation import Draws, augment
from oodbench.training.checkpoints import (
    CheckpointKey,
    DamagedCheckpointError,
    load_or_train,
    read_history,
)
from oodbench.training.initialization import new_classifier
from oodbench.training.loop import as_floats, resident, train
from oodbench.training.schedule import learning_rate
from oodbench.training.state import Epoch, TrainingState
from oodbench.training.trained_models import train_models

Make = Callable[..., Any]
CPU = torch.device("cpu")


def recipe(**changes: Any) -> TrainingSpec:
    values = {"epochs": 1, "batch_size": 64, "learning_rate": 0.1, **changes}
    return TrainingSpec.model_validate(values)


def model(head: str = "softmax", **changes: Any) -> ModelSpec:
    return ModelSpec(network="resnet8", head=head, training=recipe(**changes))


def weights(classifier: Classifier) -> dict[str, Tensor]:
    return dict(classifier.state_dict())


# --- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "position", "expected"),
    [
        ("constant", 0.0, 0.4),
        ("constant", 9.9, 0.4),
        ("step", 0.0, 0.4),
        ("step", 4.99, 0.4),
        ("step", 5.0, 0.04),
        ("step", 7.49, 0.04),
        ("step", 7.5, 0.004),
        ("step", 9.99, 0.004),
        ("cosine", 0.0, 0.4),
        ("cosine", 2.5, 0.4 * (2 + 2**0.5) / 4),
        ("cosine", 5.0, 0.2),
        ("cosine", 10.0, 0.0),
        ("one_cycle", 0.0, 0.4 * 0.04),
        ("one_cycle", 1.5, 0.4 * 0.52),
        ("one_cycle", 3.0, 0.4),
        ("one_cycle", 6.5, 0.2),
        ("one_cycle", 10.0, 0.0),
    ],
)
def test_learning_rate(schedule: str, position: float, expected: float) -> None:
    spec = recipe(epochs=10, learning_rate=0.4, schedule=schedule)
    assert learning_rate(spec, position) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_milestones_are_fractions_of_the_epochs() -> None:
    spec = recipe(epochs=300, schedule="step", milestones=(0.5, 2 / 3, 5 / 6))
    rates = [learning_rate(spec, epoch) for epoch in (149, 150, 199, 200, 249, 250, 299)]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-12)


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["softmax", "dismax"])
def test_seed_decides_everything(digits: Make, head: str) -> None:
    data = digits("train", 200)
    spec = model(head, augment={"crop_padding": 1, "horizontal_flip": True}, epochs=2)
    torch.manual_seed(1)
    first, history = train(spec, 10, data, seed=0, device=CPU)
    torch.manual_seed(2)
    torch.rand(10)
    again, history_again = train(spec, 10, data, seed=0, device=CPU)
    other, _ = train(spec, 10, data, seed=1, device=CPU)
    torch.testing.assert_close(weights(again), weights(first), rtol=0, atol=0)
    assert history_again == history
    name = "network.stem.0.weight"
    assert not torch.allclose(weights(other)[name], weights(first)[name])


def test_training_leaves_torchs_generator_alone(digits: Make) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(model(), 10, digits("train", 70), seed=0, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_learns_and_says_so(digits: Make) -> None:
    told: list[Epoch] = []
    classifier, history = train(
        model(epochs=3), 10, digits("train"), seed=0, device=CPU, on_epoch=told.append
    )
    assert told == history
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert history[0].loss > history[1].loss > history[2].loss
    assert not classifier.training
    test = digits("test")
    right = classifier(torch.from_numpy(test.images)).argmax(dim=1).numpy() == test.labels
    assert right.mean() > 0.8


def test_losses_of_an_epoch_are_means_over_its_images(digits: Make) -> None:
    """With a vanishing learning rate every batch sees the same network."""
    data = digits("train", 100)
    spec = model("dismax", learning_rate=1e-30, batch_size=100)
    _, history = train(spec, 10, data, seed=0, device=CPU)
    assert history[0].loss == pytest.approx(np.log(10), rel=1e-6)
    assert 0 <= history[0].accuracy <= 1


def test_no_batch_of_one_image(digits: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """897 images in batches of 64 would leave one over."""
    sizes: list[int] = []

    def noting(images: Tensor, spec: AugmentSpec, draws: Draws) -> Tensor:
        sizes.append(len(images))
        return augment(images, spec, draws)

    monkeypatch.setattr("oodbench.training.loop.augment", noting)
    data = digits("train")
    assert len(data) % 64 == 1
    train(model(), 10, data, seed=0, device=CPU)
    assert sum(sizes) == 897
    assert len(sizes) == 15
    assert set(sizes) == {59, 60}


@pytest.mark.parametrize("head", ["softmax", "dismax"])
def test_loss_that_is_not_finite_is_an_error_that_says_where(digits: Make, head: str) -> None:
    spec = model(head, learning_rate=1e30, schedule="constant")
    with pytest.raises(UserError, match=r"loss is (nan|inf) at epoch 1, step \d+ ") as raised:
        train(spec, 10, digits("train", 300), seed=7, device=CPU)
    assert f"(network resnet8, head {head}, seed 7)" in str(raised.value)
    assert "Lower training.learning_rate" in raised.value.hint
    assert not torch.are_deterministic_algorithms_enabled()


def test_labels_are_needed(digits: Make) -> None:
    with pytest.raises(UserError, match="without labels"):
        train(model(), 10, ImageArray(digits("train", 10).images), seed=0, device=CPU)


def test_normalization_is_that_of_the_training_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    images[:, 2] = 7
    classifier = new_classifier(model(), 10, ImageArray(images), seed=0)
    scaled = images / 255
    np.testing.assert_allclose(classifier.mean.flatten(), scaled.mean(axis=(0, 2, 3)), rtol=1e-5)
    expected = scaled.std(axis=(0, 2, 3))
    expected[2] = 1e-3  # a constant channel does not become infinite
    np.testing.assert_allclose(classifier.std.flatten(), expected, rtol=1e-5)
    tensor = as_floats(resident(ImageArray(images), CPU))
    np.testing.assert_allclose(tensor.numpy(), scaled, rtol=1e-6)


def test_normalization_of_the_spec(digits: Make) -> None:
    data = digits("train", 20)
    classifier = new_classifier(normalized(0.25), 10, data, seed=0)
    assert classifier.mean.flatten().tolist() == [0.5]
    assert classifier.std.flatten().tolist() == [0.25]
    colors = ImageArray(np.zeros((4, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match="1 channels, the images have 3"):
        new_classifier(normalized(0.25), 10, colors, seed=0)


def test_bytes_and_floats_train_alike() -> None:
    """Bytes stay bytes on the device; the network sees them divided by 255."""
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    labels = generator.integers(0, 10, 60)
    spec = model(epochs=2, augment={"crop_padding": 1, "horizontal_flip": True})
    as_bytes, _ = train(spec, 10, ImageArray(levels, labels), seed=0, device=CPU)
    floats = ImageArray(levels.astype(np.float32) / 255, labels)
    as_floating, _ = train(spec, 10, floats, seed=0, device=CPU)
    torch.testing.assert_close(weights(as_bytes), weights(as_floating), rtol=1e-4, atol=1e-5)


def test_what_is_noted_of_the_test_split(digits: Make) -> None:
    data, test = digits("train", 200), digits("test", 100)
    each, last, never = (
        train(model(epochs=2, test_accuracy=when), 10, data, seed=0, device=CPU, test=test)
        for when in ("each", "last", "no")
    )
    assert [epoch.test_accuracy is None for epoch in each[1]] == [False, False]
    assert [epoch.test_accuracy is None for epoch in last[1]] == [True, False]
    assert [epoch.test_loss is None for epoch in never[1]] == [True, True]
    torch.testing.assert_close(weights(each[0]), weights(never[0]), rtol=0, atol=0)
    logits = each[0](torch.from_numpy(test.images))
    labels = torch.from_numpy(test.labels)
    assert each[1][-1].test_accuracy == (logits.argmax(dim=1) == labels).double().mean().item()
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert each[1][-1].test_loss == pytest.approx(expected, rel=1e-5)


def test_bfloat16_keeps_weights_and_distances_in_float32(digits: Make) -> None:
    data = digits("train", 200)
    spec = model("dismax", epochs=2, precision="bfloat16")
    classifier, history = train(spec, 10, data, seed=0, device=CPU)
    assert {value.dtype for value in classifier.parameters()} == {torch.float32}
    exact, exact_history = train(model("dismax", epochs=2), 10, data, seed=0, device=CPU)
    assert history[0].loss == pytest.approx(exact_history[0].loss, rel=0.05)
    name = "network.head.prototypes"
    assert not torch.equal(weights(classifier)[name], weights(exact)[name])


def test_temperature_is_set_on_validation_images(digits: Make) -> None:
    data, validation = digits("train", 300), digits("validation")
    spec = model("dismax2022", epochs=2)
    classifier, _ = train(spec, 10, data, seed=0, device=CPU, validation=validation)
    temperature = weights(classifier)["network.head.temperature"].item()
    assert temperature != 1
    labels = torch.from_numpy(validation.labels)

    def loss_at(value: float) -> float:
        classifier.network.get_buffer("head.temperature").fill_(value)
        return nn.functional.cross_entropy(
            classifier(torch.from_numpy(validation.images)), labels
        ).item()

    best = loss_at(temperature)
    assert best < loss_at(1.0)
    assert best <= min(loss_at(temperature * 1.1), loss_at(temperature / 1.1))
    with pytest.raises(UserError, match="needs validation images"):
        train(spec, 10, data, seed=0, device=CPU)


# --- stopped and taken up ----------------------------------------------------------------------


class StoppedError(Exception):
    """Raised where a training is stopped."""


@pytest.mark.parametrize(
    "head",
    by_default(
        ["dismax", "logitnorm"], ["softmax", "dismax", "isomax_plus", "logitnorm", "t2fnorm"]
    ),
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_in_an_epoch_and_taken_up_ends_with_the_same_weights(
    digits: Make, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, head: str, precision: str
) -> None:
    data, augmented = digits("train", 300), {"crop_padding": 1, "horizontal_flip": True}
    spec = model(head, epochs=4, augment=augmented, precision=precision)
    undisturbed, history = train(spec, 10, data, seed=0, device=CPU)

    def state() -> TrainingState:
        return TrainingState(tmp_path / "x.training", "address", interval=0)

    steps = 0

    def stopping(images: Tensor, spec: AugmentSpec, draws: Draws) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 13:  # in the middle of the third epoch of five steps
            raise StoppedError
        return augment(images, spec, draws)

    with monkeypatch.context() as patch:
        patch.setattr("oodbench.training.loop.augment", stopping)
        with pytest.raises(StoppedError):
            train(spec, 10, data, seed=0, device=CPU, state=state())
    told: list[int] = []
    resumed, whole = train(
        spec, 10, data, seed=0, device=CPU, state=state(), on_epoch=lambda e: told.append(e.epoch)
    )
    assert told == [3, 4], "the first two epochs are not done again"
    assert whole == history
    torch.testing.assert_close(weights(resumed), weights(undisturbed), rtol=0, atol=0)


def test_state_is_written_when_it_was_held_back(digits: Make, tmp_path: Any) -> None:
    """Short epochs are not written each; the last one is when something stops the training."""
    state = TrainingState(tmp_path / "x.training", "address", interval=1000)

    def stop(epoch: Epoch) -> None:
        assert not state.path.exists()
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            model(epochs=3),
            10,
            digits("train", 70),
            seed=0,
            device=CPU,
            state=state,
            on_epoch=stop,
        )
    assert state.path.exists()


def test_loss_that_is_not_finite_keeps_the_last_good_epoch(digits: Make, tmp_path: Any) -> None:
    data = digits("train", 128)
    state = TrainingState(tmp_path / "x.training", "address")
    huge = model(epochs=5, learning_rate=1e30, schedule="one_cycle")
    # A first epoch that went well, as far as the state is concerned.
    _, first = train(model(epochs=1), 10, data, seed=0, device=CPU)
    classifier = new_classifier(huge, 10, data, seed=0)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    state.keep(classifier, SoftMaxLoss(), optimizer, torch.Generator().manual_seed(0), first)
    state.flush()
    before = state.path.read_bytes()
    with pytest.raises(UserError, match=r"at epoch 2, step 2 ") as raised:
        train(huge, 10, data, seed=0, device=CPU, state=state)
    assert f"after epoch 1 is kept in {state.path}" in raised.value.message
    assert state.path.read_bytes() == before


class Forgetful(nn.Module):
    """A network of a user's that drops features at random and has a layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(16, 10)
        self.classifier = self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(images))


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    module = types.ModuleType("networks_of_mine")
    module.Forgetful = Forgetful  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "networks_of_mine", module)
    return ModelSpec(
        network="networks_of_mine:Forgetful", head="softmax", training=recipe(epochs=3)
    )


def test_networks_that_draw_at_random_are_seeded_and_resumed(
    digits: Make, tmp_path: Any, forgetful: ModelSpec
) -> None:
    data = digits("train", 200)
    torch.manual_seed(1)
    first, history = train(forgetful, 10, data, seed=0, device=CPU)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    path = tmp_path / "x.training"

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise StoppedError

    state = TrainingState(path, "address", interval=0)
    with pytest.raises(StoppedError):
        train(forgetful, 10, data, seed=0, device=CPU, state=state, on_epoch=stop)
    resumed, whole = train(
        forgetful, 10, data, seed=0, device=CPU, state=TrainingState(path, "address")
    )
    assert whole == history
    torch.testing.assert_close(weights(resumed), weights(first), rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_layer_under_two_names_is_saved(digits: Make, forgetful: ModelSpec) -> None:
    data = digits("train", 70)
    trained, history = train(forgetful, 10, data, seed=0, device=CPU)
    key = key_of(model=forgetful)
    checkpoints.save(trained, history, key)
    loaded = new_classifier(forgetful, 10, data, seed=1)
    checkpoints.load_into(loaded, key)
    torch.testing.assert_close(weights(loaded), weights(trained), rtol=0, atol=0)


@pytest.mark.parametrize(
    "damage",
    [truncated_state := "truncated", "other address", "noise", flipped := "one byte", "history"],
)
def test_damaged_or_foreign_state_is_not_taken_up(digits: Make, tmp_path: Any, damage: str) -> None:
    data, spec = digits("train", 70), model(epochs=2)
    path = tmp_path / "x.training"
    with pytest.raises(StoppedError):
        train(
            spec,
            10,
            data,
            seed=0,
            device=CPU,
            state=TrainingState(path, "address", interval=0),
            on_epoch=_stop,
        )
    content = path.read_bytes()
    damaged = {
        truncated_state: content[: len(content) // 2],
        "noise": b"\0" * 99,
        flipped: content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:],
        "history": content.replace(b'accuracy\\": 0.', b'accuracy\\": 1.', 1),
    }
    path.write_bytes(damaged.get(damage, content))
    assert (path.read_bytes() == content) == (damage == "other address")
    address = "another" if damage == "other address" else "address"
    told: list[int] = []
    state = TrainingState(path, address)
    train(spec, 10, data, seed=0, device=CPU, state=state, on_epoch=lambda e: told.append(e.epoch))
    assert told == [1, 2]


def _stop(epoch: Epoch) -> None:
    raise StoppedError


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))


class Trainer:
    """Trains by setting every weight to a number, and counts how often."""

    def __init__(self, data: ImageArray) -> None:
        self.data = data
        self.calls = 0
        self.warnings: list[str] = []

    def untrained(self, seed: int = 0) -> Classifier:
        return new_classifier(model(), 10, self.data, seed)

    def __call__(self) -> tuple[Classifier, list[Epoch]]:
        self.calls += 1
        classifier = self.untrained(seed=1000 + self.calls)
        nn.init.constant_(classifier.network.head.bias, float(self.calls))  # type: ignore[arg-type]
        return classifier.eval(), [Epoch(1, 0.5, 0.25, 0.1, 2.0), Epoch(2, 0.125, 0.75, 0.01, 3.0)]

    def get(self, key: CheckpointKey) -> Classifier:
        return load_or_train(self.untrained(), key, self, self.warnings.append)


@pytest.fixture
def trainer(digits: Make) -> Trainer:
    return Trainer(digits("train", 20))


def key_of(**changes: Any) -> CheckpointKey:
    values = {"model": model(), "data": "a" * 64, "num_classes": 10, "seed": 0, **changes}
    return CheckpointKey(**values)


def test_trained_once_and_read_afterwards(trainer: Trainer) -> None:
    key = key_of()
    first = trainer.get(key)
    again = trainer.get(key)
    assert trainer.calls == 1
    assert not trainer.warnings
    torch.testing.assert_close(weights(again), weights(first), rtol=0, atol=0)
    assert not again.training
    assert [file.name for file in key.path.parent.iterdir()] == [key.path.name]
    history = read_history(key.path)
    assert [Epoch(**values) for values in history] == [
        Epoch(1, 0.5, 0.25, 0.1, 2.0),
        Epoch(2, 0.125, 0.75, 0.01, 3.0),
    ]
    assert [values["seconds"] for values in history] == [2.0, 3.0]
    trained_on = checkpoints.read_trained_on(key.path)
    assert trained_on == TrainedOn(device="cpu", threads=torch.get_num_threads(), processes=1)


def test_two_that_train_the_same_train_it_once(trainer: Trainer) -> None:
    """The second waits, says for whom, and reads what the first has stored."""
    key, waits, finish = key_of(), threading.Event(), threading.Event()
    details: list[str] = []

    def slowly() -> tuple[Classifier, list[Epoch]]:
        finish.wait(20)
        return trainer()

    def noted(text: str) -> None:
        details.append(text)
        waits.set()

    def get(*more: Any) -> Classifier:
        return load_or_train(trainer.untrained(), key, slowly, trainer.warnings.append, noted)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(get) for _ in range(2)]
        assert waits.wait(20), "nobody waits"
        finish.set()
        first, second = (each.result() for each in both)
    assert trainer.calls == 1
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)
    said = f"waiting for process {os.getpid()} on {socket.gethostname()} since "
    assert details[0].startswith(said)
    assert details[0].endswith(f"which trains {key.path.name}")
    assert [file.name for file in key.path.parent.iterdir()] == [key.path.name]


def test_a_killed_training_holds_no_lock(trainer: Trainer) -> None:
    """The operating system ends the lock with its process; the file may stay."""
    key = key_of()
    hold = (
        "import sys, os, signal; from pathlib import Path; "
        "from oodbench.storage.locks import FileLock; "
        "assert FileLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", hold, str(key.lock_path)], check=False)
    assert key.lock_path.exists()
    trainer.get(key)
    assert trainer.calls == 1
    assert not key.lock_path.exists()


@needs_fork
def test_what_a_process_leaves_that_is_killed_after_its_checkpoint(trainer: Trainer) -> None:
    key = key_of()
    key.path.parent.mkdir(parents=True)
    key.state_path.write_bytes(b"a state")
    killed_at("unlink", lambda: trainer.get(key))
    assert key.path.exists()
    assert key.state_path.exists()
    assert key.lock_path.exists()
    trainer.get(key)
    assert trainer.calls == 0, "it was trained"
    assert [file.name for file in key.path.parent.iterdir()] == [key.path.name]


def test_round_trip_of_a_trained_network(trained_dismax: Classifier, digits: Make) -> None:
    key = key_of(model=model("dismax"))
    checkpoints.save(trained_dismax, [], key)
    data = digits("train")
    loaded = new_classifier(model("dismax"), 10, data, seed=3).eval()
    checkpoints.load_into(loaded, key)
    images = torch.from_numpy(digits("test", 20).images)
    torch.testing.assert_close(loaded(images), trained_dismax(images), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weights(loaded), weights(trained_dismax), rtol=0, atol=0)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_weights(content: bytes) -> bytes:
    return content[: 8 + int.from_bytes(content[:8], "little")]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        without_weights,
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content + b"more",
        lambda content: b"PK\x03\x04 something else entirely",
        lambda content: b"\x02\0\0\0\0\0\0\0[]",
        lambda content: b"\x02\0\0\0\0\0\0\0{}",
        lambda content: b"\xff" * 64,
        lambda content: content.replace(b": 0.125", b": 0.625", 1),
    ],
    ids=["truncated", "header", "empty", "stub", "longer", "zip", "list", "bare", "noise", "loss"],
)
def test_damaged_file_is_moved_aside_and_trained_again(
    trainer: Trainer, damage: Callable[[bytes], bytes]
) -> None:
    key = key_of()
    trainer.get(key)
    damaged = damage(key.path.read_bytes())
    key.path.write_bytes(damaged)
    with pytest.raises(DamagedCheckpointError):
        checkpoints.load_into(trainer.untrained(), key)
    second = trainer.get(key)
    assert trainer.calls == 2
    (warning,) = trainer.warnings
    for part in (key.path.name, "cannot be used", "training again"):
        assert part in warning
    assert key.path.with_suffix(".damaged").read_bytes() == damaged
    assert weights(second)["network.head.bias"][0] == 2
    torch.testing.assert_close(weights(trainer.get(key)), weights(second), rtol=0, atol=0)
    assert trainer.calls == 2


def test_file_of_another_key_is_not_taken(trainer: Trainer) -> None:
    key, other = key_of(), key_of(seed=1)
    trainer.get(other)
    key.path.write_bytes(other.path.read_bytes())
    found = trainer.get(key)
    assert trainer.calls == 2
    (warning,) = trainer.warnings
    assert "belongs to something else" in warning
    assert weights(found)["network.head.bias"][0] == 2


def test_network_of_another_form_is_not_taken(trainer: Trainer, digits: Make) -> None:
    """A file whose name and address are right but whose weights do not fit."""
    key = key_of()
    other = new_classifier(model("dismax"), 10, digits("train", 20), seed=0)
    checkpoints.save(other, [], key)
    trainer.get(key)
    assert trainer.calls == 1
    assert len(trainer.warnings) == 1


def normalized(std: float) -> ModelSpec:
    values = {"mean": (0.5,), "std": (std,)}
    return ModelSpec(network="resnet8", head="softmax", training=recipe(), normalization=values)


def test_address_changes_with_whatever_changes_the_weights(digits: Make) -> None:
    train_set = digits("train", 20)
    relabeled = ImageArray(train_set.images, (train_set.labels + 1) % 10)
    keys = [
        key_of(),
        key_of(seed=1),
        key_of(num_classes=9),
        key_of(data=train_set.fingerprint()),
        key_of(data=relabeled.fingerprint()),
        key_of(data=train_set.select(np.arange(19)).fingerprint()),
        key_of(model=model("dismax")),
        key_of(model=ModelSpec(network="resnet20", head="softmax", training=recipe())),
        key_of(
            model=ModelSpec(
                network="resnet8", head="dismax", loss_options={"alpha": 3}, training=recipe()
            )
        ),
        key_of(model=model(epochs=2)),
        key_of(model=model(learning_rate=0.2)),
        key_of(model=model(weight_decay=0.0)),
        key_of(model=model(augment={"crop_padding": 1})),
        key_of(model=model(precision="bfloat16")),
        key_of(model=model(test_accuracy="each")),
        key_of(validation="b" * 64),
        key_of(test="b" * 64),
        key_of(model=normalized(0.5)),
        key_of(model=normalized(0.25)),
    ]
    assert len({key.address for key in keys}) == len(keys)
    assert len({key.path for key in keys}) == len(keys)
    assert key_of().address == keys[0].address
    assert key_of(model=model(recipe="quick")).address == keys[0].address, "only a name"
    assert all(key.address[:16] in key.path.name for key in keys)


def test_history_of_a_file_that_is_no_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"", b"nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors is not a checkpoint"):
            read_history(path)
        with pytest.raises(UserError, match=r"x\.safetensors is not a checkpoint"):
            checkpoints.read_trained_on(path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_history(tmp_path / "missing.safetensors")


# --- the models of a benchmark -----------------------------------------------------------------


BENCHMARK = """\
extends: digits
name: mine
version: 1
models:
  SoftMax: {training: {epochs: 1, test_accuracy: each}}
  DisMax: {training: {epochs: 1}}
"""


def models_of(tmp_path: Path, text: str = BENCHMARK) -> dict[str, Path]:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    catalog = Catalog()
    return train_models(
        catalog.benchmark(str(path)), catalog, model=None, seeds=[0], device=CPU, say=Silent()
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("loss_options: {alpha: -1}", "alpha must be positive"),
        ("network: nowhere:make", "nowhere"),
        ("normalization: {mean: [0, 0], std: [1, 1]}", "2 channels, the images have 1"),
    ],
)
def test_a_model_that_cannot_be_made_is_said_before_another_is_trained(
    tmp_path: Path, change: str, said: str
) -> None:
    text = BENCHMARK.replace("DisMax: {", f"DisMax: {{{change}, ")
    with pytest.raises(UserError, match=said):
        models_of(tmp_path, text)
    assert not (tmp_path / "cache" / "checkpoints").exists()


NORMALIZED = """\
schema_version: 1
name: normalized
version: 1
title: Normalized
summary: Heads of normalized training
id: digits
ood: {far: [uniform-noise]}
models:
  LogitNorm: &model
    network: resnet8
    head: logitnorm
    training: {epochs: 1, batch_size: 32, learning_rate: 0.02}
  T2FNorm: {<<: *model, head: t2fnorm}
  T2FNorm-warm: {<<: *model, head: t2fnorm, loss_options: {tau: 0.5}}
matrix: {models: [LogitNorm, T2FNorm, T2FNorm-warm], detectors: [baseline, vim, react]}
evaluation: {resamples: 100}
"""


def test_heads_of_normalized_training_by_one_line_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "normalized.yaml"
    path.write_text(NORMALIZED)
    run = oodbench.run(str(path), out=tmp_path / "run", seeds=1, device="cpu")
    assert {record.status for record in run.records} == {"ok"}
    losses = {record.model: record.loss for record in run.records}
    assert losses == {"LogitNorm": "logitnorm", "T2FNorm": "t2fnorm", "T2FNorm-warm": "t2fnorm"}
    assert len({record.method for record in run.records}) == 9
    accuracy = {
        record.model: record.value for record in run.records if record.metric == "id_accuracy"
    }
    assert min(accuracy.values()) > 0.5
    again = oodbench.run(str(path), out=tmp_path / "again", seeds=1, device="cpu")  # from the cache
    assert [record.value for record in again.records] == [record.value for record in run.records]
    folder = tmp_path / "cache" / "checkpoints"
    taus = {float(load_file(file)["network.head.tau"]) for file in folder.glob("resnet8-t2fnorm-*")}
    assert sorted(taus) == pytest.approx([0.1, 0.5])


def test_a_history_with_accuracies_is_of_that_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = models_of(tmp_path)
    real = LoadedSplits.get

    def relabeled(store: LoadedSplits, dataset: str, split: str) -> ImageArray:
        data = real(store, dataset, split)
        assert data.labels is not None
        return ImageArray(data.images, 9 - data.labels) if split == "test" else data

    monkeypatch.setattr(LoadedSplits, "get", relabeled)
    monkeypatch.setattr(
        LoadedSplits, "fingerprint", lambda store, *which: store.get(*which).fingerprint()
    )
    after = models_of(tmp_path)
    name = "SoftMax seed 0"
    assert after["DisMax seed 0"] == before["DisMax seed 0"], "nothing of it is in the history"
    assert after[name] != before[name]
    accuracies = [read_history(paths[name])[-1]["test_accuracy"] for paths in (before, after)]
    assert accuracies[0] != accuracies[1]
