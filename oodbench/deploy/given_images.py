"""Images to score as they are given: a tensor, a DataLoader, a Dataset, files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data.duplicates import fingerprints
from oodbench.deploy.deployed_model import DeployedModel
from oodbench.deploy.model_identity import InputKind
from oodbench.engine.passes.image_sources import ImageSource
from oodbench.errors import UserError
from oodbench.models.structure.model_call import inputs_beside_images
from oodbench.models.structure.user_network import UserNetwork
from oodbench.user_data.batch_contents import check_values, image_batch, is_array
from oodbench.user_data.dataloader import LoadedImages
from oodbench.user_data.image_files import ImageFile, ImageStream, find_images, usual_batch_size


class TensorImages:
    """Images that are in memory, as a source of batches.

    Args:
        images: shape [N, ...], a tensor or an array; uint8 is scaled to [0, 1].
        name: the name in messages.
        in_unit_range: whether values must be in [0, 1].

    Raises:
        UserError: there is no image, or values are not valid.
    """

    def __init__(self, images: Tensor | NDArray[Any], name: str, *, in_unit_range: bool) -> None:
        self.name = name
        given = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if given.ndim == 0 or not len(given):
            raise UserError(f"{name} is empty: it has no images.", "Give some.")
        self.images = image_batch(given.detach(), name, 0)
        check_values(self.images, name, 0, in_unit_range=in_unit_range)

    @property
    def size(self) -> int:
        """N."""
        return len(self.images)

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """One for each image (`data.duplicates`)."""
        return fingerprints(self.images)

    def first(self) -> tuple[Tensor, None]:
        """The first batch."""
        return self.images[: self._length], None

    def batches(self) -> Iterator[tuple[Tensor, None]]:
        """All batches in order."""
        for start in range(0, len(self.images), self._length):
            yield self.images[start : start + self._length], None

    @property
    def _length(self) -> int:
        """Images of a batch, as of a Dataset of such images."""
        return usual_batch_size(tuple(self.images.shape[1:]))


def source_of(
    data: Any,
    model: DeployedModel,
    name: str,
    unreadable: Callable[[ImageFile, str], None],
) -> ImageSource:
    """Images that a user gives, as a source of batches.

    Args:
        data: a tensor or array [N, ...]; a DataLoader or a Dataset; a file, a folder, or a list of
            them; or a source.
        model: that they are for.
        name: the argument that they were given as.
        unreadable: called with each file that cannot be read, and the reason.

    Raises:
        UserError: they are something else, or do not fit the model.
    """
    unit = model.inputs.in_unit_range
    source: ImageSource
    if is_array(data):
        source = TensorImages(data, name, in_unit_range=unit)
    elif places := _places(data):
        source = _files(places, model, name, unreadable)
    elif all(hasattr(data, method) for method in ("name", "size", "first", "batches")):
        source = data
    else:
        loaded = LoadedImages(data, name, labeled=False)
        loaded.in_unit_range = unit
        network = model.classifier.network
        if isinstance(network, UserNetwork):
            loaded.model_inputs = inputs_beside_images(network.module, network.inputs)
        source = loaded
    first = source.first()[0]
    if not len(first):
        raise UserError(f"{name}: no image can be read.", "Give files of images.")
    _check_shape(first, model.inputs, name)
    return source


def _places(data: Any) -> list[str | Path]:
    """Paths; [] if it is none and no list of some."""
    if isinstance(data, str | PathLike):
        return [Path(data)]
    if isinstance(data, list | tuple) and data and all(isinstance(e, str | PathLike) for e in data):
        return [Path(each) for each in data]
    return []


def _files(
    places: Sequence[str | Path],
    model: DeployedModel,
    name: str,
    unreadable: Callable[[ImageFile, str], None],
) -> ImageStream:
    prepared = model.preparation
    if prepared is None:
        raise UserError(
            f"{name}: how image files are prepared for this model is not known.",
            "Give a Dataset with the transform that the model was tested with, such as "
            "torchvision.datasets.ImageFolder(folder, transform).",
        )
    found = find_images(places)
    return ImageStream(
        found.files,
        prepared.shape,
        prepared.resize,
        batch_size=usual_batch_size(prepared.shape),
        report=unreadable,
        name=name,
    )


def _check_shape(images: Any, inputs: InputKind, name: str) -> None:
    """Refuse a single image, and images with other axes or channels than those fitted on."""
    shape, expected = tuple(images.shape[1:]), inputs.shape
    if tuple(images.shape) == expected:
        raise UserError(
            f"{name}: expected images {_said(('N', *expected))}, not one image {list(expected)}.",
            "Add the axis of the images: images[None].",
        )
    same = len(shape) == len(expected) and shape[:1] == expected[:1]
    if not same and inputs.largest is None:
        raise UserError(
            f"{name}: the images have the shape {list(shape)}, and the detector was fitted on "
            f"images of {list(expected)}.",
            "Prepare them as those.",
        )


def _said(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"
