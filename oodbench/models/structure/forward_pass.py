"""A forward pass of a few images in which every module is watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UserError
from oodbench.models.activations import activation_of
from oodbench.models.adapted_network import described
from oodbench.models.classifier import first_tensor, is_last_layer, vectors
from oodbench.models.hooks import watched
from oodbench.models.rounding_tolerance import same, within_rounding
from oodbench.models.structure.logits_entry import HINT, Output, find_output, logits_in
from oodbench.models.structure.model_call import Inputs, call
from oodbench.models.structure.user_network import model_name


class NotFiniteError(Exception):
    """A model's logits for an image are not finite.

    Attributes:
        index: index of the image.
        logits: for it, shape [C].
    """

    def __init__(self, index: int, logits: Tensor) -> None:
        super().__init__(f"logits of image {index} are not finite")
        self.index = index
        self.logits = logits


@dataclass(frozen=True, slots=True)
class Call:
    """A module's calls in one forward pass: how many, and the last one's input and output."""

    module: nn.Module
    count: int
    given: Any
    output: Any

    def has_vectors(self, images: int) -> bool:
        """Whether input and output are floating-point tensors with an entry for each image."""
        return is_activation(self.given, images) and is_activation(self.output, images)

    @property
    def vectors(self) -> Tensor:
        """The output, averaged over places, shape [B, ...]."""
        return vectors(self.output, self.module)

    def gives(self, logits: Tensor) -> bool:
        """Whether the output is the logits, averaged over places if there are several."""
        if not self.has_vectors(len(logits)):
            return False
        output = self.vectors
        if output.shape != logits.shape:
            return False
        if self.output.numel() == output.numel():
            return same(output, logits)
        values = self.output.double()
        return within_rounding(
            vectors(values, self.module),
            self.output,
            given=logits,
            scale=vectors(values.abs(), self.module),
            terms=values[0].numel() // output[0].numel(),
        )


@dataclass(frozen=True)
class ForwardPass:
    """The calls of every module in a forward pass of a few images.

    Attributes:
        module: the network.
        logits: logits of the images, shape [B, C].
        calls: name -> calls of a module inside it, in the order in which the last ones ended.
        size: height and width of the images; 1 and 1 if the inputs are not images.
        output: where the logits are in what the module returned.
        note: which of several outputs is used as the logits; "" if there is only one.
        channels_last: whether the images were in torch's channels_last order.
        inputs: how the module was given the images.
    """

    module: nn.Module
    logits: Tensor
    calls: Mapping[str, Call]
    size: tuple[int, int]
    output: Output
    note: str
    channels_last: bool
    inputs: Inputs = None

    @property
    def images(self) -> int:
        """Number of images, B."""
        return len(self.logits)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Name -> module; one that has several names is there once, by its first."""
        return dict(self.module.named_modules())

    def call(self, name: str) -> Call | None:
        """Calls of a module, by any of its names; None if it did not run."""
        part = self.module.get_submodule(name)
        return self.calls.get(next(first for first, other in self.modules.items() if other is part))

    def activation(self, name: str) -> Tensor | None:
        """The activation that a module gave; None if it gave none."""
        call = self.call(name)
        return None if call is None else activation_of(call.output, self.images)


def watch_pass(
    module: nn.Module,
    images: Tensor,
    output: Output = None,
    num_classes: int | None = None,
    inputs: Inputs = None,
) -> ForwardPass:
    """Run a network on a few images and record the calls of its modules.

    The images are in channels_last order if the module takes it: a `view` of a map does not.

    Args:
        module: in evaluation mode, on the device of `images`.
        images: normalized, shape [B, channels, H, W], or other inputs of shape [B, ...].
        output: where the logits are in what it returns; None: found.
        num_classes: C, if it is known.
        inputs: how it is given the images.

    Raises:
        UserError: it returns no logits [B, C].
        NotFiniteError: logits are not finite.
        Exception: whatever the module raises for these images.
    """
    if images.ndim == 4:
        ordered = images.contiguous(memory_format=torch.channels_last)
        try:
            return _watch(module, ordered, output, num_classes, inputs, channels_last=True)
        except (UserError, NotFiniteError):
            raise
        except Exception:  # tried again in the other order, where the module may raise again
            pass
    return _watch(module, images.contiguous(), output, num_classes, inputs, channels_last=False)


def _watch(
    module: nn.Module,
    images: Tensor,
    output: Output,
    num_classes: int | None,
    inputs: Inputs,
    *,
    channels_last: bool,
) -> ForwardPass:
    calls: dict[str, Call] = {}

    def record(name: str, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = calls.pop(name, None)  # the order is that of the last calls
        count = 1 if before is None else before.count + 1
        given = activation_of(inputs, len(images))
        if given is None:
            given = first_tensor(inputs)
        if is_last_layer(part):  # later modules may work in place on its input and output
            given, output = (
                value.clone() if isinstance(value, Tensor) else value for value in (given, output)
            )
        calls[name] = Call(part, count, given, output)

    def is_seen(name: str, part: nn.Module) -> bool:
        return bool(name) or is_last_layer(part)  # the input and output of the whole are known

    with watched(module, record, is_seen), torch.no_grad():
        returned = call(module, images.clone(), inputs)  # the module may work in place on them

    def is_layers(value: Tensor) -> bool:
        return any(is_last_layer(call.module) and call.gives(value) for call in calls.values())

    note = ""
    if output is None:
        output, note = find_output(returned, images, model_name(module), num_classes, is_layers)
    logits = _checked_logits(module, logits_in(returned, output, images), len(images))
    size = (images.shape[2], images.shape[3]) if images.ndim == 4 else (1, 1)
    return ForwardPass(module, logits, calls, size, output, note, channels_last, inputs)


def _checked_logits(module: nn.Module, returned: Any, images: int) -> Tensor:
    name = model_name(module)
    if not isinstance(returned, Tensor):
        raise UserError(
            f"The model {name} returned {described(returned)}, not logits [images, classes].", HINT
        )
    if returned.ndim != 2 or len(returned) != images or not returned.is_floating_point():
        raise UserError(
            f"The model {name} returned {str(returned.dtype).removeprefix('torch.')} values of "
            f"shape {list(returned.shape)} for {images} images, not logits [images, classes].",
            HINT,
        )
    if returned.shape[1] < 2:
        raise UserError(
            f"The model {name} gives one logit for an image; detectors compare two classes or more."
        )
    finite = returned.isfinite().all(dim=1)
    if not bool(finite.all()):
        index = int((~finite).int().argmax())
        raise NotFiniteError(index, returned[index])
    return returned


def steady_calls(seen: ForwardPass, batch: Tensor) -> dict[str, Call]:
    """The calls of modules that run as often for a whole batch as for a few images.

    Args:
        seen: the pass of a few images.
        batch: images of a whole batch, normalized.

    Returns:
        All calls if the module cannot take the batch: the caller finds out why.
    """
    counts: Counter[str] = Counter()

    def count(name: str, *_: Any) -> None:
        counts[name] += 1

    with watched(seen.module, count, lambda name, part: name in seen.calls), torch.no_grad():
        try:
            call(seen.module, batch.clone(), seen.inputs)
        except Exception:
            return dict(seen.calls)
    return {name: call for name, call in seen.calls.items() if counts[name] == call.count}


def is_activation(value: Any, images: int) -> bool:
    """Whether a value is a floating-point tensor [images, ...] of two axes or more."""
    return isinstance(value, Tensor) and activation_of(value, images) is not None


def shape_of(value: Any) -> str:
    """Type and shape of a value, for messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
