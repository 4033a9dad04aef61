"""Training by the recipe, and checkpoints addressed by what they were made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import checkpoints
from oodbench.checkpoints import CheckpointKey, DamagedCheckpointError, load_or_train, read_history
from oodbench.data import ImageArray
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.specs import AugmentSpec, ModelSpec, TrainingSpec
from oodbench.training import Epoch, as_tensor, augment, learning_rate, new_classifier, train

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


# --- augmentation ------------------------------------------------------------------------------


def distinct_images(count: int) -> Tensor:
    return torch.arange(1.0, count * 2 * 6 * 5 + 1).view(count, 2, 6, 5)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """An image moved by whole pixels, zeros moving in, one pixel at a time."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_crops_are_shifts_by_all_amounts() -> None:
    images = distinct_images(150)
    generator = torch.Generator().manual_seed(0)
    found = augment(images, AugmentSpec(crop_padding=2), generator)
    assert found.shape == images.shape
    amounts = []
    for image, crop in zip(images, found, strict=True):
        row, column = torch.nonzero(crop[0] > 0)[0].tolist()  # some pixel that is left
        index = int(crop[0, row, column] - image[0, 0, 0])
        amount = (row - index // 5, column - index % 5)
        torch.testing.assert_close(crop, shifted(image, *amount), rtol=0, atol=0)
        amounts.append(amount)
    counts = [amounts.count(amount) for amount in itertools.product(range(-2, 3), repeat=2)]
    assert sum(counts) == len(amounts), "shifted by more than the padding"
    # 6 of each expected: all occur, and none far more often than the others.
    assert min(counts) > 0
    assert max(counts) < 20


def test_flips_half_of_the_images() -> None:
    images = distinct_images(400)
    generator = torch.Generator().manual_seed(0)
    found = augment(images, AugmentSpec(horizontal_flip=True), generator)
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(images, found, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(images, found, strict=True)]
    assert all(one != other for one, other in zip(flipped, same, strict=True))
    assert abs(sum(flipped) - 200) < 50


def test_no_augmentation_is_none() -> None:
    images = distinct_images(5)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    torch.testing.assert_close(augment(images, AugmentSpec(), generator), images, rtol=0, atol=0)
    assert torch.equal(generator.get_state(), before)


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

    def noting(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
        sizes.append(len(images))
        return augment(images, spec, generator)

    monkeypatch.setattr("oodbench.training.augment", noting)
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


def test_normalisation_is_that_of_the_training_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    images[:, 2] = 7
    classifier = new_classifier(model(), 10, ImageArray(images), seed=0)
    scaled = images / 255
    np.testing.assert_allclose(classifier.mean.flatten(), scaled.mean(axis=(0, 2, 3)), rtol=1e-5)
    expected = scaled.std(axis=(0, 2, 3))
    expected[2] = 1e-3  # a constant channel does not become infinite
    np.testing.assert_allclose(classifier.std.flatten(), expected, rtol=1e-5)
    tensor = as_tensor(ImageArray(images), CPU)
    np.testing.assert_allclose(tensor.numpy(), scaled, rtol=1e-6)


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
        return classifier.eval(), [Epoch(1, 0.5, 0.25), Epoch(2, 0.125, 0.75)]

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
    assert history == [
        {"epoch": 1, "loss": 0.5, "accuracy": 0.25},
        {"epoch": 2, "loss": 0.125, "accuracy": 0.75},
    ]


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
    ],
    ids=["truncated", "header", "empty", "stub", "longer", "zip", "list", "bare", "noise"],
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


def test_address_changes_with_whatever_changes_the_weights(digits: Make) -> None:
    train_set = digits("train", 20)
    relabelled = ImageArray(train_set.images, (train_set.labels + 1) % 10)
    keys = [
        key_of(),
        key_of(seed=1),
        key_of(num_classes=9),
        key_of(data=train_set.fingerprint()),
        key_of(data=relabelled.fingerprint()),
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
    ]
    assert len({key.address for key in keys}) == len(keys)
    assert len({key.path for key in keys}) == len(keys)
    assert key_of().address == keys[0].address
    assert all(key.address[:16] in key.path.name for key in keys)


def test_history_of_a_file_that_is_no_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"", b"nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors is not a checkpoint"):
            read_history(path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_history(tmp_path / "missing.safetensors")
