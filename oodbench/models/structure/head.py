"""The last layer of a user's model, and whether the logits are W f + b with its weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import UserError
from oodbench.losses import DistanceHead
from oodbench.models.classifier import first_tensor, is_last_layer, linear_weight, vectors
from oodbench.models.rounding_tolerance import precision, same, within_rounding
from oodbench.models.structure.forward_pass import Call, ForwardPass
from oodbench.models.structure.model_call import Function
from oodbench.models.structure.user_network import has_weights, model_name

UNWATCHED = "a function or a compiled module hides its layers"
"""Why the last layer of a function, or of a module of TorchScript or torch.export, is not known."""

UNREGISTERED = (
    "it keeps modules in a plain Python list, tuple or dict, and torch does not register them"
)
"""Why the last layer is not known of a module that does not register its parts."""


NOT_FOUND = "no layer was found that gives the logits"
"""Why the last layer is not known of a module whose parts were seen."""


def find_head(seen: ForwardPass) -> tuple[str | None, str]:
    """Name of the last layer and a note on it; or None and why it is not known.

    The last layer is, in this order: the linear layer, 1x1 convolution or oodbench head with the
    logits as its output (averaged over space); the innermost module with weights that maps vectors
    to the logits (a cosine head, a low-rank update); the only linear layer with an output for each
    class.

    Raises:
        UserError: the model returns probabilities or log-probabilities.
    """
    layers = {name: call for name, call in seen.calls.items() if is_last_layer(call.module)}
    _check_no_probabilities(seen, layers)
    usable = {name: call for name, call in layers.items() if call.has_vectors(seen.images)}
    for name, call in reversed(usable.items()):
        if call.gives(seen.logits):
            if call.count > 1:
                return None, f"its last layer, '{name}', runs {call.count} times in a forward pass"
            return name, ""
    for name, call in seen.calls.items():  # the innermost ends first
        if call.count == 1 and _turns_vectors_into_logits(seen, name, call):
            return name, ""
    classes = seen.logits.shape[1]
    ends = [name for name, call in usable.items() if call.vectors.shape[1] == classes]
    if len(ends) > 1:  # the second half of an update of low rank is no last layer of its own
        ends = [name for name in ends if not _follows_a_layer(usable, usable[name])]
    if len(ends) == 1 and usable[ends[0]].count == 1:
        return ends[0], (
            f"The features are the input of '{ends[0]}', the only linear layer with an output for "
            "each class. The logits are not its output: name another layer with head= or features= "
            "if it is not the last one."
        )
    if _hides_modules(seen.module):
        return None, UNREGISTERED
    opaque = (torch.jit.ScriptModule, torch.fx.GraphModule, Function)
    if isinstance(seen.module, opaque) or not seen.calls:
        return None, UNWATCHED
    return None, NOT_FOUND


def _hides_modules(module: nn.Module) -> bool:
    """Whether a module keeps modules in plain containers, which torch does not register."""
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
    """Whether the input of a layer is the output of another layer."""
    return any(
        other.output.shape == call.given.shape and torch.equal(other.output, call.given)
        for other in layers.values()
    )


def _turns_vectors_into_logits(seen: ForwardPass, name: str, call: Call) -> bool:
    """Whether a module is a last layer of another kind: cosines, a low-rank update, int8."""
    if not name or not call.has_vectors(seen.images) or call.given.ndim != 2:
        return False
    if not same(call.output, seen.logits):
        return False
    if not has_weights(call.module) and call.given.shape[1] == call.output.shape[1]:
        return False  # a step after the last layer, such as a temperature
    before = itertools.takewhile(lambda other: other != name, seen.calls)
    return any(
        not other.startswith(f"{name}.") and has_weights(seen.calls[other].module)
        for other in before
    )  # otherwise it may be the whole model after a normalization


def _check_no_probabilities(seen: ForwardPass, layers: Mapping[str, Call]) -> None:
    """Refuse probabilities: detectors would take the softmax of a softmax."""
    logits = seen.logits.double()
    # Rounding is relative to each number, and logarithms are larger than probabilities.
    rounding = 1e-3 + precision(seen.logits) * (1 + log(logits.shape[1]))
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
            if call.has_vectors(seen.images)
            and call.vectors.shape == logits.shape
            and torch.allclose(F.softmax(call.vectors.double(), 1), activated, atol=rounding)
        ),
        None,
    )
    raise UserError(
        f"The model {model_name(seen.module)} returns {kind}, not logits.",
        f"Let it return the output of '{name}'." if name else "Leave out its last softmax.",
    )


def is_transparent(seen: ForwardPass, head: str, features: str | Tensor | None) -> bool:
    """Whether the logits are W f + b, which a subclass, a hook or a later module may change.

    Args:
        seen: the pass.
        head: name of the last layer.
        features: name of the module whose output is the features, or the features of the images,
            shape [B, D]; None: the input of the head.
    """
    layer = seen.module.get_submodule(head)
    if isinstance(layer, DistanceHead):
        return features is None and gives_logits(seen, head)
    if not is_last_layer(layer):
        return False
    last = seen.call(head)
    assert last is not None, "checked before"
    if features is None:
        inputs = vectors(last.given, layer)
    elif isinstance(features, Tensor):
        inputs = features
    else:
        source = seen.call(features)
        assert source is not None, "checked before"
        inputs = vectors(first_tensor(source.output), source.module)
    weight = linear_weight(layer).double()
    bias: Tensor | None = getattr(layer, "bias", None)
    if weight.shape != (seen.logits.shape[1], inputs.shape[1]):
        return False
    values = inputs.double()
    with torch.no_grad():
        bias = values.new_zeros(len(weight)) if bias is None else bias.detach().double()
        expected = F.linear(values, weight, bias)
        # Errors of the terms add up as their squares do.
        scale = F.linear(values.square(), weight.square(), bias.square()).sqrt() + expected.abs()
    rounded = (inputs, next(layer.parameters()), first_tensor(last.output))
    terms = weight.shape[1]
    return within_rounding(expected, *rounded, given=seen.logits, scale=scale, terms=terms)


def gives_logits(seen: ForwardPass, name: str | None) -> bool:
    """Whether the output of a module is the logits; False if the name is None."""
    call = None if name is None else seen.call(name)
    return call is not None and call.gives(seen.logits)
