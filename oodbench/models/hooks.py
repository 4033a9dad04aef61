"""Forward hooks on the modules of a network, for the time of a few forward passes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def watched(
    network: nn.Module,
    record: Callable[[str, nn.Module, tuple[Any, ...], Any], None],
    only: Callable[[str, nn.Module], bool],
) -> Iterator[None]:
    """Call `record` after each call of a module while the context is open.

    Modules of TorchScript are left out: they run no hooks.

    Args:
        network: its modules are watched, by the names of `named_modules()`.
        record: takes name, module, inputs (positional, then named) and output.
        only: whether to watch a module, from its name and the module.
    """

    def hook(
        name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        record(name, module, (*inputs, *named.values()), output)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule) and only(name, module):
                handle = module.register_forward_hook(
                    functools.partial(hook, name), with_kwargs=True
                )
                stack.callback(handle.remove)
        yield
