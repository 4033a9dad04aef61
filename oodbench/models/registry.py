"""Names of networks and heads. Imports no torch: lists and plans read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oodbench.detector import HeadKind
from oodbench.specs.model_spec import LIBRARIES, ModelSpec

TRAINED = "trained by the benchmark"
INPUT_SIZE = "3x32x32"
"""The images that the networks by name are made for; they take others."""

IMAGENET_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network that `oodbench.models.create` makes.

    Attributes:
        summary: one line for lists.
        factory: "module:callable", called with make_head, in_channels and `options`.
        options: fixed arguments of the factory.
        macs_32: multiply-adds of its convolutions for one image of 3x32x32; they grow with the
            number of pixels. None: not known.
        parameters: number of parameters, for 3 channels and a linear last layer of 10 classes.
        weights: where its weights come from, for lists.
        normalization: mean and standard deviation per channel of its published weights; None if
            they differ from checkpoint to checkpoint.
    """

    summary: str
    factory: str
    options: Mapping[str, Any]
    macs_32: float
    parameters: int
    weights: str = TRAINED
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """A last layer and its loss.

    Attributes:
        kind: what a detector sees of it (`oodbench.detector.Head.kind`). "dismax" stands for
            all heads whose logits are minus distances to prototypes; features and prototypes may
            be normalized, and logits scaled, or shifted equally for all classes.
        layer, loss: names of the classes in `oodbench.losses`.
        loss_options: names of the options of both.
        layer_options: those of them that the layer takes; the loss takes the others.
        calibrated: whether the layer has a `temperature`, to be set on validation data after
            training.
        bound: whether the loss is made with the layer.
        auxiliary: whether the loss needs auxiliary images.
        rotations: whether a second layer tells by how much an image is rotated.
        passes: images that pass the network in training for each training image, without auxiliary
            ones.
    """

    kind: HeadKind
    layer: str
    loss: str
    loss_options: tuple[str, ...] = ()
    layer_options: tuple[str, ...] = ()
    calibrated: bool = False
    bound: bool = False
    auxiliary: bool = False
    rotations: bool = False
    passes: int = 1


_OPTION_A = (
    (3, 40_550_400, 269_722),
    (5, 68_861_952, 464_154),
    (7, 97_173_504, 658_586),
    (9, 125_485_056, 853_018),
)
"""Of the networks with option-A shortcuts: n of 6n + 2 layers, multiply-adds, parameters."""


def _option_a(blocks: int, macs: float, parameters: int) -> NetworkInfo:
    return NetworkInfo(
        f"CIFAR network of He et al. 2016, {6 * blocks + 2} layers, option-A shortcuts; "
        "4 feature layers",
        "oodbench.models.published_networks:PublishedResNet",
        {
            "blocks": (blocks,) * 3,
            "widths": (16, 32, 64),
            "shortcut": "padding",
            "head_name": "linear",
        },
        macs,
        parameters,
        "Y. Idelbayev's checkpoints, or trained",
        IMAGENET_NORMALIZATION,
    )


NETWORKS: Mapping[str, NetworkInfo] = {
    "resnet8": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=1, widths 16/32/64; 4 feature layers",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 1},
        12_500_992,
        78_042,
    ),
    "resnet20": NetworkInfo(
        "CIFAR-style residual network, 6n+2 layers with n=3, widths 16/32/64; 4 feature layers",
        "oodbench.models.resnet:small_resnet",
        {"blocks_per_stage": 3},
        40_812_544,
        272_474,
    ),
    "resnet18": NetworkInfo(
        "ResNet-18 for small images (3x3 stem, no pooling), widths 64/128/256/512; "
        "5 feature layers",
        "oodbench.models.resnet:large_resnet",
        {"blocks": (2, 2, 2, 2)},
        555_417_600,
        11_173_962,
    ),
    "resnet34": NetworkInfo(
        "ResNet-34 for small images (3x3 stem, no pooling), widths 64/128/256/512; "
        "5 feature layers",
        "oodbench.models.resnet:large_resnet",
        {"blocks": (3, 4, 6, 3)},
        1_159_397_376,
        21_282_122,
    ),
    "densenet_bc100": NetworkInfo(
        "DenseNet-BC for small images, 100 layers, growth 12; 4 feature layers",
        "oodbench.models.densenet:densenet",
        {"depth": 100, "growth": 12},
        287_926_272,
        769_162,
    ),
    "resnet18_32x32": NetworkInfo(
        "ResNet-18 for small images, names of OpenOOD; 5 feature layers",
        "oodbench.models.published_networks:PublishedResNet",
        {
            "blocks": (2, 2, 2, 2),
            "widths": (64, 128, 256, 512),
            "shortcut": "projection",
            "head_name": "fc",
        },
        555_417_600,
        11_173_962,
        "OpenOOD's checkpoints, or trained",
    ),
    "wrn40_2": NetworkInfo(
        "Wide residual network, depth 40, widening 2, names of OpenOOD; 4 feature layers",
        "oodbench.models.published_networks:PublishedWideResNet",
        {"depth": 40, "widening": 2},
        327_598_080,
        2_243_546,
        "checkpoints in OpenOOD's layout, or trained",
    ),
    **{f"resnet{6 * n + 2}_option_a": _option_a(n, macs, size) for n, macs, size in _OPTION_A},
}

HEADS: Mapping[str, HeadInfo] = {
    "softmax": HeadInfo("linear", "SoftMaxHead", "SoftMaxLoss"),
    "dismax": HeadInfo("dismax", "DisMaxHead", "DisMaxLoss", ("alpha",)),
    "isomax_plus": HeadInfo("dismax", "IsoMaxPlusHead", "IsoMaxPlusLoss", ("alpha",)),
    "dismax2022": HeadInfo(
        "dismax",
        "DisMax2022Head",
        "DisMax2022Loss",
        ("alpha", "mixed_quadrants"),
        calibrated=True,
    ),
    "logitnorm": HeadInfo("linear", "LogitNormHead", "LogitNormLoss", ("tau",)),
    "t2fnorm": HeadInfo("linear", "T2FNormHead", "SoftMaxLoss", ("tau",), layer_options=("tau",)),
    "oe": HeadInfo("linear", "OEHead", "OELoss", ("weight",), auxiliary=True),
    "vos": HeadInfo(
        "linear",
        "VOSHead",
        "VOSLoss",
        ("weight", "start", "queue", "samples", "select"),
        bound=True,
    ),
    "rotpred": HeadInfo(
        "linear",
        "RotPredHead",
        "RotPredLoss",
        ("weight",),
        bound=True,
        rotations=True,
        passes=4,
    ),
}


AUXILIARY_HINT = "Write auxiliary: {dataset: NAME} for a model with head oe, and only there."


def auxiliary_problem(model: ModelSpec) -> str | None:
    """Why a model's `auxiliary` does not fit the loss that it is trained with, or None."""
    needed = HEADS[model.head].auxiliary and model.training is not None
    if needed and model.auxiliary is None:
        return f"the loss of head '{model.head}' needs auxiliary images, and none are named"
    if not needed and model.auxiliary is not None:
        return f"the loss of head '{model.head}' takes no auxiliary images"
    return None


_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_IN_FILE = re.compile(r"(?P<file>.+\.py):[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class LibraryNetwork:
    """A network of another library, or all of its networks.

    Attributes:
        summary: one line for lists.
        weights: the value of `weights` in a model's spec, and where they come from.
        parameters: their number; None for all networks of a library.
        input_size: "channels x height x width" that the weights were made for; None likewise.
    """

    summary: str
    weights: str
    parameters: int | None = None
    input_size: str | None = None


LIBRARY_NETWORKS: Mapping[str, LibraryNetwork] = {
    "torchvision:resnet50": LibraryNetwork(
        "ResNet-50 of OpenOOD's ImageNet-1k leaderboard",
        "IMAGENET1K_V1 (download.pytorch.org)",
        25_557_032,
        "3x224x224",
    ),
    "torchvision:vit_b_16": LibraryNetwork(
        "ViT-B/16 of OpenOOD's ImageNet-1k leaderboard",
        "IMAGENET1K_V1 (download.pytorch.org)",
        86_567_656,
        "3x224x224",
    ),
    "torchvision:swin_t": LibraryNetwork(
        "Swin-T of OpenOOD's ImageNet-1k leaderboard",
        "IMAGENET1K_V1 (download.pytorch.org)",
        28_288_354,
        "3x224x224",
    ),
    "torchvision:regnet_y_16gf": LibraryNetwork(
        "RegNetY-16GF of OpenOOD's ImageNet-1k leaderboard",
        "IMAGENET1K_SWAG_E2E_V1 (download.pytorch.org)",
        83_590_140,
        "3x384x384",
    ),
    "torchvision:NAME": LibraryNetwork(
        "Any classifier of torchvision.models",
        "IMAGENET1K_V2 or others by name, a checkpoint, or trained",
    ),
    "timm:NAME": LibraryNetwork(
        "Any classifier of timm (pip install 'oodbench[timm]')",
        "pretrained (Hugging Face Hub), a checkpoint, or trained",
    ),
    "open_clip:NAME/TAG": LibraryNetwork(
        "Any CLIP model of open_clip, zero-shot (pip install 'oodbench[clip]')",
        "its weights by tag, as in open_clip:ViT-B-32/openai, or a file",
    ),
    "hf_clip:PATH": LibraryNetwork(
        "Any model of transformers with image and text features, zero-shot",
        "pretrained (Hub, or your folder)",
    ),
    "hf:PATH": LibraryNetwork(
        "Any image classifier of transformers (pip install 'oodbench[transformers]')",
        "pretrained (Hub, or your folder)",
    ),
}
"""Networks of other libraries for lists: those of leaderboards, then the form of the others."""


def library_of(network: str) -> str | None:
    """The library that a network comes from with its weights, by its name: "torchvision", ..."""
    library, colon, name = network.partition(":")
    return library if colon and name and library in LIBRARIES else None


def is_callable_name(network: str) -> bool:
    """Whether a network is named "module:callable" or "FILE.py:callable", and not as in NETWORKS.

    "torchvision:NAME" stands for torchvision.models:NAME.
    """
    return _CALLABLE.fullmatch(network) is not None or source_file(network) is not None


def source_file(network: str) -> str | None:
    """The file of a network that is named "FILE.py:callable"; None for other names."""
    found = _IN_FILE.fullmatch(network)
    return found["file"] if found else None
