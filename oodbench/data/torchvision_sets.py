"""Kind `torchvision`: data sets in the formats that torchvision reads.

torchvision's classes are given the folder that oodbench has filled, and their own checks of
integrity are switched off: the checksum of every archive and the record of every unpacked file say
more. CIFAR alone is read here, because torchvision unpickles it (see `oodbench.data.cifar`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oodbench.data.cifar import read_batches
from oodbench.data.options import call
from oodbench.data.sources import Source, array_source, stamp
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import DatasetSpec, SplitName

StoredSplit = Literal["train", "test"]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]
"""Images [N, C, H, W], labels [N], and the files they were read from, as paths in the folder."""


def cifar10(folder: Path, split: StoredSplit) -> Arrays:
    """CIFAR-10, python version: five batches to train with, one to test with."""
    parts = [f"data_batch_{n}" for n in range(1, 6)] if split == "train" else ["test_batch"]
    files = tuple(f"cifar-10-batches-py/{part}" for part in parts)
    return (*read_batches([folder / file for file in files], b"labels"), files)


def cifar100(folder: Path, split: StoredSplit) -> Arrays:
    """CIFAR-100, python version, with its hundred fine labels."""
    file = f"cifar-100-python/{split}"
    return (*read_batches([folder / file], b"fine_labels"), (file,))


def svhn(folder: Path, split: StoredSplit) -> Arrays:
    """Street View House Numbers, format 2; the digit 0, which is stored as 10, is label 0."""
    from torchvision.datasets import SVHN

    class Unchecked(SVHN):  # type: ignore[misc]
        def _check_integrity(self) -> bool:
            return True

    data = Unchecked(str(folder), split=split)
    return data.data, np.atleast_1d(data.labels), (f"{split}_32x32.mat",)


def _mnist(name: str) -> Callable[[Path, StoredSplit], Arrays]:
    """A reader of MNIST or of a set in its format (idx)."""

    def read(folder: Path, split: StoredSplit) -> Arrays:
        from torchvision import datasets

        class Here(getattr(datasets, name)):  # type: ignore[misc]
            """Its files lie in the folder itself, not in <folder>/<name>/raw."""

            @property
            def raw_folder(self) -> str:
                return str(self.root)

        data = Here(str(folder), train=split == "train")
        prefix = "train" if split == "train" else "t10k"
        files = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        return data.data.numpy()[:, None], data.targets.numpy(), files

    return read


READERS: Mapping[str, Callable[..., Arrays]] = MappingProxyType(
    {
        "CIFAR10": cifar10,
        "CIFAR100": cifar100,
        "SVHN": svhn,
        "MNIST": _mnist("MNIST"),
        "FashionMNIST": _mnist("FashionMNIST"),
        "KMNIST": _mnist("KMNIST"),
    }
)
"""By the names of torchvision's classes."""

_PICKLED = ("CIFAR10", "CIFAR100")
"""Those that unpickle what they read, which must come from an archive that is known."""


def open_torchvision(spec: DatasetSpec, split: SplitName, folder: Path) -> Source:
    """The images of a split, in the order of the files.

    Raises:
        UserError: there is no such reader, or it needs an archive and the manifest has none; the
            data set has no such split, or its files cannot be read.
    """
    assert spec.builder is not None  # the spec's validation sees to it
    reader = READERS.get(spec.builder)
    if reader is None:
        raise UserError(
            f"data set '{spec.name}': there is no torchvision reader '{spec.builder}'",
            did_you_mean(spec.builder, READERS),
        )
    if spec.builder in _PICKLED and all(file.unpacked_limit is None for file in spec.files):
        raise UserError(
            f"data set '{spec.name}': {spec.builder} needs 'files' with its archive: what it reads "
            "are pickles, which are opened only if they come from an archive with the checksum in "
            "the manifest.",
            f"Copy 'files' from 'data_manifests/{spec.builder.lower()}.yaml', and put the archive "
            "into the data set's folder if it is not to be downloaded.",
        )
    if split == "validation":
        raise UserError(
            f"data set '{spec.name}': {spec.builder} has no validation split.",
            "Set one apart from train: 'hold_out: {validation: train}' in the manifest.",
        )
    images, labels, files = call(
        spec, split, f"builder '{spec.builder}'", _explained(reader, folder), folder, split
    )
    stamps = [stamp(folder, file) for file in files]
    return array_source(images, labels.astype(np.int64), stamps)


def _explained(reader: Callable[..., Arrays], folder: Path) -> Callable[..., Arrays]:
    """The reader, with errors about damaged or missing files turned into messages."""
    import functools

    @functools.wraps(reader)
    def read(*args: Any, **options: Any) -> Arrays:
        try:
            return reader(*args, **options)
        except UserError:
            raise
        except Exception as error:  # torchvision and scipy raise nearly anything at damaged files
            raise UserError(
                f"cannot read the files in {folder}: {error}.",
                "They are damaged or incomplete.",
            ) from error

    return read
