"""The user's model and the process as they were before the call: tensors, settings, generators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.engine.device import full_precision
from oodbench.training.determinism import deterministic, seeded

_ABSENT = object()


@contextmanager
def given_back(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a module with copies of its parameters and buffers on a device; restore it afterwards.

    The module's own tensors are exchanged and restored, even after an error: their storage,
    strides, gradients and hooks do not change. Buffers are copied, and attributes with other
    tensors are restored, so that a pass leaves nothing behind. A parameter that stays on its device
    shares its storage with its stand-in, and the module may change it in place; its values are
    copied first and restored if they changed. This takes the memory of one copy of the weights.

    Args:
        module: any module.
        device: where the module runs.
    """
    stand_ins: dict[int, Tensor] = {}  # a tensor that is in several places stays one
    taken: list[tuple[nn.Module, str, Tensor]] = []
    # The tensors of a TorchScript module cannot be exchanged: it runs with its own.
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    attributes = [(part, dict(vars(part))) for part in parts]
    values = _values(module, device)
    try:
        for part in parts:
            own = chain(
                part.named_parameters(recurse=False, remove_duplicate=False),
                part.named_buffers(recurse=False, remove_duplicate=False),
            )
            for name, tensor in list(own):
                if id(tensor) not in stand_ins:
                    stand_ins[id(tensor)] = _stand_in(tensor, device)
                taken.append((part, name, tensor))
                setattr(part, name, stand_ins[id(tensor)])
        yield
    finally:
        for part, name, tensor in taken:
            setattr(part, name, tensor)
        for part, before in attributes:
            _set_back(part, before)
        for tensor, copy in values:
            if not torch.equal(tensor, copy):
                tensor.copy_(copy)


def _values(module: nn.Module, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The tensors that a module on a device can write into, without history, and copies of them.

    They are its parameters on the device, and all tensors of TorchScript modules in it.
    """
    own: dict[int, Tensor] = {id(each): each for each in module.parameters()}
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            own |= {id(each): each for each in (*part.parameters(), *part.buffers())}
    return [
        (each.data, each.detach().clone())
        for each in own.values()
        if each.device.type == device.type
        and not each.is_inference()
        and type(each.data) is Tensor  # others may not be comparable
        and each.layout == torch.strided
    ]


def _set_back(part: nn.Module, before: Mapping[str, object]) -> None:
    """Restore attributes that hold, or held, other tensors, such as caches."""
    now = vars(part)
    for name in {*now, *before}:
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if old is new or not (isinstance(old, Tensor) or isinstance(new, Tensor)):
            continue
        if old is _ABSENT:
            del now[name]
        else:
            now[name] = old


def _stand_in(tensor: Tensor, device: torch.device) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        own = tensor.clone() if tensor.is_inference() else tensor.detach()
        return nn.Parameter(own.to(device), requires_grad=False)
    return tensor.detach().clone().to(device)


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Reproducible results: deterministic settings of torch and seeded generators; all restored.

    All global generators are seeded: a data set may draw from any of them. There is no inference
    mode and no autocast, whatever the caller is in.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - not ours to choose
    with ExitStack() as stack:
        stack.callback(np.random.set_state, legacy)
        stack.callback(random.setstate, python)
        stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(deterministic(device))
        stack.enter_context(full_precision(device))
        stack.enter_context(seeded(seed, device))
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield
