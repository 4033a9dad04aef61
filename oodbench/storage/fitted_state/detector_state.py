"""The state of a fitted detector as JSON and flat tensors: written without code of the detector's.

All attributes are walked. Numbers and texts go to JSON, tensors and arrays to flat tensors
(`stored_arrays`). Of an object, the name of its class (`state_classes`) and its attributes are
stored; objects are made without calling anything of theirs. What is shared stays shared.
"""

from __future__ import annotations

import base64
import enum
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.errors import UserError
from oodbench.storage.fitted_state.state_classes import StateClasses
from oodbench.storage.fitted_state.stored_arrays import Storages, name_of

Node = Any
"""A value as JSON: itself, or a mapping with its kind, "t"."""

_CODE = (FunctionType, BuiltinFunctionType, MethodType, partial, type)

FACTORIES: Mapping[str, Any] = {
    each.__name__: each for each in (list, dict, set, tuple, int, float, str, bool, Counter)
}
"""What a defaultdict may make."""

_SEQUENCES: Mapping[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    torch.Size: "size",
}
_MAPPINGS: Mapping[type, str] = {
    dict: "dict",
    OrderedDict: "ordered",
    Counter: "counter",
    MappingProxyType: "proxy",
}


_MADE_WHOLE = (tuple, frozenset, MappingProxyType)
"""Containers that are made after their parts, and so cannot contain themselves when read."""

_LONG = 2048
"""Bits above which a whole number is stored in hexadecimal, which Python reads in any length."""


def stored_state(detector: Detector) -> tuple[Node, dict[str, Tensor]]:
    """The state of a detector: JSON values, and flat tensors by name.

    Raises:
        UserError: an attribute is of a kind that is not stored; the message names it.
    """
    storages = Storages()
    node = _Writer(StateClasses(type(detector)), storages).written(detector)
    storages.close()
    return node, storages.tensors


def stored_states(
    detectors: Mapping[str, Sequence[Detector]],
) -> tuple[dict[str, list[Node]], dict[str, Tensor]]:
    """The states of several detectors, as `stored_state`; tensors that they share are stored once.

    Args:
        detectors: any name -> detectors of one class, which may also share other values.
    """
    storages, nodes = Storages(), dict[str, list[Node]]()
    for name, group in detectors.items():
        writer = _Writer(StateClasses(type(group[0])), storages)
        nodes[name] = [writer.written(each, f"{name}/{place}/") for place, each in enumerate(group)]
    storages.close()
    return nodes, storages.tensors


class _Unstorable(ValueError):  # noqa: N818 - read as "unstorable: ..."
    def __init__(self, path: str, what: str) -> None:
        super().__init__(what)
        self.path = path


class _Writer:
    def __init__(self, classes: StateClasses, storages: Storages) -> None:
        self._classes, self._storages, self._prefix = classes, storages, ""
        self._seen: dict[int, tuple[int, Any]] = {}  # id -> number, and the value, kept alive
        self._begun: set[int] = set()  # those of `_MADE_WHOLE` whose parts are being written

    def written(self, detector: Detector, prefix: str = "") -> Node:
        """The state of a detector; it is complete after `Storages.close`.

        Args:
            detector: the detector.
            prefix: begins the names of its tensors.

        Raises:
            UserError: as `stored_state`.
        """
        self._prefix = prefix
        try:
            number, state = self._numbered(detector), attributes(detector)
            return {"id": number, "state": {n: self._node(each, n) for n, each in state.items()}}
        except _Unstorable as error:
            raise UserError(
                f"Detector '{detector.info.name}' cannot be saved: its attribute '{error.path}' is "
                f"{error}.",
                "Keep fitted values in tensors, arrays, numbers, containers of them, or objects of "
                "classes of the detector's own file.",
            ) from error
        except RecursionError as error:
            raise UserError(
                f"Detector '{detector.info.name}' cannot be saved: its attributes are nested too "
                "deep."
            ) from error

    def _numbered(self, value: Any) -> int:
        number = len(self._seen)
        self._seen[id(value)] = number, value
        return number

    def _node(self, value: Any, path: str) -> Node:
        if type(value) is int and value.bit_length() > _LONG:
            return {"t": "int", "v": hex(value)}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"t": "float", "v": str(value)}
        plain = _plain(value)
        if plain is not None:
            return plain
        if id(value) in self._begun:
            raise _Unstorable(path, f"a {type(value).__name__} that contains itself")
        if id(value) in self._seen:
            return {"t": "ref", "id": self._seen[id(value)][0]}
        number = self._numbered(value)
        if isinstance(value, _MADE_WHOLE):
            self._begun.add(id(value))
        try:
            content = self._content(value, path)
        except _Unstorable:
            raise
        except ValueError as error:
            raise _Unstorable(path, str(error)) from error
        self._begun.discard(id(value))
        content["id"] = number  # in place: the description of a tensor is completed at the end
        return content

    def _content(self, value: Any, path: str) -> dict[str, Any]:
        kind = type(value)
        if kind in _SEQUENCES:
            return {"t": _SEQUENCES[kind], "v": self._items(value, path)}
        if kind in _MAPPINGS:
            return {"t": _MAPPINGS[kind], "v": self._pairs(value, path)}
        if kind is deque:
            return {"t": "deque", "v": self._items(value, path), "most": value.maxlen}
        if kind is defaultdict:
            return {
                "t": "defaultdict",
                "v": self._pairs(value, path),
                "makes": _factory_name(value.default_factory),
            }
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if kind is np.ndarray:
            return {"t": "array", **self._storages.add_array(self._prefix + path, value)}
        generator = _generator_state(value)
        if generator is not None:
            what, state = generator
            return {"t": what, "v": self._node(state, path)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            items = [
                self._node(each, f"{path}.{n}")
                for n, each in zip(value._fields, value, strict=True)
            ]
            return {"t": "named", "class": self._classes.name(kind), "v": items}
        if isinstance(value, _CODE):
            name = getattr(value, "__qualname__", value)
            raise ValueError(f"a function or a class ({name})")
        return self._object(value, path)

    def _tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        about = self._storages.add_tensor(self._prefix + path, value)
        about["t"] = "parameter" if type(value) is nn.Parameter else "tensor"
        if type(value) is nn.Parameter:
            about["learns"] = value.requires_grad
        elif type(value) is not Tensor:
            raise ValueError(f"a tensor of the class {type(value).__name__}")
        return about

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        """An object of a class that is allowed."""
        if isinstance(value, enum.Enum):
            if value.name not in type(value).__members__:
                raise ValueError(f"a combination of flags, {value!r}")
            return {"t": "enum", "class": self._classes.name(type(value)), "v": value.name}
        name = self._classes.name(type(value))
        if getattr(type(value), "__new__") is not object.__new__:  # noqa: B009 - mypy
            raise ValueError(f"an object of the class {name}, which is made in its own way")
        state = {n: self._node(v, f"{path}.{n}") for n, v in attributes(value).items()}
        return {"t": "object", "class": name, "v": state}

    def _items(self, values: Any, path: str) -> list[Node]:
        return [self._node(value, f"{path}.{n}") for n, value in enumerate(values)]

    def _pairs(self, values: Mapping[Any, Any], path: str) -> list[list[Node]]:
        return [
            [self._node(key, f"{path} key {n}"), self._node(value, f"{path}.{_short(key, n)}")]
            for n, (key, value) in enumerate(values.items())
        ]


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, also those in slots that have a value."""
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                name = f"_{cls.__name__.lstrip('_')}{slot}" if _is_private(slot) else slot
                if name not in found and _has_slot(value, name):
                    found[name] = getattr(value, name)
    return found


def _is_private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _has_slot(value: Any, name: str) -> bool:
    try:
        object.__getattribute__(value, name)
    except AttributeError:
        return False
    return True


def _short(key: Any, number: int) -> str:
    """A key in a path; its number if it is no short text."""
    plain = isinstance(key, str | int) and len(str(key)) <= 80 and str(key).isprintable()
    return f"{key}" if plain else f"({number})"


def _plain(value: Any) -> Node | None:
    """A value without parts, that is never shared, as JSON; None for others."""
    kind = type(value)
    if isinstance(value, np.generic):
        if value.dtype.hasobject:
            return None
        content = np.array(value).tobytes()
        return {"t": "number", "dtype": value.dtype.str, "v": content.hex()}
    if kind is complex:
        return {"t": "complex", "v": [value.real.hex(), value.imag.hex()]}
    if kind in (bytes, bytearray):
        return {"t": kind.__name__, "v": base64.b64encode(value).decode()}
    if kind is range:
        return {"t": "range", "v": [value.start, value.stop, value.step]}
    if kind is torch.dtype:
        return {"t": "dtype", "v": name_of(value)}
    if kind is torch.device:
        return {"t": "device"}
    if isinstance(value, PurePath):
        return {"t": "path", "v": str(value)}
    return None


def _factory_name(factory: Any) -> str | None:
    if factory is not None and FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        raise ValueError(f"a defaultdict that calls {factory!r}")
    return None if factory is None else str(factory.__name__)


_BIT_GENERATORS: Mapping[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox)
} | {"SFC64": np.random.SFC64}


def _generator_state(value: Any) -> tuple[str, Any] | None:
    """Kind and state of a random generator; None for other values."""
    if type(value) is np.random.Generator:
        state = value.bit_generator.state
        if state["bit_generator"] not in _BIT_GENERATORS:
            raise ValueError(f"a generator of the kind {state['bit_generator']}")
        return "generator", state
    if type(value) is np.random.RandomState:
        return "random_state", value.get_state(legacy=False)
    if type(value) is random.Random:
        return "python_random", value.getstate()
    if type(value) is torch.Generator:
        return "torch_generator", value.get_state()
    return None


def bit_generator(state: Any) -> Any:
    """A bit generator of NumPy in a state."""
    made = _BIT_GENERATORS[state["bit_generator"]]()
    made.state = state
    return made
