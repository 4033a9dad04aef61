"""Counting what a computation does: sweeps of a network, floating-point operations, memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from oodbench.engine.network import evaluating

aten = torch.ops.aten


# --- floating-point operations -----------------------------------------------------------------


def _cdist_flops(
    a: Sequence[int], b: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Difference, square, sum: 3 B C D."""
    return int(3 * a[-2] * b[-2] * a[-1])


def _cdist_backward_flops(
    gradient: Any, a: Sequence[int], b: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    return int(3 * a[-2] * b[-2] * a[-1])


def _per_element(operations: int) -> Callable[..., int]:
    def flops(shape: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        elements = 1
        for size in shape:
            elements *= size
        return operations * elements

    return flops


# What torch's counter does not count. Batch normalisation in evaluation is a scale and a shift.
_UNCOUNTED = {
    aten._cdist_forward: _cdist_flops,
    aten._cdist_backward: _cdist_backward_flops,
    aten.native_batch_norm: _per_element(2),
    aten._native_batch_norm_legit_no_training: _per_element(2),
    aten.cudnn_batch_norm: _per_element(2),
    aten.relu: _per_element(1),
    aten.clamp_min: _per_element(1),
    aten.threshold_backward: _per_element(1),
    aten.add.Tensor: _per_element(1),
}


def count_flops(compute: Callable[[], object]) -> int:
    """Floating-point operations of a computation, 2 per multiply-add, backward sweeps included.

    Torch's counter, plus distances, batch normalisation, rectifiers and additions.
    """
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        compute()
    return int(counter.get_total_flops())


# --- sweeps ------------------------------------------------------------------------------------


class SweepMeter:
    """Counts forward and backward sweeps of a network, per image, by hooks on its layers.

    Every layer with weights counts with its share of the network's multiply-adds, so a full sweep
    is exactly 1 and one that stops early is its share.

    Args:
        network: any module.
        example: a batch it takes.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self._shares = _layer_shares(network, example)
        self.forwards = 0.0
        self.backwards = 0.0

    @contextmanager
    def counting(self, images: int) -> Iterator[SweepMeter]:
        """Count what happens inside, per image of a batch of `images`."""
        with ExitStack() as stack:
            for layer, share in self._shares.items():
                hook = layer.register_forward_hook(self._layer_hook(share / images))
                stack.callback(hook.remove)
            yield self

    def _layer_hook(self, share: float) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self.forwards += share * len(output)
            if output.requires_grad:
                output.register_hook(backward)

        def backward(gradient: Tensor) -> None:
            self.backwards += share * len(gradient)

        return hook


def _layer_shares(network: nn.Module, example: Tensor) -> dict[nn.Module, float]:
    """Layer with weights -> share of the network's multiply-adds in a forward sweep."""
    weights: dict[nn.Module, int] = {}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Every output element of a convolution or a linear layer takes one multiply-add for each
        # weight that leads to it; so does a distance head.
        (weight, *_) = layer.parameters(recurse=False)
        weights[layer] = weights.get(layer, 0) + output.numel() * weight[0].numel()

    layers = [
        layer
        for layer in network.modules()
        if any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
    ]
    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        for layer in layers:
            stack.callback(layer.register_forward_hook(hook).remove)
        with torch.no_grad():
            network(example)
    total = sum(weights.values())
    return {layer: weight / total for layer, weight in weights.items()}


# --- memory ------------------------------------------------------------------------------------


class _LiveTensors(TorchDispatchMode):
    """Follows the bytes of storages that operations make, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
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
    if isinstance(value, nn.Module):
        parts: Sequence[object] = [*value.parameters(), *value.buffers()]
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).values())
    else:
        return 0
    return sum(tensor_bytes(part, seen) for part in parts)
