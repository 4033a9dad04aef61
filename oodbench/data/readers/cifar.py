"""CIFAR's "python version": batches that its authors stored with pickle.

Nothing else in oodbench reads pickles. These are read by an unpickler that knows the three names a
batch of CIFAR needs, all of them numpy's, and refuses every other one, so that a batch can name no
other function or class. What those three do with hostile input is up to numpy: a batch may still
ask for more memory than there is, or meet a fault of numpy's own. So it is called only for what was
unpacked from archives that had the checksum in the manifest.
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
"""A row of a batch is the red, the green, then the blue pixels, each row by row."""

# Where numpy's array lives depends on the version of numpy that wrote the file.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # How an array pickles itself; the only way to the function that works in numpy 1 and 2.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _BatchUnpickler(pickle.Unpickler):
    """Reads numbers, text, containers and arrays; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a batch may use."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_batches(
    paths: Sequence[Path], labels: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images of a few batches, in order.

    Args:
        paths: the files; in each, `data` is uint8 of shape [N, 3072] or [N, 3, 32, 32].
        labels: key of the labels, N integers: b"labels" in CIFAR-10, b"fine_labels" in CIFAR-100.

    Returns:
        Images [N, 3, 32, 32] and labels [N], int64.

    Raises:
        UserError: a file is not there, is no batch of CIFAR, or holds arrays of another type or
            shape.
    """
    images, targets = [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                batch = _read(file)
            pixels, classes = np.asarray(batch[b"data"]), np.asarray(batch[labels])
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}.") from error
        except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
            raise UserError(f"{path} is no batch of CIFAR: {error!r}.") from error
        require_pixels(pixels, f"{path}: array 'data'", *_LAYOUTS)
        images.append(pixels.reshape(-1, *_SHAPE))
        targets.append(require_labels(classes, f"{path}: array '{labels.decode()}'", len(pixels)))
    return np.concatenate(images), np.concatenate(targets)


def _read(file: IO[bytes]) -> dict[bytes, Any]:
    batch: dict[bytes, Any] = _BatchUnpickler(file, encoding="bytes").load()
    return batch
