"""Tensors and arrays as flat tensors of a safetensors file, and back, bit for bit.

The bits of a score depend on more than the values of a tensor: a product of matrices, or a sum,
takes its terms in another order where strides are other ones. So strides are kept, and views of one
storage stay views of one storage.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.errors import UserError

_ALIGNED = 64
"""Bytes. Offsets keep their remainder: vectorized sums may depend on the alignment."""

_SPARE = 1 << 16
"""Elements, and a quarter of a storage, beyond which unused parts of it are not stored."""

_PLAIN = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)
"""Types that every reader of safetensors knows; the bytes of others are stored."""

_MOST = 1 << 20
"""Elements that a stored tensor may have, beyond sixteen times those that are stored for it."""


class Storages:
    """The storages of tensors and arrays that are being stored.

    Attributes:
        tensors: name -> flat tensor, complete after `close`.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._open: dict[tuple[int, str], list[tuple[str, Tensor, dict[str, Any]]]] = {}

    def add_tensor(self, path: str, tensor: Tensor) -> dict[str, Any]:
        """The description of a tensor; it is complete after `close`.

        Args:
            path: the tensor's place in the detector; unique.
            tensor: strided, of torch's own class.

        Raises:
            ValueError: it is of another kind.
        """
        value = tensor.detach()
        if type(value) is not Tensor or value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"a tensor of the kind {type(tensor).__name__}, {tensor.layout}")
        if value.device.type == "meta":
            raise ValueError("a tensor without values (device 'meta')")
        value = value.resolve_conj().resolve_neg()
        about: dict[str, Any] = {
            "dtype": name_of(value.dtype),
            "size": list(value.shape),
            "stride": list(value.stride()),
        }
        key = value.untyped_storage().data_ptr() or id(value), about["dtype"]
        self._open.setdefault(key, []).append((path, value, about))
        return about

    def add_array(self, path: str, array: NDArray[Any]) -> dict[str, Any]:
        """The description of an array.

        Raises:
            ValueError: it holds Python objects.
        """
        if array.dtype.hasobject:
            raise ValueError("an array of Python objects")
        described = _listed(np.lib.format.dtype_to_descr(array.dtype))
        if not _is_type_of(described, array.dtype):
            raise ValueError(f"an array of the type {array.dtype}")
        if array.size and (
            _span(array) > 4 * array.nbytes + _SPARE
            or array.size > _largest(_span(array) // array.itemsize)
        ):
            array = np.ascontiguousarray(array)
        low = 0
        content = np.empty(0, dtype=np.uint8)
        if array.nbytes:
            steps = zip(array.shape, array.strides, strict=True)
            low = sum((n - 1) * -step for n, step in steps if step < 0)
            start = array.__array_interface__["data"][0] - low
            content = np.ctypeslib.as_array((ctypes.c_uint8 * _span(array)).from_address(start))
        self.tensors[path] = torch.from_numpy(content.copy())
        return {
            "storage": path,
            "dtype": described,
            "size": list(array.shape),
            "stride": list(array.strides),
            "offset": low,
        }

    def close(self) -> None:
        """Make the flat tensors, each with what the tensors of one storage use of it."""
        for group in self._open.values():
            first, last = min(map(_first, group)), max(map(_last, group))
            aligned = max(1, _ALIGNED // group[0][1].element_size())
            first -= first % aligned
            used = sum(value.numel() for _, value, _ in group)
            most = max(value.numel() for _, value, _ in group)
            if last - first > used + max(used // 4, _SPARE) or most > _largest(last - first):
                for path, value, about in group:
                    self._add_dense(path, value, about)
                continue
            name, some, _ = group[0]
            self.tensors[name] = _stored(some.as_strided((max(0, last - first),), (1,), first))
            for _, value, about in group:
                offset = value.storage_offset() - first if value.numel() else 0
                about |= {"storage": name, "offset": offset}
        self._open = {}

    def _add_dense(self, path: str, value: Tensor, about: dict[str, Any]) -> None:
        """A tensor without the unused parts of its storage, its axes in the same order."""
        order = sorted(range(value.ndim), key=lambda axis: -value.stride()[axis])
        dense = value.permute(order).contiguous()
        shown = dense.permute([order.index(axis) for axis in range(value.ndim)])
        self.tensors[path] = _stored(dense.flatten())
        about |= {"storage": path, "offset": 0, "stride": list(shown.stride())}


def _first(each: tuple[str, Tensor, Any]) -> int:
    return int(each[1].storage_offset()) if each[1].numel() else 1 << 62


def _last(each: tuple[str, Tensor, Any]) -> int:
    value = each[1]
    if not value.numel():
        return 0
    reach = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    return int(value.storage_offset() + reach + 1)


def _stored(flat: Tensor) -> Tensor:
    plain = flat.dtype in _PLAIN
    return (flat if plain else flat.contiguous().view(torch.uint8)).cpu().clone()


def _span(array: NDArray[Any]) -> int:
    """Bytes from the first to the last element of an array that has some."""
    reach = [abs((n - 1) * step) for n, step in zip(array.shape, array.strides, strict=True)]
    return int(sum(reach)) + array.itemsize


class StoredArrays:
    """Makes the tensors and arrays of a file again.

    Args:
        tensors: name -> flat tensor.
        device: where tensors are put; arrays have none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._tensors, self._device = tensors, device
        self._made: dict[str, Tensor] = {}

    def tensor(self, about: Mapping[str, Any]) -> Tensor:
        """A tensor by its description.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: description and file do not fit.
        """
        name, dtype = str(about["storage"]), dtype_of(about["dtype"])
        flat = self._made.get(name)
        if flat is None:
            # Copied: torch's own memory is aligned, that of a file is not.
            flat = self._tensors[name].flatten().clone()
            flat = (flat if flat.dtype == dtype else flat.view(dtype)).to(self._device)
            self._made[name] = flat
        if flat.dtype != dtype:
            raise ValueError(f"two types of '{name}'")
        size, stride = _whole(about["size"]), _whole(about["stride"])
        _check_size(size, flat.numel())
        return flat.as_strided(size, stride, _whole([about["offset"]])[0])

    def array(self, about: Mapping[str, Any]) -> NDArray[Any]:
        """An array by its description.

        Raises:
            KeyError, TypeError, ValueError: description and file do not fit.
        """
        content = self._tensors[str(about["storage"])].clone().numpy()
        dtype = numpy_dtype(about["dtype"])
        size, steps = _whole(about["size"]), [int(step) for step in about["stride"]]
        low = _whole([about["offset"]])[0]
        _check_size(size, content.nbytes // max(1, dtype.itemsize))
        if 0 in size:
            return np.empty(size, dtype)
        reach = [(n - 1) * step for n, step in zip(size, steps, strict=True)]
        first = low + sum(step for step in reach if step < 0)
        last = low + sum(step for step in reach if step > 0) + dtype.itemsize
        if first < 0 or last > content.nbytes:
            raise ValueError("an array beyond its storage")
        return np.ndarray(tuple(size), dtype, content.data, low, tuple(steps))


def numpy_dtype(description: Any) -> np.dtype[Any]:
    """A dtype of `np.lib.format.dtype_to_descr`, as JSON gives it.

    Raises:
        TypeError, ValueError: it is none, or one of Python objects.
    """
    found = np.lib.format.descr_to_dtype(_tupled(description))
    if found.hasobject:
        raise ValueError("an array of Python objects")
    return found


def _listed(description: Any) -> Any:
    return (
        [_listed(e) for e in description] if isinstance(description, tuple | list) else description
    )


def _tupled(description: Any, *, field: bool = False) -> Any:
    """Fields of a structured dtype are tuples in a list; JSON has lists only."""
    if not isinstance(description, list):
        return description
    made = [_tupled(each, field=not field) for each in description]
    return tuple(made) if field else made


def name_of(dtype: torch.dtype) -> str:
    """The name of a type of torch, as in "float32"."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: Any) -> torch.dtype:
    """The type of torch of a name.

    Raises:
        ValueError: there is none.
    """
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"there is no type '{name}'")
    return found


def _whole(values: Any) -> list[int]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError("expected a list of whole numbers")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"expected whole numbers, not {value!r}")
    return list(values)


def _is_type_of(description: Any, dtype: np.dtype[Any]) -> bool:
    try:
        return numpy_dtype(description) == dtype
    except ValueError:  # fields with titles
        return False


def _largest(stored: int) -> int:
    """Elements that an expanded tensor may have, whose storage has so many."""
    return 16 * stored + _MOST


def _check_size(size: Sequence[int], stored: int) -> None:
    if math.prod(size) > _largest(stored):
        raise UserError(
            f"The artifact describes a tensor of {math.prod(size):,} elements and has {stored:,}.",
            "It is damaged, or was not written by oodbench.",
        )
