"""Passes: what is captured, how often the network is called, and that nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import oodbench
from oodbench import Detector
from oodbench.data import ImageArray
from oodbench.engine.fitting import fit_together
from oodbench.engine.meters import PassMeter
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.input_gradients import input_gradients
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier

Make = Callable[..., Any]
Taps = Callable[[Classifier, Tensor], dict[str, Tensor]]


def images_of(data: ImageArray, classifier: Classifier) -> Tensor:
    return torch.from_numpy(data.images).to(classifier.dtype)


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Batch sizes that a module is called with."""
    sizes: list[int] = []
    handle = module.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    yield sizes
    handle.remove()


# --- what is captured --------------------------------------------------------------------------


def test_outputs_are_the_networks(tiny: Make, tiny_data: Make, tap_activations: Taps) -> None:
    classifier, data = tiny(), tiny_data(10)
    images = images_of(data, classifier)
    runner = NetworkRunner(classifier, batch_size=10, capture=Capture(taps=True))
    labels = torch.from_numpy(data.labels)
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(images, labels)
    expected = {name: tap.detach() for name, tap in tap_activations(classifier, images).items()}
    assert list(outputs.taps) == ["first", "second"]
    torch.testing.assert_close(dict(outputs.taps), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs.features, expected["second"], rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs.logits, classifier(images).detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs.labels, labels)
    assert outputs.head.kind == "linear"


def test_logits_are_float64_and_taps_only_if_asked_for(trained: Classifier, digits: Make) -> None:
    images = images_of(digits("test", 4), trained)
    runner = NetworkRunner(trained, batch_size=4)
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(images)
    assert outputs.logits.dtype == torch.float64
    assert outputs.features.dtype == torch.float32
    assert outputs.taps == {}


@pytest.mark.parametrize(("tap", "convolutions"), [("stem", 1), ("stage1", 3), ("stage3", 9)])
def test_early_stop_gives_the_tap_and_runs_no_further(
    trained: Classifier, digits: Make, tap: str, convolutions: int
) -> None:
    images = images_of(digits("test", 6), trained)
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_hook(lambda module, inputs, output: called.append(module))
        for layer in trained.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    runner = NetworkRunner(trained, batch_size=6, capture=Capture(taps=True))
    with runner.attached(), torch.no_grad():
        full = runner.outputs(images).taps[tap]
        assert len(called) == 10  # stem, 3 blocks of 2, 2 projections, head
        called.clear()
        stopped = runner.activation(images, tap)
        assert len(called) == convolutions
        again = runner.outputs(images).taps[tap]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(stopped, full, rtol=0, atol=0)
    torch.testing.assert_close(again, full, rtol=0, atol=0)


def test_unknown_tap_is_an_error(tiny: Make, tiny_data: Make) -> None:
    classifier = tiny()
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture(taps=True))
    with runner.attached(), pytest.raises(AssertionError, match="no tap 'third'"):
        runner.activation(images_of(tiny_data(4), classifier), "third")


def test_uint8_images_are_those_in_0_to_1(tiny: Make) -> None:
    classifier = tiny(dtype=torch.float32)
    raw = np.random.default_rng(0).integers(0, 256, (10, 2, 6, 6), dtype=np.uint8)
    runner = NetworkRunner(classifier, batch_size=4)
    both = []
    for images in (raw, raw.astype(np.float32) / 255):
        with runner.attached():
            outputs = list(pass_outputs(runner, ImageArray(images)))
        assert [len(batch) for batch in outputs] == [4, 4, 2]
        both.append(torch.cat([batch.logits for batch in outputs]))
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)
    direct = classifier(torch.from_numpy(raw).float() / 255).double()
    torch.testing.assert_close(both[0], direct.detach(), rtol=1e-5, atol=1e-6)


class CountsOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_two_runners_on_one_network_do_not_do_each_others_work(tiny: Make, tiny_data: Make) -> None:
    """Costs are measured with the hooks of all methods in place."""
    classifier = tiny()
    images = images_of(tiny_data(4), classifier)
    plain = NetworkRunner(classifier, batch_size=4)
    with_taps = NetworkRunner(classifier, batch_size=4, capture=Capture(taps=True))
    counts = []
    with plain.attached(), torch.no_grad():
        with CountsOperations() as alone:
            plain.outputs(images)
        counts.append(alone.names)
        with with_taps.attached():
            with CountsOperations() as beside:
                outputs = plain.outputs(images)
            counts.append(beside.names)
            assert outputs.taps == {}
            assert list(with_taps.outputs(images).taps) == ["first", "second"]
    assert counts[0] == counts[1]


# --- nothing is left behind --------------------------------------------------------------------


def state_of(classifier: Classifier) -> dict[str, Any]:
    """Everything about a model that a user could notice, apart from its weights."""
    hooks = {
        name: {
            kind: len(getattr(module, kind))
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        }
        for name, module in classifier.named_modules()
    }
    return {
        "hooks": hooks,
        "training": {name: module.training for name, module in classifier.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in classifier.named_parameters()},
        "grad": {n: p.grad for n, p in classifier.named_parameters()},
    }


def users_model(trained: Classifier) -> Classifier:
    """Half in training mode, partly frozen, as a user may have left it."""
    classifier = copy.deepcopy(trained).train()
    classifier.network.get_submodule("stage2").eval()
    classifier.network.get_submodule("stem").requires_grad_(False)
    return classifier


def test_the_users_model_is_not_changed(trained: Classifier, digits: Make) -> None:
    classifier = users_model(trained)
    before = state_of(classifier)
    assert len(set(before["training"].values())) == 2
    assert len(set(before["requires_grad"].values())) == 2
    weights = copy.deepcopy(classifier.state_dict())
    runner = NetworkRunner(classifier, batch_size=32, capture=Capture(taps=True))
    mahalanobis = oodbench.load_detector("mahalanobis", epsilon=0.01)
    scorers = {
        "odin": oodbench.load_detector("odin"),
        "mahalanobis": mahalanobis,
    }
    with runner.attached():
        assert not any(module.training for module in classifier.modules())
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
        fit_together(
            {"mahalanobis": mahalanobis},
            lambda: pass_outputs(runner, digits("train", 200)),
            10,
        )
        outcome = score_split(runner, digits("test", 50), scorers, dataset="digits")
    assert not outcome.errors, outcome.errors
    assert state_of(classifier) == before
    torch.testing.assert_close(dict(classifier.state_dict()), dict(weights), rtol=0, atol=0)


@pytest.mark.parametrize("where", ["inside attached", "inside the network"])
def test_the_users_model_is_restored_after_an_exception(
    trained: Classifier, digits: Make, where: str
) -> None:
    classifier = users_model(trained)
    before = state_of(classifier)
    runner = NetworkRunner(classifier, batch_size=32, capture=Capture(taps=True))
    data = digits("test", 5)
    wrong = data.images if where == "inside attached" else data.images.repeat(3, axis=1)
    with pytest.raises(RuntimeError), runner.attached():  # noqa: PT012 - that is the point
        runner.outputs(torch.from_numpy(wrong))
        raise RuntimeError("inside attached")
    assert state_of(classifier) == before
    with runner.attached(), torch.no_grad():  # and it still works
        assert runner.outputs(torch.from_numpy(data.images)).logits.shape == (5, 10)


def test_evaluating_restores_module_by_module(trained: Classifier) -> None:
    classifier = users_model(trained)
    before = state_of(classifier)
    with evaluating(classifier), evaluating(classifier.network):
        assert not any(module.training for module in classifier.modules())
    assert state_of(classifier) == before


def test_input_gradients_are_per_image_and_leave_none_behind() -> None:
    images = torch.arange(1.0, 5.0, requires_grad=True)
    other = torch.ones(4, requires_grad=True)
    losses = {"a": images**2 * other, "b": 3 * images}
    gradients = input_gradients(losses, images)
    torch.testing.assert_close(gradients["a"], 2 * images.detach())
    torch.testing.assert_close(gradients["b"], torch.full((4,), 3.0))
    assert images.grad is None
    assert other.grad is None


# --- memory ------------------------------------------------------------------------------------


@contextmanager
def limited(module: nn.Module, most: int, error: Exception) -> Iterator[None]:
    """A device on which no more than `most` images fit."""

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise error

    handle = module.register_forward_pre_hook(check)
    yield
    handle.remove()


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: not enough memory"),
]


def scores_of(
    classifier: Classifier, data: ImageArray, scorers: dict[str, Detector], batch_size: int
) -> tuple[dict[str, Any], NetworkRunner]:
    runner = NetworkRunner(classifier, batch_size=batch_size, capture=Capture(taps=True))
    with runner.attached():
        outcome = score_split(runner, data, scorers, dataset="d", check_batches=True)
    assert not outcome.errors, outcome.errors
    return {**outcome.scores, "correct": outcome.correct}, runner


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
@pytest.mark.parametrize("place", ["first", "head"])
def test_halved_batches_give_the_same_scores(
    tiny: Make, tiny_data: Make, error: Exception, place: str
) -> None:
    classifier, data = tiny(), tiny_data(37)
    detectors: dict[str, Detector] = {
        "baseline": oodbench.load_detector("baseline"),
        "odin": oodbench.load_detector("odin", temperature=10.0, epsilon=0.01),
    }
    expected, _ = scores_of(classifier, data, detectors, batch_size=37)
    with limited(classifier.network.get_submodule(place), 5, error):
        found, runner = scores_of(classifier, data, detectors, batch_size=20)
    assert runner.batch_size == 5, "smaller for good"
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-12, err_msg=key)


def test_parts_of_a_batch_know_their_place_in_the_data_set(tiny: Make, tiny_data: Make) -> None:
    runner = NetworkRunner(tiny(), batch_size=8)

    def place(images: Tensor, labels: Tensor | None, first: int | None) -> int | None:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return first

    images = torch.zeros(7, 2, 4, 4)
    assert runner.within_memory(place, images, None, 10) == [(2, 10), (2, 12), (2, 14), (1, 16)]
    assert runner.within_memory(place, images[:3], None) == [(2, None), (1, None)]


def test_labels_stay_with_their_images_when_batches_are_halved(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(37)
    runner = NetworkRunner(classifier, batch_size=16, capture=Capture(taps=True))
    with limited(classifier.network.head, 3, OUT_OF_MEMORY[0]), runner.attached():
        batches = list(pass_outputs(runner, data))
    assert max(map(len, batches)) <= 3
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    np.testing.assert_array_equal(labels.numpy(), data.labels)
    logits = torch.cat([batch.logits for batch in batches])
    expected = classifier(images_of(data, classifier)).detach()
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=0)


def test_one_image_that_does_not_fit_is_an_error(tiny: Make, tiny_data: Make) -> None:
    classifier = tiny()
    runner = NetworkRunner(classifier, batch_size=8)
    with (
        limited(classifier.network.head, 0, OUT_OF_MEMORY[0]),
        runner.attached(),
        pytest.raises(torch.OutOfMemoryError),
    ):
        list(pass_outputs(runner, tiny_data(8)))


def test_other_errors_are_not_taken_for_memory(tiny: Make, tiny_data: Make) -> None:
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY)
    error = RuntimeError("size mismatch")
    assert not is_out_of_memory(error)
    classifier = tiny()
    runner = NetworkRunner(classifier, batch_size=8)
    with (
        counted(classifier.network.get_submodule("first")) as calls,
        limited(classifier.network.head, 0, error),
        runner.attached(),
        pytest.raises(RuntimeError, match="size mismatch"),
    ):
        list(pass_outputs(runner, tiny_data(8)))
    assert calls == [8], "tried once"


# --- how often the network is called -----------------------------------------------------------


@pytest.fixture(scope="module")
def splits(digits: Make) -> dict[str, ImageArray]:
    """ID test images and two OOD sets."""
    test = digits("test", 50)
    generator = np.random.default_rng(0)
    noise = generator.random((40, 1, 8, 8)).astype(np.float32)
    return {"id": test, "flipped": ImageArray(1 - test.images[:30]), "noise": ImageArray(noise)}


@pytest.mark.parametrize(
    ("odin_step", "mahalanobis_step"), [(0.0, 0.0), (0.0014, 0.0), (0.0, 0.01), (0.0014, 0.01)]
)
def test_calls_per_image(
    trained: Classifier,
    digits: Make,
    splits: dict[str, ImageArray],
    odin_step: float,
    mahalanobis_step: float,
) -> None:
    """One forward for all gradient-free methods; a backward and a forward for each perturbation."""
    detectors: dict[str, Any] = {
        "baseline": oodbench.load_detector("baseline"),
        "entropy": oodbench.load_detector("entropy"),
        "odin": oodbench.load_detector("odin", epsilon=odin_step),
        "mahalanobis": oodbench.load_detector("mahalanobis", epsilon=mahalanobis_step),
    }
    runner = NetworkRunner(trained, batch_size=16, capture=Capture(taps=True))
    images = sum(map(len, splits.values()))
    train = digits("train", 200)
    meter = PassMeter(trained.network, trained.normalized(images_of(splits["id"], trained)))
    network = trained.network
    with runner.attached():
        with counted(network.head) as fits, counted(network.get_submodule("stem")) as starts:
            fit_together(
                {"mahalanobis": detectors["mahalanobis"]}, lambda: pass_outputs(runner, train), 10
            )
        assert sum(fits) == sum(starts) == 200
        with (
            counted(network.head) as ends,
            counted(network.get_submodule("stem")) as starts,
            meter.counting(images),
        ):
            for name, data in splits.items():
                outcome = score_split(runner, data, detectors, dataset=name)
                assert not outcome.errors, outcome.errors
                assert {len(scores) for scores in outcome.scores.values()} == {len(data)}
    odin, mahalanobis = odin_step > 0, mahalanobis_step > 0
    # Multiply-adds of the stem and of the passes that stop after stages 1 to 3 (8x8 images).
    stem = 64 * 9 * 16
    stage1 = stem + 64 * 2 * 9 * 16 * 16
    stage2 = stage1 + 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    stage3 = stage2 + 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    taps = (stem + stage1 + stage2 + stage3) / (stage3 + 640)
    assert sum(ends) == images * (1 + odin)
    assert sum(starts) == images * (1 + odin + 4 * mahalanobis)
    assert meter.forwards == pytest.approx(1 + odin + taps * mahalanobis, rel=1e-9)
    assert meter.backwards == pytest.approx(odin + taps * mahalanobis, rel=1e-9)


def test_scores_do_not_depend_on_who_shares_the_pass(
    trained: Classifier, built_in: Make, splits: dict[str, ImageArray]
) -> None:
    together = {name: oodbench.load_detector(name) for name in ("baseline", "entropy", "odin")}
    data = splits["id"]
    shared, _ = scores_of(trained, data, together, batch_size=16)
    for name, scorer in together.items():
        alone, _ = scores_of(trained, data, {name: scorer}, batch_size=16)
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-5, err_msg=name)
