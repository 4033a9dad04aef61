"""States of modules, and settings of torch and the process, for the time of a `with` block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters; both are restored, module by module."""
    # A frozen module of TorchScript has no mode, until it is put into one.
    modes = {part: getattr(part, "training", None) for part in module.modules()}
    frozen = {parameter: parameter.requires_grad for parameter in module.parameters()}
    _set_to_evaluation(module)
    for parameter in frozen:  # TorchScript has no requires_grad_ for a module
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            if mode is not None:
                part.training = mode
            elif hasattr(part, "training"):
                del part.training
        for parameter, required in frozen.items():
            parameter.requires_grad_(required)


def _set_to_evaluation(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # a module of torch.export, or one that holds it
        module.training = False
        for part in module.children():
            _set_to_evaluation(part)


@contextmanager
def giving(module: nn.Module, value: Tensor) -> Iterator[None]:
    """A module that returns a value; a module made of others does not run."""
    # A single layer runs all the same, so that hooks count it. So do compiled modules.
    own = vars(module)
    skipped = any(True for _ in module.children()) and not (
        isinstance(module, torch.jit.ScriptModule)
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
    )
    if skipped:
        own["forward"] = lambda *inputs, **named: value
    handle = module.register_forward_hook(lambda module, inputs, given: value)  # the last word
    try:
        yield
    finally:
        handle.remove()
        if skipped:
            del own["forward"]


_RETURNING: set[nn.Module] = set()


def is_returning(module: nn.Module) -> bool:
    """Whether a module returns a value without running, in `returning`."""
    return module in _RETURNING


@contextmanager
def returning(values: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Modules that return values without running; their hooks run.

    Args:
        values: module -> what it returns; modules that are neither compiled nor of TorchScript.
    """
    with ExitStack() as stack:
        for module, value in values.items():
            stack.enter_context(_returning(module, value))
        yield


@contextmanager
def _returning(module: nn.Module, value: Tensor) -> Iterator[None]:
    own = vars(module)  # past nn.Module's own __setattr__
    before = own.get("forward")

    def forward(*inputs: object, **named: object) -> Tensor:
        return value

    own["forward"] = forward
    _RETURNING.add(module)
    try:
        yield
    finally:
        _RETURNING.discard(module)
        if own.get("forward") is forward:  # or another owner has put it back since
            del own["forward"]
            own.update({} if before is None else {"forward": before})


@contextmanager
def versions_counted() -> Iterator[None]:
    """Inference mode off: its tensors do not count changes in place."""
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


@dataclass(frozen=True, slots=True)
class TorchModes:
    """Modes of torch, which belong to the thread: a `fit` may be inside of such a context.

    Attributes:
        grad: gradients are recorded.
        inference: in inference mode.
        autocast: device type -> whether operations choose their precision.
    """

    grad: bool
    inference: bool = False
    autocast: tuple[tuple[str, bool], ...] = (("cpu", False), ("cuda", False))

    @staticmethod
    def now() -> TorchModes:
        """The present ones."""
        return TorchModes(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((device, torch.is_autocast_enabled(device)) for device in ("cpu", "cuda")),
        )

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Back to these, and at the end to the present ones, whatever happens in between."""
        before = TorchModes.now()
        # Inference mode puts grad mode back, too.
        with _settings_kept(), torch.inference_mode(self.inference):
            torch.set_grad_enabled(self.grad)
            self._set_autocast()
            try:
                yield
            finally:
                before._set_autocast()

    def _set_autocast(self) -> None:
        for device, enabled in self.autocast:
            torch.set_autocast_enabled(device, enabled)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put back, at the end, what code of a detector may have changed: modes and settings.

    Settings are those that other detectors' scores or later files depend on: torch's default type
    and device, threads, precision of products and oneDNN, NumPy's errors, the working directory
    and the environment.
    """
    with TorchModes.now().restored():
        yield


@contextmanager
def _settings_kept() -> Iterator[None]:
    dtype, device, threads = (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
    )
    precision, onednn = torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled
    errors, environment, folder = np.geterr(), dict(os.environ), _working_directory()
    try:
        yield
    finally:
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if torch.backends.mkldnn.enabled != onednn:
            torch.backends.mkldnn.set_flags(onednn)
        np.seterr(**errors)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        if folder is not None and _working_directory() != folder:
            os.chdir(folder)


def _working_directory() -> Path | None:
    """None if it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
