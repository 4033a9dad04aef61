"""How a user's images are resized, cropped and normalized: as the models or the user says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from oodbench.data.store.download import offline
from oodbench.errors import UserError, counted
from oodbench.models import network_info
from oodbench.models.published_weights.library_networks import preprocessing_of
from oodbench.models.published_weights.preprocessing import Preprocessing
from oodbench.models.published_weights.weights_file import read_weights
from oodbench.models.registry import is_callable_name, library_of
from oodbench.specs import (
    EvaluationRequest,
    NormalizationSpec,
    RequestedModel,
    ResizeSpec,
    TransformSpec,
)
from oodbench.user_benchmark.folder_scan import FoundImages

_SEEN = 16
"""Images of each set whose sizes are compared, if no model says its size."""

_CHOICES = (
    "Give --transform imagenet (resize 256, crop 224), a size such as 32x32, or a YAML file with "
    "shape and resize."
)


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the images of an evaluation are prepared.

    Attributes:
        shape: channels, height, width.
        resize: how images of other sizes get there; None: all images have this size.
        normalization: model -> its normalization; None: its weights say it.
        note: where this is from, for the user.
    """

    shape: tuple[int, int, int]
    resize: ResizeSpec | None
    normalization: Mapping[str, NormalizationSpec | None]
    note: str


def preparation(
    request: EvaluationRequest, folder: Path, found: Iterable[FoundImages]
) -> Preparation:
    """How the images of an evaluation are prepared.

    Args:
        request: models, and the transform that the user gives.
        folder: the folder that paths of the request are relative to.
        found: the images.

    Raises:
        UserError: nothing says how a model's images are prepared, models want other ones, or a
            network is not known.
    """
    said = {name: _said(model, folder) for name, model in request.model.items()}
    given = request.transform
    normalization = {
        name: _normalization(name, model, said[name], given)
        for name, model in request.model.items()
    }
    if given is not None:
        return Preparation(given.shape, given.resize, normalization, "as --transform says")
    sized = {name: each for name, each in said.items() if each is not None and each.size}
    if not sized:
        lengths = {len(each.mean) for each in normalization.values() if each is not None}
        lengths |= {len(each.mean) for each in said.values() if each is not None}
        size = _common_size(request, list(found))
        text = f"as they are: all have {size[0]}x{size[1]} pixels"
        return Preparation((max(lengths, default=3), *size), None, normalization, text)
    for name, each in sized.items():
        if each.how is None:
            raise UserError(
                f"Model '{name}' ({request.model[name].network}) prepares images in a way that "
                f"oodbench does not ({each.resize}).",
                _CHOICES,
            )
    (first, wanted), *others = sized.items()
    for name, each in others:
        if (each.size, each.how) != (wanted.size, wanted.how):
            raise UserError(
                f"Models '{first}' and '{name}' prepare images differently: {wanted.resize}; "
                f"{each.resize}.",
                f"One board has the same images for all. {_CHOICES}",
            )
    assert wanted.size is not None
    note = f"as '{first}' says: {wanted.resize}"
    return Preparation((len(wanted.mean), *wanted.size), wanted.how, normalization, note)


def _said(model: RequestedModel, folder: Path) -> Preprocessing | None:
    """What a model's weights say; None if they do not say anything.

    Raises:
        UserError: if there is no such network or checkpoint.
    """
    library, network = library_of(model.network), model.network
    if library is None and not is_callable_name(network):
        info = network_info(network)
        stored = _of_file(folder / model.checkpoint) if model.checkpoint else None
        return stored or (Preprocessing(*info.normalization) if info.normalization else None)
    if library is None:
        return None
    if library in ("torchvision", "timm", "hf"):
        found = preprocessing_of(network, model.weights, offline=offline())
        # A checkpoint of torchvision is the user's own; timm's name says what its images are.
        return None if library == "torchvision" and model.checkpoint else found
    from oodbench.models.vision_language.sources import load_encoders

    return load_encoders(network, offline=offline()).preprocessing


def _of_file(path: Path) -> Preprocessing | None:
    """The normalization that a checkpoint of oodbench has."""
    tensors: Mapping[str, Tensor] = read_weights(path).tensors
    mean, std = tensors.get("mean"), tensors.get("std")
    if mean is None or std is None or mean.numel() != std.numel():
        return None
    return Preprocessing(tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))


def _normalization(
    name: str, model: RequestedModel, said: Preprocessing | None, given: TransformSpec | None
) -> NormalizationSpec | None:
    """The normalization of a model's spec; None if its weights have it."""
    own = model.normalization or (given.normalization if given is not None and not said else None)
    if own is not None:
        channels = max(3, len(own.mean)) if given is None else given.shape[0]
        mean, std = (
            values * channels if len(values) == 1 else values[:channels]
            for values in (own.mean, own.std)
        )
        return NormalizationSpec(mean=mean, std=std)
    if said is not None:
        return None
    kind = "a checkpoint" if model.checkpoint else "your own network"
    raise UserError(
        f"Model '{name}' ({model.network}) is {kind}, which does not say how its images are "
        "prepared.",
        "Give --transform imagenet, or --normalization MEAN/STD for pixels in [0, 1], such as "
        "0.5,0.5,0.5/0.2,0.2,0.2 (none: the model does it itself), and for images of other sizes "
        "--transform 32x32.",
    )


def _common_size(request: EvaluationRequest, found: Sequence[FoundImages]) -> tuple[int, int]:
    """The size that all images have.

    Raises:
        UserError: if they have several.
    """
    sizes = {size: each for each in found for size in sorted(each.sizes(_SEEN))}
    if len(sizes) == 1:
        return next(iter(sizes))
    names = ", ".join(model.network for model in request.model.values())
    if not sizes:
        raise UserError(f"{found[0].option}: none of its first images can be read.")
    (one, other), *_ = zip(list(sizes.items())[:1], list(sizes.items())[1:2], strict=True)
    raise UserError(
        f"Images have {counted(len(sizes), 'size')} ({_size(*one)}, {_size(*other)}), and {names} "
        "does not say which one it takes.",
        _CHOICES,
    )


def _size(size: tuple[int, int], found: FoundImages) -> str:
    return f"{size[0]}x{size[1]} in {found.option}"
