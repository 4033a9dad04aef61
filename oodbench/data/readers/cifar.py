"""CIFAR's "python version": batches that its authors stored with pickle.

Nothing else in oodbench reads pickles. The unpickler here accepts only the three names of NumPy
that batches of CIFAR contain, so that a file cannot call another function or class. Hostile input
can still reach NumPy itself, for instance to allocate too much memory. Therefore only files from
archives with the manifest's checksum are read.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.array_checks import require_labels, require_pixels
from oodbench.errors import UserError

_SHAPE = (3, 32, 32)
_LAYOUTS = (("N", 3072), ("N", *_SHAPE))
"""A row has the red, then the green, then the blue pixels of an image, row by row."""

# The module of NumPy's arrays depends on the version of NumPy that wrote the file.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # The function that arrays are pickled with; this expression finds it in NumPy 1 and 2.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _BatchUnpickler(pickle.Unpickler):
    """Reads numbers, text, containers and arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed objects."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_batches(
    paths: Sequence[Path], labels: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images of several batches, in order.

    Args:
        paths: the files; in each, `data` is uint8 of shape [N, 3072] or [N, 3, 32, 32].
        labels: key of the labels, N integers: b"labels" in CIFAR-10, b"fine_labels" in CIFAR-100.

    Returns:
        Images [N, 3, 32, 32] and labels [N], int64.

    Raises:
        UserError: a file does not exist, is not a batch of CIFAR, or has arrays of another type
            or shape.
    """
    images, targets = [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                batch = _read(file)
            pixels, classes = np.asarray(batch[b"data"]), np.asarray(batch[labels])
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}.") from error
        except Exception as error:  # unpickling damaged files raises many types of errors
            raise UserError(f"{path} is not a batch of CIFAR: {error!r}.") from error
        require_pixels(pixels, f"{path}: array 'data'", *_LAYOUTS)
        images.append(pixels.reshape(-1, *_SHAPE))
        targets.append(require_labels(classes, f"{path}: array '{labels.decode()}'", len(pixels)))
    return np.concatenate(images), np.concatenate(targets)


def read_class_names(path: Path, key: bytes) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels.

    Args:
        path: the file that describes the batches.
        key: key of the names: b"label_names" in CIFAR-10, b"fine_label_names" in CIFAR-100.

    Raises:
        UserError: the file does not exist, or has no such names.
    """
    try:
        with path.open("rb") as file:
            return tuple(name.decode("ascii") for name in _read(file)[key])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # unpickling damaged files raises many types of errors
        raise UserError(f"{path} does not name the classes of CIFAR: {error!r}.") from error


def _read(file: IO[bytes]) -> dict[bytes, Any]:
    batch: dict[bytes, Any] = _BatchUnpickler(file, encoding="bytes").load()
    return batch
