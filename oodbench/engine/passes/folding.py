"""BatchNorm folded into convolutions, for the time of evaluation passes.

In evaluation mode a BatchNorm multiplies each channel by a constant and adds another. Where its
input is the output of a convolution that nothing else reads, the convolution computes both, with
other weights: the same function up to the rounding of float32, with a read and a write of the map
less. The model's own weights are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from oodbench.models.classifier import Classifier
from oodbench.models.hooks import watched

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_TOLERANCE = 1e-5
"""Largest difference of logits, features and feature layers, relative to the largest of them."""


T = TypeVar("T")


class OtherFlowError(Exception):
    """A forward pass gives a convolution's output to other modules than the passes before."""


@dataclass(eq=False, slots=True)
class _Pair:
    """A convolution and the BatchNorm after it.

    Attributes:
        weight, bias: of the convolution, with the BatchNorm in it.
        given: what the convolution gave and the BatchNorm did not get yet.
    """

    convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d
    norm: nn.Module
    weight: Tensor
    bias: Tensor
    given: Tensor | None = None

    def convolved(self, images: Tensor) -> Tensor:
        """The convolution's forward."""
        self.given = self.convolution._conv_forward(images, self.weight, self.bias)
        return self.given

    def normalized(self, given: Tensor) -> Tensor:
        """The BatchNorm's forward."""
        if given is not self.given:
            raise OtherFlowError
        self.given = None
        return given


class Folding:
    """The BatchNorms of a classifier that are folded while `applied` is open."""

    def __init__(self, pairs: Iterable[_Pair] = ()) -> None:
        self._pairs = list(pairs)
        self._by_convolution: dict[nn.Module, _Pair] = {
            pair.convolution: pair for pair in self._pairs
        }
        self._undo = ExitStack()

    def __len__(self) -> int:
        return len(self._pairs)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the `forward` of these modules; the modules are as before at the end."""
        with ExitStack() as self._undo:
            for pair in self._pairs:
                self._replace(pair.convolution, pair.convolved)
                self._replace(pair.norm, pair.normalized)
            yield

    def _replace(self, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        vars(module)["forward"] = forward  # past nn.Module's own __setattr__
        self._undo.callback(vars(module).pop, "forward")

    def drop(self) -> None:
        """Fold nothing from now on."""
        self._undo.close()
        self._pairs.clear()
        self._by_convolution.clear()

    def during(self, compute: Callable[[], T], *, whole: bool = True) -> T:
        """What a forward pass gives; it is repeated without folding if its flow is another one.

        Args:
            compute: makes the pass.
            whole: whether every layer runs: no convolution's output may be left over.
        """
        try:
            return self._checked(compute, whole=whole)
        except OtherFlowError:
            self.drop()
            return compute()

    def _checked(self, compute: Callable[[], T], *, whole: bool = True) -> T:
        for pair in self._pairs:
            pair.given = None
        made = compute()
        if whole and any(pair.given is not None for pair in self._pairs):
            raise OtherFlowError
        return made

    def own_output(self, module: nn.Module, inputs: tuple[Any, ...], given: Any) -> Any:
        """The output of a module without folding, for a hook on it.

        Args:
            module: any.
            inputs: its arguments.
            given: its output.
        """
        pair = self._by_convolution.get(module)
        if pair is None:
            return given
        convolution = pair.convolution
        return convolution._conv_forward(inputs[0], convolution.weight, convolution.bias)


def find_folding(classifier: Classifier, images: Tensor) -> Folding:
    """The BatchNorms that can be folded.

    Such a BatchNorm is in evaluation mode, float32 or float64, and its input is the output of a
    convolution. Both run once in a forward pass, and no hook of others gets that output, be it on
    these modules, on a module around one of them or on all modules. Nothing else reads
    the convolution's output: with NaN in its place for everything but the BatchNorm, the logits,
    the penultimate features and the feature layers stay the same, bit for bit. With all of them
    folded, these values stay the same up to rounding.

    Args:
        classifier: in evaluation mode, its parameters frozen.
        images: a few, shape [B, channels, H, W], as the classifier takes them.

    Returns:
        Nothing to fold where the network does not run this way, or is compiled.
    """
    try:
        with torch.no_grad():
            folding = _found(classifier, images)
    except Exception:  # a network that cannot run this way runs as it is
        return Folding()
    return Folding() if folding is None else folding


def _found(classifier: Classifier, images: Tensor) -> Folding | None:
    modules = list(classifier.modules())
    norms = any(isinstance(module, _NORMS) and _foldable(module) for module in modules)
    if not norms or any(map(_is_compiled, modules)) or not images.is_floating_point():
        return None
    if nn.modules.module._has_any_global_hook():
        return None
    pairs = _adjacent(classifier, images)
    if not pairs:
        return None
    before = _values(classifier, images)
    if not _unread(pairs, classifier, images, before):
        pairs = [pair for pair in pairs if _unread([pair], classifier, images, before)]
    folding = Folding(_with_weights(conv, norm) for conv, norm in pairs)
    with folding.applied():
        after = folding._checked(lambda: _values(classifier, images))
    return folding if _agree(before, after) else None


_Adjacent = tuple[nn.Module, nn.Module]


def _is_compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod")


def _foldable(module: nn.Module) -> bool:
    """Whether a module is a plain convolution or BatchNorm that only its own code runs."""
    tensors = [*module.parameters(), *(each for each in module.buffers() if each.ndim)]
    if type(module) not in (*_CONVOLUTIONS, *_NORMS) or "forward" in vars(module):
        return False
    if _is_hooked(module):
        return False
    if type(module) in _NORMS and (module.training or getattr(module, "running_var", None) is None):
        return False
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    return len(kinds) == 1 and next(iter(kinds))[0] in (torch.float32, torch.float64)


def _is_hooked(module: nn.Module) -> bool:
    return any(getattr(module, hooks) for hooks in _HOOKS)


def _adjacent(classifier: Classifier, images: Tensor) -> list[_Adjacent]:
    """Convolutions, and the BatchNorms that get what these give, each running once."""
    network = classifier.network
    kept = {*network.tap_modules.values(), network.head, network.features_module}
    runs: dict[nn.Module, list[tuple[tuple[Any, ...], Any]]] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs.setdefault(module, []).append((inputs, output))

    with watched(classifier, record, lambda name, module: _foldable(module) or _is_hooked(module)):
        classifier(images)
    shown = {
        id(value)
        for module, calls in runs.items()
        if _is_hooked(module)
        for inputs, output in calls
        for value in (*inputs, output)
    }
    once = {
        module: calls[0]
        for module, calls in runs.items()
        if len(calls) == 1 and len(calls[0][0]) == 1 and module not in kept and _foldable(module)
    }
    gave = {
        id(out): each
        for each, (_, out) in once.items()
        if isinstance(each, _CONVOLUTIONS) and id(out) not in shown
    }
    return [
        (gave[id(inputs[0])], module)
        for module, (inputs, _) in once.items()
        if isinstance(module, _NORMS) and id(inputs[0]) in gave
    ]


def _values(classifier: Classifier, images: Tensor) -> dict[str, Tensor]:
    """Logits, penultimate features, and the output of every feature layer, of a forward pass."""
    found: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        found[f"{len(found)} {name}"] = value.clone()  # later modules may change it in place

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            keep(name, output)

    with ExitStack() as stack:
        for handle in classifier.network.watch_features(lambda value: keep("features", value)):
            stack.callback(handle.remove)
        taps = set(classifier.taps.values())
        stack.enter_context(watched(classifier, record, lambda name, module: module in taps))
        keep("logits", classifier(images))
    return found


def _unread(
    pairs: Iterable[_Adjacent],
    classifier: Classifier,
    images: Tensor,
    before: Mapping[str, Tensor],
) -> bool:
    """Whether only the BatchNorms read what the convolutions give."""
    given: dict[nn.Module, Tensor] = {}

    def hide(convolution: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        given[convolution] = output
        return torch.full_like(output, torch.nan)

    with ExitStack() as stack:
        for convolution, norm in pairs:

            def show(norm: nn.Module, inputs: Any, convolution: nn.Module = convolution) -> Any:
                return (given[convolution],)

            stack.callback(convolution.register_forward_hook(hide).remove)
            stack.callback(norm.register_forward_pre_hook(show).remove)
        after = _values(classifier, images)
    return before.keys() == after.keys() and all(map(torch.equal, before.values(), after.values()))


def _with_weights(convolution: Any, norm: Any) -> _Pair:
    """A pair with its weights, multiplied in float64."""
    bias = None if convolution.bias is None else convolution.bias.double()
    scale = None if norm.weight is None else norm.weight.double()
    shift = None if norm.bias is None else norm.bias.double()
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(),
        bias,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        scale,
        shift,
    )
    like = convolution.weight
    return _Pair(convolution, norm, weight.detach().to(like), bias.detach().to(like))


def _agree(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(
        bool((value - after[name]).abs().max() <= _TOLERANCE * value.abs().max())
        for name, value in before.items()
    )
