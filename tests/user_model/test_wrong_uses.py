"""Wrong uses of `oodbench.evaluate`: one message each, of what is wrong and what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.user_network import (
    CLASSES,
    MEAN,
    STD,
    Net,
    evaluated,
    made,
    pairs,
    plainly,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench import UserError

pytestmark = pytest.mark.usefixtures("quick_evaluation")

IMAGES, LABELS = made(40, 5)


def labeled(images: Tensor = IMAGES, labels: Tensor = LABELS) -> TensorDataset:
    return TensorDataset(images, labels)


class WithoutHead(nn.Module):
    """Gives features: its last layer was taken off."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).eval()
        self.net.fc = nn.Identity()

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


def with_nan(images: Tensor) -> Tensor:
    changed = images.clone()
    changed[7, 0, 0, 0] = torch.nan
    return changed


def black_box(net: Net, change: Callable[[Net], nn.Module]) -> Callable[[Tensor], Any]:
    inside = change(copy.deepcopy(net).eval())
    return lambda images: inside(images)


def broken(net: Net) -> Net:
    changed = copy.deepcopy(net)
    changed.fc.bias.data[1] = torch.nan
    return changed


def sizes(*sides: int) -> list[tuple[Tensor, int]]:
    return [(torch.rand(2, side, side), 0) for side in sides]


Use = Callable[[Net], dict[str, Any]]
ERRORS: dict[str, tuple[Use, str, str]] = {
    "no labels, from a shuffling loader": (
        lambda net: {
            "detectors": ["mahalanobis_single"],
            "fit_data": DataLoader(TensorDataset(IMAGES), 8, shuffle=True),
        },
        "No detector can run",
        "mahalanobis_single: needs labels; fit_data has none",
    ),
    "no images": (
        lambda net: {"id_data": labeled(IMAGES[:0], LABELS[:0])},
        "id_data is empty",
        "Give a DataLoader or a Dataset",
    ),
    "images of several sizes": (
        lambda net: {"id_data": sizes(6, 6, 7)},
        "id_data: image 2 has shape [2, 7, 7], those before it [2, 6, 6]",
        "Resize(",
    ),
    "images from 0 to 255": (
        lambda net: {"id_data": labeled(IMAGES * 255)},
        "with normalization given, images are in [0, 1]",
        "Divide images of bytes by 255",
    ),
    "normalized images beside normalization": (
        lambda net: {"id_data": plainly(labeled())},
        "with normalization given, images are in [0, 1]",
        "normalization=None",
    ),
    "normalization of images of bytes": (
        lambda net: {"normalization": ((102.0, 127.5), (51.0, 64.0))},
        "normalization: a mean of 127.5",
        "by 255",
    ),
    "normalization of another length": (
        lambda net: {"normalization": ((0.5,) * 3, (0.2,) * 3)},
        "normalization is for 3 channels, the images of id_data have 2",
        "",
    ),
    "labels that count from 1": (
        lambda net: {"id_data": labeled(labels=LABELS + 1)},
        "has label 4; the model has 4 classes, so labels are 0 to 3",
        "count from 1",
    ),
    "labels that are one-hot": (
        lambda net: {"id_data": labeled(labels=F.one_hot(LABELS, CLASSES))},
        "id_data: labels of 40 images have shape [40, 4]",
        "argmax",
    ),
    "a function of a model in float64": (
        lambda net: {"model": black_box(net, nn.Module.double)},
        "should be the same",
        "model(images.double())",
    ),
    "a last layer that is not there": (
        lambda net: {"detectors": ["knn"], "head": "fcc"},
        "head: the model Net has no module 'fcc'",
        "'fc'",
    ),
    "a function where features are needed": (
        lambda net: {"detectors": ["knn", "vim"], "model": black_box(net, nn.Module.eval)},
        "No detector can run",
        "knn, vim: needs the features",
    ),
    "another number of classes": (
        lambda net: {"num_classes": 10},
        "num_classes is 10, but the model returns 4 logits",
        "Leave num_classes out",
    ),
    "a detector that is misspelled": (
        lambda net: {"detectors": ["mahalanobis_singel"]},
        "There is no detector 'mahalanobis_singel'",
        "'mahalanobis_single'",
    ),
    "a feature layer that is misspelled": (
        lambda net: {"detectors": [oodbench.load_detector("knn", layers=["bn3"])]},
        "No detector can run",
        "knn: layers: the network has no feature layer 'bn3'. It has: bn1, bn2, features",
    ),
    "a fitted instance without the data to fit on": (
        lambda net: {
            "detectors": [evaluated(net, ["knn"]).detectors["knn"]],
            "fit_data": None,
        },
        "No detector can run",
        "knn: needs fit_data",
    ),
    "images that are not finite": (
        lambda net: {"ood_data": {"far": TensorDataset(with_nan(IMAGES))}},
        "ood_data['far']: image 7 has values that are not finite",
        "",
    ),
    "logits that are not finite": (
        lambda net: {"model": broken(net)},
        "The model's logits for image 0 of id_data are not finite",
        "weights",
    ),
    "OOD data without names": (
        lambda net: {"ood_data": [pairs(9, 0)]},
        "ood_data: expected a mapping from names to data, not a list",
        '{"name": ...}',
    ),
    "a tuple of images and labels": (
        lambda net: {"id_data": (IMAGES, LABELS)},
        "id_data: images and labels come as a tuple of arrays",
        "TensorDataset(images, labels)",
    ),
    "a generator": (
        lambda net: {"id_data": (pair for pair in labeled())},
        "id_data: a generator can be read only once",
        "begins anew",
    ),
    "a folder": (
        lambda net: {"id_data": "images/"},
        "id_data: expected a DataLoader or a Dataset",
        "ImageFolder",
    ),
    "weights without a network": (
        lambda net: {"model": net.state_dict()},
        "not a Tensor",
        "load_state_dict",
    ),
    "a list of models": (lambda net: {"model": [net, net]}, "not a list", '{"name": model'),
    "features of another model": (
        lambda net: {"model": nn.Sequential(net.conv1, net.bn1)},
        "shape [3, 8, 6, 6] for 3 images, not logits",
        "output=",
    ),
}


@pytest.mark.parametrize("use", ERRORS)
def test_an_error(trained: Net, use: str) -> None:
    make, message, hint = ERRORS[use]
    given = {"model": trained, "detectors": ["baseline"], **make(trained)}
    with pytest.raises(UserError) as caught:
        evaluated(given.pop("model"), given.pop("detectors"), **given)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


REMARKS: dict[str, tuple[Use, str]] = {
    "bytes to fit on, normalized images to score": (
        lambda net: {
            "normalization": None,
            "fit_data": labeled((IMAGES * 255).byte()),
            "id_data": plainly(labeled()),
        },
        "Give all data sets the same transform",
    ),
    "images from 0 to 255 beside others": (
        lambda net: {"normalization": None, "id_data": labeled(IMAGES * 255)},
        "Give all data sets the same transform",
    ),
    "a function of a model in training mode": (
        lambda net: {"model": black_box(net, nn.Module.train)},
        "Call .eval()",
    ),
    "one set as ID and as OOD": (
        lambda net: {"id_data": labeled(), "ood_data": {"far": labeled()}},
        "id_data and ood_data['far'] hold the same 40 images",
    ),
    "images of one class to fit on": (
        lambda net: {
            "detectors": ["baseline", "mahalanobis_single"],
            "fit_data": labeled(labels=torch.zeros_like(LABELS)),
        },
        "no training image of class 1, 2, 3",
    ),
    "features for logits": (
        lambda net: {"model": WithoutHead(net)},
        "No layer was found that gives the 8 outputs of WithoutHead: if they are features",
    ),
    "labels of another order": (
        lambda net: {"fit_data": labeled(labels=LABELS.flip(0))},
        "check the labels, the order of the classes and the preprocessing",
    ),
}


@pytest.mark.parametrize("use", REMARKS)
def test_what_may_be_meant_is_a_remark(trained: Net, use: str) -> None:
    make, said = REMARKS[use]
    given = {"model": trained, "detectors": ["baseline", "knn"], **make(trained)}
    result = evaluated(given.pop("model"), given.pop("detectors"), **given)
    remarks = [*result.notes, *result.warnings, *result.failed.values()]
    assert len([remark for remark in remarks if said in remark]) == 1
    assert "baseline" in result.scores


def test_what_is_right_has_no_remark(trained: Net) -> None:
    result = evaluated(trained, ["baseline", "knn"], normalization=(MEAN, STD))
    assert [*result.warnings, *result.failed, *result.skipped] == []
    assert not any("No layer was found" in note for note in result.notes)
