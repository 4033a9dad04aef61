"""Looking at a classifier of any make while it runs: its last layer, the ends of its stages.

Neither can be read off a network's structure, so a few images are sent through it and every module
is watched. Nothing about the module is changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import UserError
from oodbench.losses import DistanceHead
from oodbench.models.adapter import AdaptedNetwork, adapt
from oodbench.models.classifier import Network

_RESERVED = frozenset({"logits", "features"})
"""What the engine calls a network's output and the input of its last layer."""
_STEP = 3
"""A module that makes a map smaller by more, height or width, has several stages in it."""
_BLOCKS = 4
"""Taps of a network whose blocks all have one resolution."""


class NotFiniteError(Exception):
    """A model's logits for an image are not finite.

    Attributes:
        index: of the image.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"logits of image {index} are not finite")
        self.index = index


@dataclass(slots=True)
class _Call:
    """A module's calls in one sweep: how many, and the last one's input and output."""

    module: nn.Module
    count: int
    given: Any
    output: Any


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What a sweep of a network showed.

    Attributes:
        logits: what it returned.
        calls: name -> calls of a module, in the order in which the last ones ended.
        images: number of images.
        size: height and width of the images.
    """

    logits: Tensor
    calls: dict[str, _Call]
    images: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Probed:
    """A module as oodbench uses networks.

    Attributes:
        network: shares the module's weights; its last layer and its taps are named.
        logits: what it gave for the images, shape [B, C].
        channels_last: whether it runs in torch's channels_last order.
    """

    network: AdaptedNetwork
    logits: Tensor
    channels_last: bool

    @property
    def num_classes(self) -> int:
        """C."""
        return self.logits.shape[1]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrappers that spread it over devices or compile it."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or type(module).__name__ == "OptimizedModule":
        # A compiled module runs none of the hooks that are put on its parts.
        inside: Any = module.module if isinstance(module, wrappers) else module._orig_mod
        module = inside
    return module


def probe(
    module: nn.Module, images: Tensor, taps: Literal["auto"] | Sequence[str] = "auto"
) -> Probed:
    """Find the last layer and the taps of a classifier by running it once.

    The last layer is the `nn.Linear` (or oodbench head) whose output are the logits themselves. One
    that computes something else than W f + b (a subclass with a `forward` of its own, a hook) is
    marked as opaque, and detectors do not see its weights.

    With "auto", taps are the ends of stages: the last map before each change of resolution, and
    the last one before pooling; in a network that has blocks of one resolution, such as a
    transformer, the ends of up to four of them. A module that runs several times in one sweep is
    never a tap; an oodbench network keeps the taps it names.

    Args:
        module: in evaluation mode, on the device of `images`, and not wrapped.
        images: a few, normalised and of its type, shape [B, channels, H, W].
        taps: "auto", or names of modules in the order of the network.

    Raises:
        UserError: it returns no logits [B, C]; no linear layer gives them, or one that runs several
            times; a named tap is unknown, does not run just once, or gives no floating-point tensor
            with an entry for each image.
        NotFiniteError: logits are not finite.
        Exception: whatever the module raises for these images.
    """
    sweep, channels_last = _run(module, images)
    head = _head_of(sweep, module)
    chosen: Sequence[str]
    if taps != "auto":
        chosen = _names(module, (taps,) if isinstance(taps, str) else taps)
        adapt(module, taps=chosen, head=head)  # says which names there are not
        for name in chosen:
            _check_tap(sweep, module, name)
    elif isinstance(module, Network):
        names = {id(part): name for name, part in module.named_modules()}
        chosen = tuple(names[id(part)] for part in module.tap_modules.values())
    else:
        chosen = _stages(sweep)
    network = AdaptedNetwork(
        module,
        tuple(chosen),
        head,
        opaque_head=not _computes_what_it_says(sweep, head),
        channels_last_taps=frozenset(name for name in chosen if _ends_in_channels(sweep, name)),
    )
    return Probed(network, sweep.logits, channels_last)


def _run(module: nn.Module, images: Tensor) -> tuple[_Sweep, bool]:
    """A sweep, in channels_last order if the module takes it: a `view` of a map does not."""
    try:
        return _sweep(module, images.contiguous(memory_format=torch.channels_last)), True
    except (UserError, NotFiniteError):
        raise
    except Exception:
        return _sweep(module, images.contiguous()), False


def _sweep(module: nn.Module, images: Tensor) -> _Sweep:
    calls: dict[str, _Call] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(
            part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            before = calls.pop(name, None)  # the order is that of the last calls
            count = 1 if before is None else before.count + 1
            given = next(iter((*inputs, *named.values())), None)
            if isinstance(part, nn.Linear | DistanceHead):
                # What comes after it may work in place.
                given, output = (
                    value.clone() if isinstance(value, Tensor) else value
                    for value in (given, output)
                )
            calls[name] = _Call(part, count, given, output)

        return hook

    with ExitStack() as stack:
        for name, part in module.named_modules():
            # A hook on all of it would see nothing that the caller does not.
            if name or isinstance(part, nn.Linear | DistanceHead):
                stack.callback(part.register_forward_hook(watch(name), with_kwargs=True).remove)
        with torch.no_grad():
            returned = module(images.clone())  # it may work in place on them
    logits = _checked_logits(module, returned, len(images))
    return _Sweep(logits, calls, len(images), (images.shape[2], images.shape[3]))


def _checked_logits(module: nn.Module, returned: Any, images: int) -> Tensor:
    name = type(module).__name__
    hint = "Wrap it in a module that returns the logits alone."
    if not isinstance(returned, Tensor):
        kind = type(returned).__name__
        if isinstance(returned, dict):
            kind += f" with the keys {', '.join(map(repr, returned))}"
        elif isinstance(returned, tuple | list):
            kind += f" of {len(returned)}"
        raise UserError(f"The model {name} returned a {kind}, not logits [images, classes].", hint)
    if returned.ndim != 2 or len(returned) != images or not returned.is_floating_point():
        raise UserError(
            f"The model {name} returned {str(returned.dtype).removeprefix('torch.')} values of "
            f"shape {list(returned.shape)} for {images} images, not logits [images, classes].",
            hint,
        )
    if returned.shape[1] < 2:
        raise UserError(
            f"The model {name} gives one logit for an image; detectors compare two classes or more."
        )
    finite = returned.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise NotFiniteError(int((~finite).int().argmax()))
    return returned


# --- the last layer ----------------------------------------------------------------------------


def _head_of(sweep: _Sweep, module: nn.Module) -> str:
    """Name of the linear or distance layer whose output are the logits."""
    model = type(module).__name__
    layers = {
        name: call
        for name, call in sweep.calls.items()
        if isinstance(call.module, nn.Linear | DistanceHead)
    }
    for name, call in reversed(layers.items()):
        if not _same_values(call.output, sweep.logits):
            continue
        if not isinstance(call.given, Tensor) or call.given.ndim != 2:
            raise UserError(
                f"The last layer of {model}, '{name}', is given {_shape(call.given)}, not features "
                "[images, features].",
                "Flatten the features before it, with f.flatten(1).",
            )
        if call.count > 1:
            raise UserError(
                f"The last layer of {model}, '{name}', runs {call.count} times in one sweep.",
                "Detectors take what it is given for the features of an image: let it run once.",
            )
        return name
    if not layers:
        raise UserError(
            f"The model {model} has no linear layer that runs, and so no known last layer.",
            "Use a model that ends in a torch.nn.Linear or in a head of oodbench.losses.",
        )
    for name, call in layers.items():
        if _same(F.log_softmax(_rows(call.output), dim=1), sweep.logits):
            raise UserError(
                f"The model {model} returns log-probabilities, not logits.",
                f"Let it return the output of '{name}'.",
            )
        if _same(F.softmax(_rows(call.output), dim=1), sweep.logits):
            raise UserError(
                f"The model {model} returns probabilities, not logits.",
                f"Let it return the output of '{name}'.",
            )
    raise UserError(
        f"No linear layer of the model {model} gives its logits: they are not what any of them "
        f"returns. The last one that runs is '{list(layers)[-1]}'.",
        "Let the model return the output of a torch.nn.Linear, or of a head of oodbench.losses, as "
        "it is.",
    )


def _same_values(output: Any, logits: Tensor) -> bool:
    """Whether a layer gives the logits, but for axes of size one."""
    if not isinstance(output, Tensor) or output.numel() != logits.numel():
        return False
    return _same(output.reshape(logits.shape), logits)


def _computes_what_it_says(sweep: _Sweep, head: str) -> bool:
    """Whether a linear layer computes W f + b: a subclass, or a hook, may do something else."""
    call = sweep.calls[head]
    layer = call.module
    if not isinstance(layer, nn.Linear):
        return True
    with torch.no_grad():
        bias = None if layer.bias is None else layer.bias.double()
        expected = F.linear(call.given.double(), layer.weight.double(), bias)
    return agree(expected, call.output)


def agree(first: Tensor, second: Tensor) -> bool:
    """Whether logits are the same but for the order of operations, in the lower of their types."""
    precision = max(torch.finfo(logits.dtype).eps for logits in (first, second))
    difference = (first.double() - second.double()).abs().max()
    return bool(difference <= precision**0.5 * second.abs().max())


def _rows(output: Any) -> Tensor:
    """A layer's output as a matrix that can be compared."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        return torch.zeros(0, 1)
    return output


def _same(output: Any, logits: Tensor) -> bool:
    """Whether two tensors agree, up to the rounding of another type; NaN agrees with NaN."""
    if not isinstance(output, Tensor) or output.shape != logits.shape:
        return False
    return torch.allclose(output.double(), logits.double(), rtol=1e-6, atol=0, equal_nan=True)


# --- named taps --------------------------------------------------------------------------------


def _names(module: nn.Module, taps: Any) -> tuple[str, ...]:
    """Names of modules that were asked for, without those of a wrapper that was taken off."""
    expected = "expected 'auto', or names of modules in the order of the network"
    if not isinstance(taps, Sequence):
        raise UserError(
            f"taps: {expected}, not {taps!r}.", "For no taps, give []." if taps is None else ""
        )
    inside = {name for name, _ in module.named_modules()}
    names: list[str] = []
    for tap in taps:
        if isinstance(tap, nn.Module):
            known = [name for name, part in module.named_modules() if part is tap and name]
            raise UserError(
                f"taps: {expected}, not a {type(tap).__name__} itself.",
                f"Name it: '{known[0]}'." if known else "",
            )
        if not isinstance(tap, str):
            raise UserError(f"taps: {expected}, not {tap!r}.")
        name = tap
        for wrapper in ("_orig_mod.", "module."):
            if name not in inside:
                name = name.removeprefix(wrapper)
        if name in names:
            raise UserError(f"taps: '{tap}' is named twice.", "Name each module once.")
        names.append(name)
    return tuple(names)


def _check_tap(sweep: _Sweep, module: nn.Module, name: str) -> None:
    part = module.get_submodule(name)
    # A module that has several names is known by its first.
    known = next(first for first, other in module.named_modules() if other is part)
    call = sweep.calls.get(known)
    if call is None:
        raise UserError(
            f"Tap '{name}' does not run when {type(module).__name__} computes its logits.",
            "Name a module that runs once, or leave it to taps='auto'.",
        )
    if call.count > 1:
        raise UserError(
            f"Tap '{name}' runs {call.count} times in one sweep of {type(module).__name__}: "
            "which of them is meant cannot be told.",
            "Name a module that runs once, such as the one it is a part of.",
        )
    if not _is_activation(call.output, sweep.images):
        shown = _shape(call.output)
        raise UserError(
            f"Tap '{name}' gives {shown} for {sweep.images} images, not a floating-point tensor "
            "[images, ...].",
            "Name a module with such an output.",
        )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _is_activation(output: Any, images: int) -> bool:
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim > 1
        and len(output) == images
    )


# --- the ends of stages ------------------------------------------------------------------------


def _stages(sweep: _Sweep) -> tuple[str, ...]:
    """Names of the modules that end a stage, in order."""
    maps = _map_ends(sweep)
    blocks = _block_ends(sweep)
    order = list(sweep.calls)
    if len(maps) > 1:
        # A network of convolutions; tokens that come after its last map count too.
        after = order.index(maps[-1])
        blocks = [name for name in blocks if order.index(name) > after and _is_tokens(sweep, name)]
    elif blocks:
        maps = []  # its only map is the images cut into patches, or the end of the last block
    return (*maps, *blocks)


def _is_tokens(sweep: _Sweep, name: str) -> bool:
    return bool(sweep.calls[name].output.ndim == 3)


def _map_ends(sweep: _Sweep) -> list[str]:
    """The last map of each resolution, of those on the way from the images to the logits."""
    sizes = {
        name: size
        for name, call in sweep.calls.items()
        if (size := _map_size(call.output, sweep)) is not None
    }
    steps = _steps(sweep, sizes)
    pooled = {id(call.output) for call in sweep.calls.values() if _pools(call.module)}
    ends: list[str] = []
    # Backwards: a map on a side branch, like those of squeeze-and-excitation, is smaller than one
    # that comes after it.
    smallest = 0
    for name in reversed(sizes):
        call, (height, width) = sweep.calls[name], sizes[name]
        inside = [step for step in _ancestors(name) if step in steps]
        if any(sizes[step] != (height, width) for step in inside):
            continue  # in the middle of what makes the map smaller
        if call.count > 1 or name in _RESERVED or _pools(call.module):
            continue
        if id(call.output) in pooled and name not in steps:
            continue  # a container that ends in pooling
        if height * width == 1 and not _has_weights(call.module):
            continue  # what was pooled
        if height * width > smallest and _computed(sweep, name):
            smallest = height * width
            ends.insert(0, name)
    return ends


def _steps(sweep: _Sweep, sizes: dict[str, tuple[int, int]]) -> set[str]:
    """Modules that make a map smaller by one step and are one piece: a block, a stage."""
    found = set()
    for name, (height, width) in sizes.items():
        call = sweep.calls[name]
        before = _map_size(call.given, sweep)
        if before is None or call.count > 1 or name in _RESERVED:
            continue
        ratio = max(before[0] / height, before[1] / width)
        if before[0] * before[1] > height * width and ratio <= _STEP:
            found.add(name)
    return found


def _map_size(value: Any, sweep: _Sweep) -> tuple[int, int] | None:
    """Height and width of a map [B, D, H, W] or [B, H, W, D]; None if it is none."""
    if not _is_activation(value, sweep.images) or value.ndim != 4:
        return None
    _, first, second, third = value.shape
    return (first, second) if _has_channels_last(value, sweep) else (second, third)


def _has_channels_last(value: Any, sweep: _Sweep) -> bool:
    """Whether something is a map [B, H, W, D]: its sides are to each other as the images' are."""
    if not _is_activation(value, sweep.images) or value.ndim != 4:
        return False
    _, first, second, third = value.shape
    shape = log(sweep.size[0] / sweep.size[1])
    return abs(log(second / third) - shape) > abs(log(first / second) - shape)


def _ends_in_channels(sweep: _Sweep, name: str) -> bool:
    return _has_channels_last(sweep.calls[name].output, sweep)


def _pools(module: nn.Module) -> bool:
    return "Pool" in type(module).__name__


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _computed(sweep: _Sweep, name: str) -> bool:
    """Whether a layer with weights ran before a module ended: it gives no more than the image."""
    for other, call in sweep.calls.items():
        if any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False)):
            return True
        if other == name:
            return False
    return False


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _block_ends(sweep: _Sweep) -> list[str]:
    """Up to four of the blocks that follow each other with outputs of one shape, evenly spaced."""
    rows: dict[tuple[str, type, torch.Size], list[str]] = defaultdict(list)
    for name, call in sweep.calls.items():
        is_map = _map_size(call.output, sweep) is not None
        is_tokens = _is_activation(call.output, sweep.images) and call.output.ndim == 3
        usable = call.count == 1 and name not in _RESERVED and _has_weights(call.module)
        if usable and (is_map or is_tokens):
            parent = name.rpartition(".")[0]
            rows[parent, type(call.module), call.output.shape].append(name)
    row = max(rows.values(), key=lambda names: (len(names), -names[0].count(".")), default=[])
    if len(row) < 2:
        return []
    taken = min(len(row), _BLOCKS)
    return [row[round((index + 1) * len(row) / taken) - 1] for index in range(taken)]
