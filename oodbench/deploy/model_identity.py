"""What tells one model from another: its modules, its weights, and its logits for fixed inputs."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from oodbench.engine.passes.memory import arranged
from oodbench.errors import listed
from oodbench.models.classifier import Classifier
from oodbench.models.structure.user_network import model_name
from oodbench.models.user_classifier import type_of

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_PROBED = 2
"""Inputs that a model is probed with."""

_GOLDEN = (math.sqrt(5) - 1) / 2

_TOLERANCES: Mapping[torch.dtype, float] = {torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest difference of probed logits, relative to the largest of them; 1e-3 for other types: a CPU
and a GPU differ by less, and other weights by more."""

_DIGITS = 16
"""Of the digest of a tensor."""


@dataclass(frozen=True, slots=True)
class InputKind:
    """The inputs of a model.

    Attributes:
        shape: of one input, such as (channels, height, width).
        dtype: of the inputs, as in "float32".
        largest: the largest value of inputs that are whole numbers (tokens); None for images.
        in_unit_range: whether images are in [0, 1] and the classifier normalizes them.
    """

    shape: tuple[int, ...]
    dtype: str
    largest: int | None
    in_unit_range: bool

    @staticmethod
    def of(images: Tensor, *, in_unit_range: bool) -> InputKind:
        """The kind of some inputs, shape [B, ...]."""
        whole = not images.is_floating_point()
        return InputKind(
            tuple(images.shape[1:]),
            str(images.dtype).removeprefix("torch."),
            int(images.max()) if whole else None,
            in_unit_range,
        )

    def probes(self) -> Tensor:
        """Two fixed inputs, which look like noise: multiples of the golden ratio, modulo 1."""
        count = _PROBED * math.prod(self.shape)
        values = (torch.arange(1, count + 1, dtype=torch.float64) * _GOLDEN).frac()
        values = values.view(_PROBED, *self.shape)
        if self.largest is not None:
            return (values * (self.largest + 1)).floor().to(getattr(torch, self.dtype))
        return (values if self.in_unit_range else 2 * values - 1).to(getattr(torch, self.dtype))


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What tells a model from another.

    Attributes:
        name: of its class or function.
        modules: name of a module in it -> its class and options. Empty for a function.
        weights: name of a parameter or buffer -> digest of its type, shape and values.
        probe: logits of fixed inputs, float64; None if they differ from call to call.
        tolerance: how far these logits may differ, relative to the largest of them.
    """

    name: str
    modules: Mapping[str, str]
    weights: Mapping[str, str]
    probe: tuple[tuple[float, ...], ...] | None
    tolerance: float

    @staticmethod
    def of(module: nn.Module, classifier: Classifier, inputs: InputKind) -> ModelIdentity:
        """The identity of a model.

        Args:
            module: as it was given.
            classifier: the module as the engine runs it, in evaluation mode and ready to run.
            inputs: what it takes.
        """
        return ModelIdentity(
            model_name(module),
            {name: _described(part) for name, part in module.named_modules()},
            weight_digests(module),
            probed(classifier, inputs),
            _TOLERANCES.get(type_of(module), 1e-3),
        )

    def differences(self, other: ModelIdentity) -> list[str]:
        """What is different in another model, the clearest difference first; [] if it is the same.

        Each is the end of a sentence that begins with "The model".
        """
        if (
            self.modules.keys() != other.modules.keys()
            or self.weights.keys() != other.weights.keys()
        ):
            parts = {*self.modules, *self.weights}, {*other.modules, *other.weights}
            missing, added = sorted(parts[0] - parts[1]), sorted(parts[1] - parts[0])
            said = [f"has no {_named(missing)}"] * bool(missing)
            said += [f"has {_named(added)}, which the fitted one has not"] * bool(added)
            return said
        other_parts = _changed(self.modules, other.modules)
        if other_parts:
            name = other_parts[0]
            return [
                f"differs in {_named(other_parts)}: {other.modules[name]} instead of "
                f"{self.modules[name]}"
            ]
        if changed := _changed(self.weights, other.weights):
            all_of = "all" if len(changed) == len(self.weights) else f"{len(changed)}"
            return [
                f"has other weights: {all_of} of {len(self.weights)} tensors, {_named(changed)}"
            ]
        found = self._probe_difference(other)
        return [] if found is None else [found]

    def _probe_difference(self, other: ModelIdentity) -> str | None:
        if self.probe is None or other.probe is None:
            return None
        before, now = (
            torch.tensor(each, dtype=torch.float64) for each in (self.probe, other.probe)
        )
        if before.shape != now.shape:
            return f"gives {now.shape[1]} logits instead of {before.shape[1]}"
        largest, difference = float(before.abs().max()), float((now - before).abs().max())
        if difference <= max(self.tolerance, other.tolerance) * largest:
            return None
        same = "with the same weights " if self.weights else ""
        return f"{same}gives other logits for fixed inputs: they differ by {difference:.2g}"


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [name for name, value in before.items() if after[name] != value]


def _named(names: Iterable[str]) -> str:
    return listed((f"'{name}'" if name else "the whole" for name in names), most=3)


def _described(part: nn.Module) -> str:
    """The class of a module, with the options that it shows."""
    try:
        options = _ADDRESS.sub("", part.extra_repr())
    except Exception:  # a user's code
        options = ""
    name = getattr(part, "original_name", type(part).__name__)
    return f"{name}({options})"


def weight_digests(module: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer -> digest of its type, shape and values."""
    tensors = chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    made: dict[int, str] = {}
    found = {}
    for name, tensor in tensors:
        if id(tensor) not in made:
            made[id(tensor)] = _digest(tensor.detach())
        found[name] = made[id(tensor)]
    return found


def _digest(tensor: Tensor) -> str:
    total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    try:
        plain = tensor.int_repr() if tensor.is_quantized else tensor
        total.update(plain.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    except Exception:  # a kind without plain values: the probe sees what it does
        total.update(type(tensor).__name__.encode())
    return total.hexdigest()[:_DIGITS]


def probed(classifier: Classifier, inputs: InputKind) -> tuple[tuple[float, ...], ...] | None:
    """Logits of fixed inputs; None if they fail, are not finite or differ from call to call."""
    images = arranged(inputs.probes().to(classifier.mean.device), classifier.dtype)
    try:
        with torch.no_grad():
            first, second = (classifier(images).double().cpu() for _ in range(2))
    except Exception:  # noise may be no input for it, such as tokens that are never together
        return None
    if not torch.equal(first, second) or not bool(first.isfinite().all()):
        return None
    return tuple(map(tuple, first.tolist()))


def digest_of(identity: ModelIdentity) -> str:
    """64 hexadecimal digits over modules and weights."""
    total = hashlib.sha256()
    for part in (identity.modules, identity.weights):
        for name, value in part.items():
            total.update(f"{name}={value}\n".encode())
    return total.hexdigest()
