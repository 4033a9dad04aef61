"""Classifiers that oodbench did not write: torchvision's, and the user's own modules."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UserError, did_you_mean
from oodbench.losses import DistanceHead
from oodbench.models.classifier import Network
from oodbench.models.returned import HINT, Output, described, logits_in

_NOT_FOR_TAPS = ("logits", "features")
"""What the engine calls a network's output and the input of its last layer."""


class AdaptedNetwork(Network):
    """A classifier of any make, with its taps and its last layer named.

    Args:
        module: maps normalized images [B, channels, H, W] to logits [B, C].
        tap_names: names of modules inside it whose output is a tap, in order.
        head_name: name of the module inside it that is its last layer; None if it is not known.
        features_name: name of the module inside it whose output are the penultimate features; None
            if they are the input of the last layer.
        opaque_head: whether the logits are something else than the last layer's weights say.
        channel_axes: tap -> axis of its channels, where it is not the usual one.
        tap_reason: why these are its taps.
        output: where the logits are in what the module returns.
        num_classes: C; None to hold logits to what the last layer gives.
        head_note: how the last layer was found, or why it was not; "" if there is nothing to say.
    """

    def __init__(
        self,
        module: nn.Module,
        tap_names: tuple[str, ...],
        head_name: str | None,
        *,
        features_name: str | None = None,
        opaque_head: bool = False,
        channel_axes: Mapping[str, int] = MappingProxyType({}),
        tap_reason: str = "",
        output: Output = None,
        num_classes: int | None = None,
        head_note: str = "",
    ) -> None:
        super().__init__()
        self.module = module
        self.tap_names = tap_names
        self.head_name = head_name
        self.features_name = features_name
        self.opaque_head = opaque_head
        self.channel_axes = channel_axes
        self.tap_reason = tap_reason
        self.output = output
        self.num_classes = num_classes
        self.head_note = head_note

    # Properties and no sub-modules: a layer that is registered twice is stored twice.
    @property
    def head(self) -> nn.Module | None:  # type: ignore[override]
        """The last layer, where it is in the module; None if it is not known."""
        return None if self.head_name is None else self.module.get_submodule(self.head_name)

    @property
    def features_module(self) -> nn.Module | None:  # type: ignore[override]
        """The module whose output are the features; None if they are the last layer's input."""
        name = self.features_name
        return None if name is None else self.module.get_submodule(name)

    @property
    def tap_modules(self) -> dict[str, nn.Module]:
        """Name -> module whose output is the tap, in order."""
        return {name: self.module.get_submodule(name) for name in self.tap_names}

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, channels, H, W].

        Raises:
            UserError: if the module returns something else, or another number of logits than the
                last layer gives.
        """
        logits = logits_in(self.module(images), self.output, images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            returned, hint = described(logits), HINT
            if self.num_classes is None:  # a benchmark's network
                hint = "Wrap it in a module that returns the logits alone."
            if isinstance(logits, Tensor):
                returned = f"a tensor of shape {list(logits.shape)}"
                if logits.ndim == 1 and len(images) == 1:
                    returned += " for a batch of one image"
                    hint = (
                        "Something in it, such as squeeze(), drops the axis of a batch of one: "
                        "use flatten(1) there, or a batch size that leaves no image over."
                    )
            raise UserError(
                f"The network {model_name(self.module)} returned {returned}, not logits "
                "[images, classes].",
                hint,
            )
        if self.num_classes not in (None, logits.shape[1]):
            raise UserError(
                f"The network {model_name(self.module)} returned {logits.shape[1]} logits for an "
                f"image, and {self.num_classes} for those before."
            )
        classes = getattr(self.head, "out_features", logits.shape[1])
        if self.num_classes is None and logits.shape[1] != classes:
            raise UserError(
                f"The network {model_name(self.module)} returned {logits.shape[1]} logits, and "
                f"its last layer '{self.head_name}' gives {classes}.",
                "Its last layer must be the one that was made last and that gives the logits.",
            )
        return logits


UNWATCHED = "a function or a compiled module hides its layers"
"""Why the last layer of a function, or of a module of TorchScript or torch.export, is not known."""


UNREGISTERED = (
    "it keeps modules in a plain Python list, tuple or dict, where torch does not see their layers"
)
"""Why the last layer of a module is not known whose parts are not registered in it."""


class Function(nn.Module):
    """A function, or any other callable, that maps normalized images to logits, as a module.

    Args:
        function: it is called as it is; modules in it are not looked at.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """What the function returns."""
        return self.function(images)


_KNOWN_INPUTS = (
    *("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "bbox"),
    *("pixel_mask", "pixel_attention_mask", "bool_masked_pos", "image_sizes", "spatial_shapes"),
)
"""What models of Transformers take beside the images or tokens."""


def inputs_beside_images(module: nn.Module) -> frozenset[str]:
    """Names of what a model takes beside its first argument.

    Of a model that takes any name (`**kwargs`), those that models of Transformers know.
    """
    if isinstance(module, torch.jit.ScriptModule):
        forward = getattr(module, "forward", None)
        schema: Any = getattr(forward, "schema", None)
        return frozenset(each.name for each in schema.arguments[2:]) if schema else frozenset()
    function = module.function if isinstance(module, Function) else module.forward
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # one that is not written in Python
        return frozenset()
    named = {
        each.name
        for each in parameters[1:]
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return frozenset({*named, *(_KNOWN_INPUTS if anything else ())})


def model_name(module: nn.Module) -> str:
    """What a model is called: its class, as it was before TorchScript; of a function its name."""
    if isinstance(module, Function):
        name = getattr(module.function, "__name__", type(module.function).__name__)
        return "lambda" if name == "<lambda>" else str(name)
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", type(module).__name__))
    return type(module).__name__


def adapt(module: nn.Module, *, taps: Sequence[str] = (), head: str | None = None) -> Network:
    """A trained classifier as oodbench uses networks; the module itself is not changed.

    Args:
        module: maps normalized images [B, channels, H, W] to logits [B, C].
        taps: names of modules inside it (`module.named_modules()`) whose output is a tap, in the
            order of the network. There is no default: which modules are the ends of stages cannot
            be told without running it. Detectors that need taps do not run without.
        head: name of its last layer; default: its last linear (or distance) layer, in the order in
            which its constructor made them.

    Returns:
        A network that shares the module's weights.

    Raises:
        UserError: if a name is unknown, or there is no last layer to be found.
    """
    if isinstance(module, Network) and not taps and head is None:
        return module
    if head is None:
        head = _last_layer(module)
    else:
        _check_names(module, (head,))
    check_taps(module, taps)
    # Whether what comes after a convolution keeps it linear cannot be told without running it.
    opaque = not isinstance(module.get_submodule(head), nn.Linear | DistanceHead)
    return AdaptedNetwork(module, tuple(taps), head, opaque_head=opaque)


def create_adapted(
    name: str,
    make_head: Callable[[int], nn.Module],
    taps: Sequence[str],
    options: Mapping[str, Any],
) -> Network:
    """A network from "module:callable", its last linear layer replaced by a head.

    Args:
        name: "module:callable", or "torchvision:NAME" for one of torchvision.models.
        make_head: makes the last layer for a number of features.
        taps: as in `adapt`.
        options: keyword arguments of the callable.

    Raises:
        UserError: if the module or the callable is not there or fails, what it makes is no module
            or has no linear layer, or a tap is unknown.
    """
    with _working_folder_importable():
        factory = _find_callable(name)
        if name.startswith("torchvision:"):
            options = {"weights": None, **options}
        try:
            module = factory(**options)
        except Exception as error:  # a user's code: whatever it raises is about this network
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            raise UserError(
                f"Network '{name}' cannot be made with {given or 'no options'}: "
                f"{_described(error)}."
            ) from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"Network '{name}': the callable made a {type(module).__name__}, "
            "which is no torch.nn.Module."
        )
    path = _last_layer(module)
    old = module.get_submodule(path)
    if not isinstance(old, nn.Linear):
        raise UserError(
            f"Network '{name}': its last layer '{path}' is a {type(old).__name__}.",
            "The head takes the place of a torch.nn.Linear.",
        )
    head = make_head(old.in_features)
    if path:
        parent, _, leaf = path.rpartition(".")
        setattr(module.get_submodule(parent), leaf, head)
    else:
        module = head
    check_taps(module, taps)
    return AdaptedNetwork(module, tuple(taps), path)


def code_version(name: str) -> str:
    """What identifies the code behind "module:callable": its networks may change with it.

    Returns:
        For torchvision its version; else the SHA-256 of the module's file, in hexadecimal digits.
        Files that it imports do not count.

    Raises:
        UserError: if there is no such module.
    """
    if name.startswith("torchvision:"):
        return f"torchvision {version('torchvision')}"
    with _working_folder_importable():
        file: str | None = getattr(_import(name), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def _last_layer(module: nn.Module) -> str:
    """Name of the last linear or distance layer in the order of registration."""
    layers = (nn.Linear, DistanceHead)
    found: list[str] = [name for name, part in module.named_modules() if isinstance(part, layers)]
    if not found:
        raise UserError(
            f"The network {type(module).__name__} has no linear layer, and so no known last layer.",
            "Use a network that ends in a torch.nn.Linear, or name its last layer with "
            "oodbench.models.adapt(module, head=...).",
        )
    return found[-1]


def check_taps(module: nn.Module, taps: Sequence[str]) -> None:
    """Refuse taps that are no modules, or have a name that the engine uses.

    Raises:
        UserError: if there is one.
    """
    _check_names(module, taps)
    for tap in taps:
        if tap in _NOT_FOR_TAPS:
            inside = [f"{tap}.{name}" for name, _ in module.get_submodule(tap).named_children()]
            raise UserError(
                f"No tap can be called '{tap}': that name is taken.",
                f"Name a module inside it, such as '{inside[-1]}'." if inside else "",
            )


def _check_names(module: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            # Of all the names that a network has, those that lie as deep are enough for a hint.
            level = [other for other in known if other.count(".") <= name.count(".")]
            raise UserError(
                f"The network {type(module).__name__} has no module '{name}'.",
                did_you_mean(name, level),
            )


# --- "module:callable" -------------------------------------------------------------------------


def _find_callable(name: str) -> Callable[..., Any]:
    module = _import(name)
    callable_name = name.partition(":")[2]
    factory = getattr(module, callable_name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value)]
        if name.startswith("torchvision:"):
            known = module.list_models(module=module)
        raise UserError(
            f"Network '{name}': {module.__name__} has no callable '{callable_name}'.",
            did_you_mean(callable_name, [key for key in known if not key.startswith("_")]),
        )
    return factory  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    module_name = name.partition(":")[0]
    if module_name == "torchvision":
        module_name = "torchvision.models"
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # importing runs a user's code, too
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module_name}.".startswith(f"{absent}."):
            raise UserError(
                f"Network '{name}': there is no module '{absent}'.",
                "It is looked for among installed packages and in the working directory.",
            ) from error
        raise UserError(
            f"Network '{name}': {module_name} cannot be imported: {_described(error)}."
        ) from error


def _described(error: Exception) -> str:
    message = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """The working directory as the last place that modules are imported from."""
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
