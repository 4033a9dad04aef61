"""Data and other arguments of `oodbench.evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_detectors import Ensemble, Holding, Learner, Loudest
from helpers.user_network import CLASSES, MEAN, STD, Net, evaluated, made, pairs, refused
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from oodbench import EvaluationResult, Outputs, register
from oodbench.detector import Batches

pytestmark = pytest.mark.usefixtures("quick_evaluation")


@pytest.mark.parametrize("argument", ["id_data", "ood_data", "fit_data", "validation_data"])
@pytest.mark.parametrize("problem", ["empty", "kind", "integers", "range", "nan"])
def test_what_is_wrong_with_data_is_said_with_the_argument(
    trained: Net, argument: str, problem: str
) -> None:
    images, labels = made(30, 5)
    data: Any = {
        "empty": TensorDataset(images[:0], labels[:0]),
        "kind": 17,
        "integers": TensorDataset((255 * images).int(), labels),
        "range": TensorDataset(images * 3 - 1, labels),
        "nan": TensorDataset(images / 0 * 0, labels),
    }[problem]
    name = "ood_data['x']" if argument == "ood_data" else argument
    error = refused(trained, **{argument: {"x": data} if argument == "ood_data" else data})
    assert error.message.startswith(name)
    said = {
        "empty": "is empty",
        "kind": "expected a DataLoader or a Dataset",
        "integers": "images are int32",
        "range": "images are in [0, 1]",
        "nan": "image 0 has values that are not finite",
    }
    assert said[problem] in error.message


def test_images_of_bytes_give_the_scores_of_the_same_images_in_the_unit_interval(
    trained: Net,
) -> None:
    def scores(kind: str) -> EvaluationResult:
        bytes_ = {seed: (255 * made(40, seed)[0]).round().byte() for seed in (5, 6, 7)}
        data = {
            seed: TensorDataset(each if kind == "bytes" else each.float() / 255, made(40, seed)[1])
            for seed, each in bytes_.items()
        }
        return evaluated(
            trained, ["baseline"], id_data=data[5], ood_data={"x": data[6]}, fit_data=data[7]
        )

    given, wanted = scores("bytes"), scores("floats")
    for name in ("id", "x"):
        np.testing.assert_array_equal(
            given.scores["baseline"][name], wanted.scores["baseline"][name]
        )
    assert [note for note in given.notes if "ood_data['x'] gives images of type uint8" in note]
    assert not [note for note in wanted.notes if "uint8" in note]


@pytest.mark.parametrize("argument", ["id_data", "fit_data", "validation_data"])
@pytest.mark.parametrize("label", [CLASSES, -1])
def test_labels_outside_of_the_classes(trained: Net, argument: str, label: int) -> None:
    images, labels = made(300, 5)
    labels[270] = label  # not in the first batch
    error = refused(
        trained,
        ["baseline", Learner(), Holding()],
        **{argument: DataLoader(TensorDataset(images, labels), 100)},
    )
    assert error.message == (
        f"{argument}: image 270 has label {label}; the model has 4 classes, so labels are 0 to 3."
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "ood_data names no data set."),
        ([pairs(3, 0)], "ood_data: expected a mapping from names to data, not a list."),
        ({"id": pairs(3, 0)}, "ood_data: 'id' is what the in-distribution scores are called."),
        ({3: pairs(3, 0)}, "ood_data: expected a name of printable characters, not 3."),
        ({" ": pairs(3, 0)}, "ood_data: expected a name of printable characters, not ' '."),
        (
            {"a\nb": pairs(3, 0)},
            "ood_data: expected a name of printable characters, not 'a\\nb'.",
        ),
    ],
)
def test_ood_data_that_name_none(trained: Net, given: Any, said: str) -> None:
    assert refused(trained, ood_data=given).message == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (((0.5,), (0.0,)), "a standard deviation is positive, not 0."),
        ((MEAN, (0.2, -1.0)), "a standard deviation is positive, not -1."),
        ((MEAN, (0.2,)), "2 means and 1 deviations"),
        (((), ()), "0 means and 0 deviations"),
        ((MEAN,), "expected (mean, std), a number per channel in each"),
        (3, "expected (mean, std), a number per channel in each"),
        (("a", "b"), "expected (mean, std)"),
        ((MEAN, (0.2, float("nan"))), "nan is not a finite number"),
        (((0.1, 0.2, 0.3), (1, 1, 1)), "normalization is for 3 channels, the images of id_data"),
    ],
)
def test_normalizations_that_are_not(trained: Net, given: Any, said: str) -> None:
    assert said in refused(trained, normalization=given).message


def test_numbers_of_classes_and_taps(trained: Net) -> None:
    assert evaluated(trained, ["baseline"], num_classes=CLASSES).num_classes == CLASSES
    error = refused(trained, num_classes=10)
    assert error.message == "num_classes is 10, but the model returns 4 logits for an image."
    error = refused(trained, [Ensemble()], taps=["conv3"])
    assert "has no module 'conv3'" in error.message
    assert "Did you mean 'conv" in error.hint
    assert "'relu' runs 2 times" in refused(trained, taps=["relu"]).message


def test_a_stream_that_cannot_be_read_again(trained: Net) -> None:
    class Twice(Learner):
        def fit(self, batches: Batches) -> None:
            list(batches)
            super().fit(batches)

    class Once(IterableDataset[Any]):
        def __init__(self) -> None:
            images, labels = made(300, 0)
            self.items = iter(list(zip(images, labels, strict=True)))

        def __iter__(self) -> Iterator[Any]:
            return self.items

    assert evaluated(trained, [Learner()], fit_data=Once()).failed == {}
    error = refused(trained, [Twice()], fit_data=Once())
    assert error.message == "fit_data gave 300 images, and 0 when it was read again."


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_loader_for_several_arguments(trained: Net, shuffle: bool) -> None:
    """One whose workers stay has one iterator for all who read it."""
    data = pairs(60, 1)
    loader = DataLoader(data, 16, shuffle, num_workers=1, persistent_workers=True)
    result = evaluated(trained, [Learner()], id_data=loader, fit_data=loader)
    again = evaluated(trained, [Learner()], fit_data=data)
    np.testing.assert_allclose(
        result.scores["learner"]["id"], again.scores["learner"]["id"], rtol=1e-4
    )


def test_an_attack_that_fools_nobody(trained: Net) -> None:
    few = evaluated(trained, ["mahalanobis", "baseline"], validation_data=pairs(10, 4))
    (reason,) = few.failed.values()
    for part in ("attacking validation_data", "of 10 images", "too few to tune on", "give more"):
        assert part in reason
    assert [*few.failed] == ["mahalanobis"]


def test_validation_images_of_several_sizes(trained: Net) -> None:
    batches = [made(9, 0), (torch.rand(9, 2, 8, 8), made(9, 0)[1])]
    result = evaluated(
        trained,
        ["mahalanobis", "baseline"],
        validation_data=DataLoader(batches, batch_size=None),  # type: ignore[arg-type]
    )
    assert "have several sizes" in result.failed["mahalanobis"]


def test_what_tuning_warns_of_is_a_note(trained: Net) -> None:
    @register("warning", needs=("calibration",))
    class Complaining(Loudest):
        def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
            warnings.warn("did not converge\nin file", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluated(trained, [Complaining()])
    assert result.failed == {}
    assert "warning: did not converge." in result.notes


@pytest.mark.parametrize("seed", [None, 1.5, "a", -1, 2**70, True])
def test_seeds_that_are_not(trained: Net, seed: Any) -> None:
    assert refused(trained, seed=seed).message == (
        f"seed: expected a whole number from 0 to 2**63 - 1, not {seed!r}."
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"costs": "no"}, "costs: expected True or False, not 'no'."),
        ({"costs": 1}, "costs: expected True or False, not 1."),
        ({"num_classes": True}, "num_classes: expected a whole number from 1, not True."),
        ({"num_classes": 4.0}, "num_classes: expected a whole number from 1, not 4.0."),
        ({"num_classes": "4"}, "num_classes: expected a whole number from 1, not '4'."),
        ({"normalization": ("0.5", "0.2")}, "normalization: expected (mean, std)"),
        ({"normalization": (True, 0.2)}, "normalization: expected (mean, std)"),
        ({"normalization": ([0.4, "0.5"], STD)}, "normalization: expected (mean, std)"),
    ],
)
def test_arguments_of_another_type(trained: Net, given: dict[str, Any], said: str) -> None:
    assert refused(trained, **given).message.startswith(said)


def test_images_of_another_shape(trained: Net) -> None:
    wider = TensorDataset(torch.rand(5, 2, 6, 9))
    assert evaluated(trained, ["baseline"], ood_data={"wide": wider}).failed == {}
    for size in ((1, 6, 6), (3, 6, 6)):
        error = refused(trained, ood_data={"svhn": torch.rand(5, *size)}, normalization=None)
        assert error.message.startswith(
            f"The model Net cannot take the images of ood_data['svhn'], of shape {list(size)}: "
            "RuntimeError: Given groups=1"
        )
        error = refused(trained, ood_data={"svhn": torch.rand(5, *size)})
        assert error.message == (
            f"normalization is for 2 channels, the images of ood_data['svhn'] have {size[0]}."
        )


def test_images_whose_channels_come_last(trained: Net) -> None:
    images = torch.rand(5, 6, 6, 3)
    error = refused(trained, ood_data={"x": TensorDataset(images)}, normalization=None)
    assert "cannot take the images of ood_data['x'], of shape [6, 6, 3]" in error.message
    assert error.hint.startswith("Their channels come last")
    wide = refused(trained, ood_data={"x": torch.rand(5, 7, 6, 6)}, normalization=None)
    assert wide.hint.startswith("Give images of the size and with the channels")
