"""Counting what a computation does: passes of a network, floating-point operations, memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from oodbench.engine.passes.modes import evaluating, is_returning

aten = torch.ops.aten


class _Mode(TorchDispatchMode):
    """A dispatch mode that does not import torch's compiler, which takes two seconds.

    Torch wraps the handlers of modes so that the compiler skips them, and the wrapper imports it.
    Nothing is compiled while something is counted.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


# --- floating-point operations -----------------------------------------------------------------


def _elements(tensor: Tensor, *args: Any, **kwargs: Any) -> int:
    return tensor.numel()


def _twice_elements(tensor: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * tensor.numel()


def _distances(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    """Difference, square, sum: 3 B C D."""
    return 3 * a.shape[-2] * b.shape[-2] * a.shape[-1]


def _distances_backward(gradient: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _distances(a, b)


# What torch's formulas leave out. Batch normalization in evaluation is a scale and a shift.
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._cdist_forward: _distances,
    aten._cdist_backward: _distances_backward,
    aten.native_batch_norm: _twice_elements,
    aten._native_batch_norm_legit_no_training: _twice_elements,
    aten.cudnn_batch_norm: _twice_elements,
    aten.relu: _elements,
    aten.relu_: _elements,
    aten.add_: _elements,
    aten.clamp_min: _elements,
    aten.threshold_backward: _elements,
    aten.add: _elements,
}


class _FlopCounter(_Mode):
    """Adds up the formulas of the operations that are carried out.

    Torch's own `FlopCounterMode` attributes them to modules besides, at a cost that shows.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(function.overloadpacket)
        if formula is None:
            with self:  # an operation may be made of others that have a formula
                parts = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if parts is NotImplemented else parts
        result = function(*args, **kwargs)
        self.total += formula(*args, **kwargs, out_val=result)
        return result


def count_flops(compute: Callable[[], object]) -> int:
    """Floating-point operations of a computation, 2 per multiply-add, backward passes included.

    Torch's formulas, plus distances, batch normalization, rectifiers and additions.
    """
    with _FlopCounter() as counter:
        compute()
    return int(counter.total)


# --- passes ------------------------------------------------------------------------------------


class PassMeter:
    """Counts forward and backward passes of a network, per image, by hooks on its layers.

    Every layer with weights counts with its share of the network's multiply-adds, so a full pass
    is exactly 1 and one that stops early is its share. In a network whose layers run no hooks
    (TorchScript, torch.export, a function), whole passes are counted.

    Args:
        network: any module.
        example: a batch it takes.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self._layers = _layers_with_weights(network)
        self._per_image = _pass_multiply_adds(network, self._layers, example) / len(example)
        self.forwards = 0.0
        self.backwards = 0.0

    @contextmanager
    def counting(self, images: int) -> Iterator[PassMeter]:
        """Count what happens inside, per image of a batch of `images`."""
        with ExitStack() as stack:
            if not self._per_image:
                whole = self._hook(lambda layer, output: len(output) / images)
                stack.callback(self.network.register_forward_hook(whole).remove)
            full = self._per_image * images
            hook = self._hook(lambda layer, output: _multiply_adds(layer, output) / full)
            for layer in self._layers:
                # First in line: a hook that ends the pass at this layer would leave it uncounted.
                stack.callback(layer.register_forward_hook(hook, prepend=True).remove)
            yield self

    def _hook(
        self, share_of: Callable[[nn.Module, Tensor], float]
    ) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, inputs: Any, returned: Any) -> None:
            if is_returning(layer):
                return
            output = _first_tensor(returned)
            share = share_of(layer, output)
            self.forwards += share
            if output.requires_grad:
                output.register_hook(lambda gradient: backward(share))

        def backward(share: float) -> None:
            self.backwards += share

        return hook


def _layers_with_weights(network: nn.Module) -> list[nn.Module]:
    return [
        layer
        for layer in network.modules()
        if not isinstance(layer, torch.jit.ScriptModule)  # which run no hooks
        and any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
    ]


def _first_tensor(returned: Any) -> Tensor:
    """What a layer gives; of attention, which gives its weights too, the values."""
    return next(leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    """Multiply-adds of one call of a layer with weights.

    Every output element of a convolution or a linear layer takes one multiply-add for each weight
    that leads to it; so does a distance head.
    """
    weight = next(each for each in layer.parameters(recurse=False) if each.ndim > 1)
    return output.numel() * weight[0].numel()


def _pass_multiply_adds(network: nn.Module, layers: Sequence[nn.Module], example: Tensor) -> int:
    """Multiply-adds of a forward pass; a layer that the network uses twice counts twice."""
    total = 0

    def hook(layer: nn.Module, inputs: Any, returned: Any) -> None:
        nonlocal total
        total += _multiply_adds(layer, _first_tensor(returned))

    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        for layer in layers:
            stack.callback(layer.register_forward_hook(hook).remove)
        with torch.no_grad():
            network(example)
    return total


# --- memory ------------------------------------------------------------------------------------


class _LiveTensors(_Mode):
    """Follows the bytes of storages that operations make, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):  # what was there before, a view must not make count
                self._seen.add(value.untyped_storage())
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def peak_memory(compute: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors alive at the worst moment of a computation, beyond those alive before.

    On CUDA the allocator's own peak; elsewhere the storages that operations made, followed one by
    one: a measure of the method and not of the process.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    follower = _LiveTensors()
    with follower:
        compute()
    return follower.peak


def tensor_bytes(value: object, _seen: set[int] | None = None) -> int:
    """Bytes of all tensors inside an object: a module, a detector with its fitted state."""
    seen = _seen if _seen is not None else set()
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, nn.Module):
        parts: Sequence[object] = [*value.parameters(), *value.buffers()]
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        slots = [getattr(value, name, None) for name in getattr(value, "__slots__", ())]
        parts = [*getattr(value, "__dict__", {}).values(), *slots]
    else:
        return 0
    return sum(tensor_bytes(part, seen) for part in parts)
