"""Looking at a classifier of any make while it runs: its last layer, the ends of its stages.

Neither can be read off a network's structure, so a few images are sent through it and every module
is watched. Nothing about the module is changed.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import UserError, did_you_mean
from oodbench.losses import DistanceHead
from oodbench.models.activations import activation_of
from oodbench.models.adapter import (
    UNREGISTERED,
    UNWATCHED,
    AdaptedNetwork,
    Function,
    check_taps,
    model_name,
)
from oodbench.models.classifier import Network, first_tensor, is_last_layer, vectors
from oodbench.models.returned import HINT, Output, described, find_output, logits_in
from oodbench.models.rounding import precision, same, within_rounding
from oodbench.user_model.feature_layers import Call, FeatureLayers, ForwardPass, has_weights


class NotFiniteError(Exception):
    """A model's logits for an image are not finite.

    Attributes:
        index: of the image.
        logits: for it, shape [C].
    """

    def __init__(self, index: int, logits: Tensor) -> None:
        super().__init__(f"logits of image {index} are not finite")
        self.index = index
        self.logits = logits


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a pass of a network showed.

    Attributes:
        logits: what it returned.
        calls: name -> calls of a module, in the order in which the last ones ended.
        images: number of images.
        size: height and width of the images; 1 and 1 if they are none.
        output: where the logits are in what it returned.
        note: as in `Probed`.
    """

    logits: Tensor
    calls: dict[str, Call]
    images: int
    size: tuple[int, int]
    output: Output
    note: str


@dataclass(frozen=True, slots=True)
class Probed:
    """A module as oodbench uses networks.

    Attributes:
        network: shares the module's weights; its last layer and its taps are named.
        logits: what it gave for the images, shape [B, C].
        channels_last: whether it runs in torch's channels_last order.
        note: which of several outputs was taken for the logits; "" if there was no choice.
    """

    network: AdaptedNetwork
    logits: Tensor
    channels_last: bool
    note: str = ""

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
    module: nn.Module,
    images: Tensor,
    taps: Literal["auto"] | Sequence[str] = "auto",
    *,
    head: str | None = None,
    features: str | None = None,
    output: Output = None,
    num_classes: int | None = None,
    batch: Tensor | None = None,
) -> Probed:
    """Find the logits, the last layer and the taps of a classifier by running it once.

    The last layer is the linear layer, the 1x1 convolution or the oodbench head whose output,
    averaged over places, are the logits; else the innermost module with weights that turns vectors
    into them (a cosine head, a low-rank update); else the only linear layer with an output for each
    class. Its input, averaged over places, are the penultimate features. Where the logits are not
    W f + b of them, it is marked as opaque, and detectors do not see its weights. A model in which
    no such layer is seen, such as a function or a module of TorchScript, gives logits alone.

    With "auto", taps are the ends of stages or blocks (`oodbench.user_model.feature_layers`). A
    module
    that runs several times in one pass is never a tap; an oodbench network keeps those that it
    names.

    Args:
        module: in evaluation mode, on the device of `images`, and not wrapped.
        images: a few, normalized and of its type, shape [B, channels, H, W]; or what else it takes,
            shape [B, ...].
        taps: "auto", or names of modules in the order of the network.
        head: name of the last layer; None: found.
        features: name of the module whose output are the penultimate features; None: they are the
            input of the last layer.
        output: where the logits are in what it returns (`oodbench.models.returned`).
        num_classes: C, if it is known.
        batch: images of a whole batch, as `images`: a module that does not run for them as often as
            for a few is not taken for a tap.

    Raises:
        UserError: it returns no logits [B, C]; a named module is unknown, does not run just once,
            or gives no floating-point tensor with an entry for each image.
        NotFiniteError: logits are not finite.
        Exception: whatever the module raises for these images.
    """
    for argument, name in (("head", head), ("features", features)):
        _check_name(module, argument, name)
    this_pass, channels_last = _run(module, images, output, num_classes)
    last, why = _head_of(this_pass, module) if head is None else (head, "")
    if head is not None:
        _check_part(this_pass, module, head, "head", of="given")
    if features is not None:
        _check_part(this_pass, module, features, "features", of="output")
        last = last if head is not None or _gives_logits(this_pass, last) else None
    layers = _feature_layers(this_pass, module, taps, last)
    if taps == "auto" and layers.names and batch is not None and len(batch) > len(images):
        steady = _steady(this_pass.calls, module, batch)
        if len(steady) < len(this_pass.calls):
            layers = _feature_layers(replace(this_pass, calls=steady), module, taps, last)
    network = AdaptedNetwork(
        module,
        layers.names,
        last,
        features_name=features,
        opaque_head=last is not None
        and not _computes_what_it_says(this_pass, module, last, features),
        channel_axes=layers.axes,
        tap_reason=layers.reason,
        output=this_pass.output,
        num_classes=this_pass.logits.shape[1],
        head_note=why,
    )
    return Probed(network, this_pass.logits, channels_last, this_pass.note)


def _run(
    module: nn.Module, images: Tensor, output: Output, num_classes: int | None
) -> tuple[_Pass, bool]:
    """A pass, in channels_last order if the module takes it: a `view` of a map does not."""
    if images.ndim == 4:
        ordered = images.contiguous(memory_format=torch.channels_last)
        try:
            return _pass(module, ordered, output, num_classes), True
        except (UserError, NotFiniteError):
            raise
        except Exception:  # tried again in the other order, where it may raise what it likes
            pass
    return _pass(module, images.contiguous(), output, num_classes), False


def _pass(module: nn.Module, images: Tensor, output: Output, num_classes: int | None) -> _Pass:
    calls: dict[str, Call] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(
            part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            before = calls.pop(name, None)  # the order is that of the last calls
            count = 1 if before is None else before.count + 1
            given = activation_of((*inputs, *named.values()), len(images))
            if given is None:
                given = first_tensor((*inputs, *named.values()))
            if is_last_layer(part):
                # What comes after it may work in place.
                given, output = (
                    value.clone() if isinstance(value, Tensor) else value
                    for value in (given, output)
                )
            calls[name] = Call(part, count, given, output)

        return hook

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue  # they run no hooks
            # A hook on all of it would see nothing that the caller does not.
            if name or is_last_layer(part):
                stack.callback(part.register_forward_hook(watch(name), with_kwargs=True).remove)
        with torch.no_grad():
            returned = module(images.clone())  # it may work in place on them

    def is_layers(value: Tensor) -> bool:
        return any(_gives(call, value) for call in calls.values() if is_last_layer(call.module))

    note = ""
    if output is None:
        output, note = find_output(returned, images, model_name(module), num_classes, is_layers)
    logits = _checked_logits(module, logits_in(returned, output, images), len(images))
    size = (images.shape[2], images.shape[3]) if images.ndim == 4 else (1, 1)
    return _Pass(logits, calls, len(images), size, output, note)


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


# --- the last layer ----------------------------------------------------------------------------


def _head_of(this_pass: _Pass, module: nn.Module) -> tuple[str | None, str]:
    """Name of the last layer and a note on it, or None and why it is not known."""
    model = model_name(module)
    layers = {name: call for name, call in this_pass.calls.items() if is_last_layer(call.module)}
    _check_no_probabilities(this_pass, model, layers)
    usable = {name: call for name, call in layers.items() if _gives_vectors(call, this_pass.images)}
    for name, call in reversed(usable.items()):
        if _gives(call, this_pass.logits):
            if call.count > 1:
                return None, f"its last layer, '{name}', runs {call.count} times in a forward pass"
            return name, ""
    for name, call in this_pass.calls.items():  # the innermost ends first
        if call.count == 1 and _turns_vectors_into_logits(this_pass, name, call):
            return name, ""
    classes = this_pass.logits.shape[1]
    ends = [name for name, call in usable.items() if vectors_of(call).shape[1] == classes]
    if len(ends) > 1:  # the second half of an update of low rank is no last layer of its own
        ends = [name for name in ends if not _follows_a_layer(usable, usable[name])]
    if len(ends) == 1 and usable[ends[0]].count == 1:
        return ends[0], (
            f"The features are the input of '{ends[0]}', the only linear layer with an output for "
            "each class, though the logits are not its output; head= or features= name others."
        )
    if _hides_modules(module):
        return None, UNREGISTERED
    makes = (torch.jit.ScriptModule, torch.fx.GraphModule, Function)
    if isinstance(module, makes) or not this_pass.calls:
        return None, UNWATCHED
    return None, "no layer was found that gives the logits"


def _hides_modules(module: nn.Module) -> bool:
    """Whether modules are in plain containers alone, which are attributes of a module."""
    registered = set(module.modules())
    for part in module.modules():
        for name, value in vars(part).items():
            held = value.values() if isinstance(value, dict) else value
            if (
                isinstance(value, list | tuple | dict)
                and name != "_modules"
                and any(isinstance(each, nn.Module) and each not in registered for each in held)
            ):
                return True
    return False


def _follows_a_layer(layers: Mapping[str, Call], call: Call) -> bool:
    """Whether a layer is given what another layer gave, as it is."""
    return any(
        other.output.shape == call.given.shape and torch.equal(other.output, call.given)
        for other in layers.values()
    )


def vectors_of(call: Call) -> Tensor:
    """What a layer gave, averaged over places, shape [B, ...]."""
    return vectors(call.output, call.module)


def _gives_vectors(call: Call, images: int) -> bool:
    """Whether a layer is given, and gives, a floating-point tensor with an entry per image."""
    return _is_activation(call.given, images) and _is_activation(call.output, images)


def _gives(call: Call, logits: Tensor) -> bool:
    """Whether a layer gives the logits, averaged over places if there are several."""
    if not _gives_vectors(call, len(logits)):
        return False
    output = vectors_of(call)
    if output.shape != logits.shape:
        return False
    if call.output.numel() == output.numel():
        return same(output, logits)
    values = call.output.double()
    return within_rounding(
        vectors(values, call.module),
        call.output,
        given=logits,
        scale=vectors(values.abs(), call.module),
        terms=values[0].numel() // output[0].numel(),
    )


def _gives_logits(this_pass: _Pass, name: str | None) -> bool:
    return name is not None and _gives(this_pass.calls[name], this_pass.logits)


def _turns_vectors_into_logits(this_pass: _Pass, name: str, call: Call) -> bool:
    """Whether a module is a last layer of another make: cosines, a low-rank update, int8."""
    if not name or not _gives_vectors(call, this_pass.images) or call.given.ndim != 2:
        return False
    if not same(call.output, this_pass.logits):
        return False
    if not has_weights(call.module) and call.given.shape[1] == call.output.shape[1]:
        return False  # what comes after the last layer: a rectifier, a temperature
    before = itertools.takewhile(lambda other: other != name, this_pass.calls)
    return any(
        not other.startswith(f"{name}.") and has_weights(this_pass.calls[other].module)
        for other in before
    )  # else it may be all of the model but for a normalization


def _check_no_probabilities(this_pass: _Pass, model: str, layers: Mapping[str, Call]) -> None:
    """Refuse what is not logits: detectors would take the softmax of a softmax."""
    logits = this_pass.logits.double()
    # Each is rounded in proportion to itself; of a logarithm, that is more.
    rounding = 1e-3 + precision(this_pass.logits) * (1 + log(logits.shape[1]))
    ones = torch.ones(len(logits), dtype=torch.float64, device=logits.device)
    kind = ""
    if torch.allclose(logits.exp().sum(dim=1), ones, atol=rounding):
        kind = "log-probabilities"
    elif bool((logits >= 0).all()) and torch.allclose(logits.sum(dim=1), ones, atol=rounding):
        kind = "probabilities"
    if not kind:
        return
    activated = logits.exp() if kind == "log-probabilities" else logits
    name = next(
        (
            name
            for name, call in reversed([*layers.items()])
            if _gives_vectors(call, this_pass.images)
            and vectors_of(call).shape == logits.shape
            and torch.allclose(F.softmax(vectors_of(call).double(), 1), activated, atol=rounding)
        ),
        None,
    )
    raise UserError(
        f"The model {model} returns {kind}, not logits.",
        f"Let it return the output of '{name}'." if name else "Leave out its last softmax.",
    )


def _computes_what_it_says(
    this_pass: _Pass, module: nn.Module, head: str, features: str | None
) -> bool:
    """Whether the logits are W f + b: a subclass, a hook, or what comes after, may change them."""
    layer = module.get_submodule(head)
    if isinstance(layer, DistanceHead) and features is None:
        return _gives_logits(this_pass, head)
    if not is_last_layer(layer):
        return False
    if features is None:
        call = _call_of(this_pass, module, head)
        inputs = vectors(call.given, layer)
    else:
        call = _call_of(this_pass, module, features)
        inputs = vectors(first_tensor(call.output), call.module)
    if isinstance(layer, DistanceHead):
        return False
    # A layer may make its weight of other parameters, as weight normalization does.
    weight: Tensor = getattr(layer, "weight").detach().double().flatten(1)  # noqa: B009
    bias: Tensor | None = getattr(layer, "bias", None)
    if weight.shape != (this_pass.logits.shape[1], inputs.shape[1]):
        return False
    values = inputs.double()
    with torch.no_grad():
        bias = values.new_zeros(len(weight)) if bias is None else bias.detach().double()
        expected = F.linear(values, weight, bias)
        # Errors of the terms add up as their squares do.
        scale = F.linear(values.square(), weight.square(), bias.square()).sqrt() + expected.abs()
    rounded = (
        inputs,
        next(layer.parameters()),
        first_tensor(_call_of(this_pass, module, head).output),
    )
    terms = weight.shape[1]
    return within_rounding(expected, *rounded, given=this_pass.logits, scale=scale, terms=terms)


# --- named modules -----------------------------------------------------------------------------


def _check_name(module: nn.Module, argument: str, name: Any) -> None:
    if name is None:
        return
    known = [inside for inside, _ in module.named_modules() if inside]
    if not isinstance(name, str):
        raise UserError(f"{argument}: expected the name of a module, not {name!r}.")
    if name not in known:
        raise UserError(
            f"{argument}: the model {model_name(module)} has no module '{name}'.",
            did_you_mean(name, known),
        )


def _call_of(this_pass: _Pass, module: nn.Module, name: str) -> Call:
    """Calls of a named module; one that has several names is known by its first."""
    part = module.get_submodule(name)
    known = next(first for first, other in module.named_modules() if other is part)
    return this_pass.calls[known]


def _check_part(
    this_pass: _Pass, module: nn.Module, name: str, argument: str, *, of: Literal["given", "output"]
) -> None:
    """Refuse a named module that does not run once, or has no vector for each image."""
    try:
        call = _call_of(this_pass, module, name)
    except KeyError:
        raise UserError(
            f"{argument}: '{name}' does not run, or cannot be watched, when {model_name(module)} "
            "computes its logits.",
            "Name a module that runs once.",
        ) from None
    if call.count > 1:
        raise UserError(
            f"{argument}: '{name}' runs {call.count} times in one forward pass of "
            f"{model_name(module)}.",
            "Name a module that runs once.",
        )
    value = first_tensor(call.given if of == "given" else call.output)
    if not _is_activation(value, this_pass.images):
        verb = "is given" if of == "given" else "gives"
        raise UserError(
            f"{argument}: '{name}' {verb} {_shape(value)} for {this_pass.images} images, not a "
            "floating-point tensor [images, ...].",
            "Name another module.",
        )


# --- feature layers ----------------------------------------------------------------------------


def _feature_layers(
    this_pass: _Pass, module: nn.Module, taps: Literal["auto"] | Sequence[str], head: str | None
) -> FeatureLayers:
    """The feature layers: those that are asked for, those of an oodbench network, or found."""
    seen = ForwardPass(module, this_pass.calls, this_pass.images, this_pass.size, head)
    if taps != "auto":
        chosen = _names(module, (taps,) if isinstance(taps, str) else taps)
        check_taps(module, chosen)
        for name in chosen:
            _check_tap(seen, name)
        return FeatureLayers(chosen, "those that taps= names", seen.axes(chosen))
    if isinstance(module, Network):
        names = {id(part): name for name, part in module.named_modules()}
        chosen = tuple(names[id(part)] for part in module.tap_modules.values())
        return FeatureLayers(chosen, "those that the network names", {})
    return seen.feature_layers()


def _steady(calls: Mapping[str, Call], module: nn.Module, batch: Tensor) -> dict[str, Call]:
    """The calls of modules that run as often for a whole batch; of what they give nothing is kept.

    All of them if the batch cannot be taken: who passes it says why.
    """
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for name in calls:
            part = module.get_submodule(name)
            hook = functools.partial(lambda name, *_: counts.update([name]), name)
            stack.callback(part.register_forward_hook(hook).remove)
        try:
            with torch.no_grad():
                module(batch.clone())
        except Exception:
            return dict(calls)
    return {name: call for name, call in calls.items() if counts[name] == call.count}


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


def _check_tap(seen: ForwardPass, name: str) -> None:
    model = model_name(seen.module)
    call = seen.call(name)
    if call is None:
        raise UserError(
            f"Tap '{name}' does not run when {model} computes its logits.",
            "Name a module that runs once, or leave it to taps='auto'.",
        )
    if call.count > 1:
        raise UserError(
            f"Tap '{name}' runs {call.count} times in one pass of {model}: "
            "which of them is meant cannot be told.",
            "Name a module that runs once, such as the one it is a part of.",
        )
    if activation_of(call.output, seen.images) is None:
        raise UserError(
            f"Tap '{name}' gives {_shape(call.output)} for {seen.images} images, not a "
            "floating-point tensor [images, ...], or something with one in it.",
            "Name a module with such an output.",
        )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _is_activation(value: Any, images: int) -> bool:
    return isinstance(value, Tensor) and activation_of(value, images) is not None
