"""A fitted detector from the state that `detector_state` wrote. The state is not trusted."""

from __future__ import annotations

import base64
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.storage.fitted_state.detector_state import FACTORIES, Node, bit_generator
from oodbench.storage.fitted_state.state_classes import StateClasses
from oodbench.storage.fitted_state.stored_arrays import StoredArrays, dtype_of, numpy_dtype


def detector_of(
    cls: type[Detector], state: Node, tensors: Mapping[str, Tensor], device: torch.device
) -> Detector:
    """A detector with a stored state.

    Args:
        cls: its class.
        state: JSON values.
        tensors: flat tensors by name.
        device: where its tensors are put.

    Raises:
        Exception: state and tensors are not as `stored_state` writes them; of any type.
    """
    return _Reader(StateClasses(cls), StoredArrays(tensors, device), device).detector(cls, state)


def detectors_of(
    classes: Mapping[str, type[Detector]],
    states: Mapping[str, Sequence[Node]],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> dict[str, list[Detector]]:
    """Detectors with the states of `stored_states`.

    Args:
        classes: name -> class of its detectors.
        states: name -> JSON values of each.
        tensors: flat tensors by name.
        device: where their tensors are put.

    Raises:
        Exception: as `detector_of`.
    """
    arrays, made = StoredArrays(tensors, device), dict[str, list[Detector]]()
    for name, nodes in states.items():
        reader = _Reader(StateClasses(classes[name]), arrays, device)
        made[name] = [reader.detector(classes[name], node) for node in nodes]
    return made


class _Reader:
    def __init__(self, classes: StateClasses, arrays: StoredArrays, device: torch.device) -> None:
        self._classes, self._arrays, self._device = classes, arrays, device
        self.known: dict[int, Any] = {}

    def detector(self, cls: type[Detector], state: Node) -> Detector:
        """A detector; values that it shares with those before are the same."""
        made: Detector = self._begun(state, object.__new__(cls))
        for name, value in state["state"].items():
            object.__setattr__(made, name, self.value(value))
        return made

    def value(self, node: Node) -> Any:
        """The value of a node."""
        if not isinstance(node, dict):
            if node is not None and not isinstance(node, bool | int | float | str):
                raise TypeError(f"a {type(node).__name__}")
            return node
        if node["t"] == "ref":
            return self.known[node["id"]]
        made = _MADE[node["t"]](self, node)
        if "id" in node:
            self.known[node["id"]] = made
        return made

    def _begun(self, node: Node, made: Any) -> Any:
        """A container that may contain itself is known before what is in it."""
        self.known[node["id"]] = made
        return made

    def _values(self, node: Node) -> list[Any]:
        return [self.value(each) for each in node["v"]]

    def _list(self, node: Node) -> Any:
        made = self._begun(node, deque(maxlen=node["most"]) if node["t"] == "deque" else [])
        made.extend(self.value(each) for each in node["v"])
        return made

    def _set(self, node: Node) -> Any:
        made = self._begun(node, set())
        made.update(self._values(node))
        return made

    def _mapping(self, node: Node) -> Any:
        kinds = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
        factory = node.get("makes")
        made = (
            defaultdict(None if factory is None else FACTORIES[factory])
            if node["t"] == "defaultdict"
            else kinds[node["t"]]()
        )
        self._begun(node, made)
        for key, value in node["v"]:
            made[self.value(key)] = self.value(value)
        return made

    def _proxy(self, node: Node) -> Any:
        return MappingProxyType({self.value(key): self.value(each) for key, each in node["v"]})

    def _tensor(self, node: Node) -> Tensor:
        return self._arrays.tensor(node)

    def _parameter(self, node: Node) -> Tensor:
        return nn.Parameter(self._arrays.tensor(node), requires_grad=node["learns"] is True)

    def _object(self, node: Node) -> Any:
        cls = self._classes.find(node["class"])
        made = self._begun(node, object.__new__(cls))
        for name, value in node["v"].items():
            if issubclass(cls, nn.Module):
                vars(made)[name] = self.value(value)  # past nn.Module's own __setattr__
            else:
                object.__setattr__(made, name, self.value(value))
        return made

    def _named(self, node: Node) -> Any:
        cls = self._classes.find(node["class"])
        if not issubclass(cls, tuple) or not hasattr(cls, "_make"):
            raise TypeError(f"{cls.__name__} is no named tuple")
        return tuple.__new__(cls, self._values(node))

    def _enum(self, node: Node) -> Any:
        return self._classes.find(node["class"]).__members__[node["v"]]  # type: ignore[attr-defined]

    def _torch_generator(self, node: Node) -> torch.Generator:
        made = torch.Generator()
        made.set_state(self.value(node["v"]).cpu())
        return made

    def _random_state(self, node: Node) -> Any:
        made = np.random.RandomState()
        made.set_state(self.value(node["v"]))
        return made

    def _python_random(self, node: Node) -> random.Random:
        made = random.Random()
        made.setstate(self.value(node["v"]))
        return made


def _number(reader: _Reader, node: Node) -> Any:
    dtype = numpy_dtype(node["dtype"])
    return np.frombuffer(bytes.fromhex(node["v"]), dtype)[0]


_MADE: Mapping[str, Callable[[_Reader, Node], Any]] = {
    "int": lambda reader, node: int(node["v"], 16),
    "float": lambda reader, node: float(node["v"]),
    "complex": lambda reader, node: complex(*map(float.fromhex, node["v"])),
    "bytes": lambda reader, node: base64.b64decode(node["v"], validate=True),
    "bytearray": lambda reader, node: bytearray(base64.b64decode(node["v"], validate=True)),
    "range": lambda reader, node: range(*node["v"]),
    "dtype": lambda reader, node: dtype_of(node["v"]),
    "device": lambda reader, node: reader._device,
    "path": lambda reader, node: Path(node["v"]),
    "number": _number,
    "list": _Reader._list,
    "deque": _Reader._list,
    "tuple": lambda reader, node: tuple(reader._values(node)),
    "size": lambda reader, node: torch.Size(reader._values(node)),
    "set": _Reader._set,
    "frozenset": lambda reader, node: frozenset(reader._values(node)),
    "dict": _Reader._mapping,
    "ordered": _Reader._mapping,
    "counter": _Reader._mapping,
    "defaultdict": _Reader._mapping,
    "proxy": _Reader._proxy,
    "tensor": _Reader._tensor,
    "parameter": _Reader._parameter,
    "array": lambda reader, node: reader._arrays.array(node),
    "object": _Reader._object,
    "named": _Reader._named,
    "enum": _Reader._enum,
    "generator": lambda reader, node: np.random.Generator(bit_generator(reader.value(node["v"]))),
    "random_state": _Reader._random_state,
    "python_random": _Reader._python_random,
    "torch_generator": _Reader._torch_generator,
}
"""Kind of a node -> what makes its value."""
