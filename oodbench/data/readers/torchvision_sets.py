"""Kind `torchvision`: data sets in the formats of torchvision.

The files are those that torchvision's classes download. oodbench reads them itself: torchvision
unpickles CIFAR without restrictions (see `oodbench.data.readers.cifar`), and accepts arrays of
types and shapes that the original files do not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from oodbench.data.array_checks import require_labels, require_pixels
from oodbench.data.reader_options import call
from oodbench.data.readers.cifar import read_batches
from oodbench.data.stored_images import StoredImages, images_of_array, stamp
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import DatasetSpec, SplitName

T = TypeVar("T")
_MOST_VALUES = 1 << 31
"""Maximum number of values of a MATLAB array, which may be compressed a thousand times."""

StoredSplit = Literal["train", "test"]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]
"""Images [N, C, H, W], labels [N], and the files that were read, as paths in the folder."""


def cifar10(folder: Path, split: StoredSplit) -> Arrays:
    """CIFAR-10, python version: five training batches, one test batch."""
    parts = [f"data_batch_{n}" for n in range(1, 6)] if split == "train" else ["test_batch"]
    files = tuple(f"cifar-10-batches-py/{part}" for part in parts)
    return (*read_batches([folder / file for file in files], b"labels"), files)


def cifar100(folder: Path, split: StoredSplit) -> Arrays:
    """CIFAR-100, python version, with the 100 fine labels."""
    file = f"cifar-100-python/{split}"
    return (*read_batches([folder / file], b"fine_labels"), (file,))


def svhn(folder: Path, split: StoredSplit) -> Arrays:
    """Street View House Numbers, format 2; the digit 0 is stored as 10 and gets label 0.

    `X` is uint8 of shape [32, 32, 3, N], `y` N integers from 1 to 10.
    """
    file = f"{split}_32x32.mat"
    path = folder / file
    stored = _read(path, _mat)
    for name in ("X", "y"):
        if name not in stored:
            raise UserError(f"{path} has no array '{name}'.", "It is not a file of SVHN, format 2.")
    require_pixels(stored["X"], f"{path}: array 'X'", (32, 32, 3, "N"))
    images = stored["X"].transpose(3, 2, 0, 1)
    digits = require_labels(stored["y"], f"{path}: array 'y'", len(images))
    wrong = digits[(digits < 1) | (digits > 10)]
    if len(wrong):
        raise UserError(
            f"{path}: array 'y' has the label {wrong[0]}; expected 1 to 10 (10 is the digit 0).",
            "Store the digit 0 as 10.",
        )
    return images, digits % 10, (file,)


def _mnist(folder: Path, split: StoredSplit) -> Arrays:
    """A data set in MNIST's format (idx): images uint8 of shape [N, H, W], labels N bytes."""
    prefix = "train" if split == "train" else "t10k"
    files = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    images, labels = (_read(folder / file, _idx) for file in files)
    require_pixels(images, f"{folder / files[0]}: its array", ("N", "H", "W"))
    targets = require_labels(labels, f"{folder / files[1]}: its array", len(images))
    return images[:, None], targets, files


def _mat(path: Path) -> dict[str, Any]:
    """The arrays of a file. SciPy reads logical arrays as uint8; here they become bool."""
    from scipy.io import loadmat, whosmat

    about = [each for each in whosmat(path, appendmat=False) if each[0] in ("X", "y")]
    for name, shape, _ in about:
        if math.prod(shape) > _MOST_VALUES:
            raise ValueError(f"its array '{name}' has {math.prod(shape):,} values")
    arrays: dict[str, Any] = loadmat(path, appendmat=False, variable_names=["X", "y"])
    for name, _, kind in about:
        if kind == "logical" and name in arrays:
            arrays[name] = arrays[name].astype(bool)
    return arrays


def _idx(path: Path) -> NDArray[Any]:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    array: NDArray[Any] = read_sn3_pascalvincent_tensor(str(path)).numpy()
    return array


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    """Call a library's reader; its errors become messages that name the file."""
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # SciPy and torchvision raise many types for damaged files
        reason = (str(error).splitlines() or [""])[0].rstrip(
            "."
        ) or "the content is not in this format"
        raise UserError(
            f"cannot read {path}: {reason}.", "It is damaged or has another format."
        ) from error


READERS: Mapping[str, Callable[..., Arrays]] = MappingProxyType(
    {
        "CIFAR10": cifar10,
        "CIFAR100": cifar100,
        "SVHN": svhn,
        "MNIST": _mnist,
        "FashionMNIST": _mnist,
        "KMNIST": _mnist,
    }
)
"""By the names of torchvision's classes."""

_PICKLED = ("CIFAR10", "CIFAR100")
"""Readers that unpickle their files, which must come from an archive with a known checksum."""


def open_torchvision(spec: DatasetSpec, split: SplitName, folder: Path) -> StoredImages:
    """The images of a split, in the order of the files.

    Raises:
        UserError: the manifest names an unknown reader or lacks the archive that it needs, the
            data set has no such split, or its files cannot be read.
    """
    assert spec.builder is not None  # checked by DatasetSpec
    reader = READERS.get(spec.builder)
    if reader is None:
        raise UserError(
            f"data set '{spec.name}': there is no torchvision reader '{spec.builder}'",
            did_you_mean(spec.builder, READERS),
        )
    if spec.builder in _PICKLED and all(file.unpacked_limit is None for file in spec.files):
        raise UserError(
            f"data set '{spec.name}': {spec.builder} needs 'files' with its archive: pickled files "
            "are read only from an archive with the manifest's checksum.",
            f"Copy 'files' from 'data_manifests/{spec.builder.lower()}.yaml'. To avoid the "
            "download, put the archive into the data set's folder.",
        )
    if split == "validation":
        raise UserError(
            f"data set '{spec.name}': {spec.builder} has no validation split.",
            "Take it from train: 'split_from: {validation: train}' in the manifest.",
        )
    images, labels, files = call(spec, split, f"builder '{spec.builder}'", reader, folder, split)
    stamps = [stamp(folder, file) for file in files]
    return images_of_array(images, labels, stamps)
