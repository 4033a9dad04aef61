"""The user's model for the time of a call: adapted to the engine, then given back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.engine.device import full_precision
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.passes.memory import arranged
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier, Network
from oodbench.models.rounding import agree
from oodbench.training.determinism import deterministic, seeded
from oodbench.user_model.checked_runner import CheckedRunner, cannot_take, not_finite
from oodbench.user_model.declared_classes import matching_labels
from oodbench.user_model.session import DataSets
from oodbench.user_model.structure.analysis import analyze
from oodbench.user_model.structure.forward_pass import NotFiniteError
from oodbench.user_model.structure.network import Function, model_name

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


_ABSENT = object()

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, a number per channel in each."""


_FEW = 3
"""Images that a model is tried on: not as many as a batch of anything else is likely to have."""


def adapted(
    module: nn.Module,
    data: DataSets,
    options: Mapping[str, Any],
    num_classes: int | None,
    scaling: Scaling | None,
    device: torch.device,
    *,
    reads_layers: bool,
) -> tuple[UserClassifier, int, list[str]]:
    """The model as a classifier of the engine, tried on a few images of each data set.

    With `reads_layers` it is also tried on a whole batch, to see which layers run for it.

    Returns:
        The classifier, C, and notes on the model.
    """
    images, _ = data.test[ID].first()
    dtype = type_of(module)
    if scaling is not None:
        for source in data.all:
            channels = source.first()[0].shape[1]
            if len(scaling[0]) not in (1, channels):
                raise UserError(
                    f"normalization is for {len(scaling[0])} channels, the images of "
                    f"{source.name} have {channels}."
                )

    def wrapped(network: Any, channels_last: bool) -> UserClassifier:
        return UserClassifier(
            network, scaling, dtype=dtype, device=device, channels_last=channels_last
        )

    alone = wrapped(module, channels_last=True)
    whole = arranged(images.to(device), alone.dtype)
    few = whole[:_FEW]
    try:
        probed = analyze(
            module,
            alone.normalized(few),
            num_classes=num_classes,
            batch=alone.normalized(whole) if reads_layers else None,
            **options,
        )
    except UserError:
        raise
    except NotFiniteError as error:
        raise not_finite(f"image {error.index} of id_data", error.logits) from None
    except Exception as error:
        raise cannot_take(alone, few, "id_data", error) from error
    if probed.channels_last:
        reorder(module)
    classifier = wrapped(probed.network, probed.channels_last)
    runner = CheckedRunner(classifier, batch_size=_FEW)
    seen = {few.shape[1:]}
    with runner.attached(), torch.no_grad():
        notes = [note for note in (probed.note,) if note]
        notes += _unsteadiness(runner, few, probed.logits)
        for source in data.all:
            few, _ = runner.placed(source.first()[0][:_FEW])
            if few.shape[1:] not in seen:
                seen.add(few.shape[1:])
                runner.look_at(few, source.name)
    _check_classes(probed.num_classes, num_classes)
    return classifier, probed.num_classes, notes


def _unsteadiness(runner: CheckedRunner, images: Tensor, logits: Tensor) -> Iterator[str]:
    """Notes on a model whose logits for an image depend on more than the image.

    Args:
        runner: attached.
        images: a few.
        logits: what the model gave for them together.
    """

    def alone() -> Tensor:
        logits: Tensor = runner.classifier(images[:1])
        return logits

    if len(images) == 1:
        return
    try:
        first = alone()
        if agree(first, logits[:1]):
            return
        again = alone()
    except Exception:  # it takes no single image: said when there is one
        return
    if agree(again, first):
        yield (
            "The model gives an image that is alone in its batch other logits than beside others, "
            "as BatchNorm without running statistics does: every score depends on which images "
            "come together."
        )
    else:
        yield (
            "The model gives an image other logits each time, as a module in training mode "
            "or dropout that is always on does: every score is that of one draw. Call .eval() "
            "on the modules that a function calls."
        )


def _check_classes(found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise UserError(
            f"num_classes is {expected}, and the model gives {found} logits for an image.",
            "Leave num_classes out, or give the model that has as many.",
        )


def same_classes(data: DataSets, num_classes: int) -> list[str]:
    """Make labels mean the same classes in all data sets; returns notes about it."""
    labeled = {source.name: source for source in data.all if source.declared is not None}
    for source in labeled.values():
        source.relabel = ()  # of a model before this one
    declared = {
        name: source.declared
        for name, source in labeled.items()
        if source.declared is not None and source.has_labels
    }
    notes = []
    for name, labels, note in matching_labels(declared, num_classes):
        labeled[name].relabel = labels
        notes.append(note)
    return notes


@contextmanager
def given_back(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module with stand-ins for its parameters and buffers, on a device.

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
    """Set back the attributes that hold, or held, other tensors, such as caches."""
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


def reorder(module: nn.Module) -> None:
    """Put the weights of convolutions in channels_last order, which is faster."""
    for part in module.modules():
        # Exactly torch's own layers: those of others may look at their weights in another order.
        if type(part) not in _CONVOLUTIONS:
            continue
        weight = part._parameters.get("weight")  # none if it is made of others in each pass
        if weight is not None:
            weight.data = weight.data.to(memory_format=torch.channels_last)


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Reproducible results: deterministic settings of torch and seeded generators; all restored.

    All global generators are seeded: a data set may draw from any of them.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - not ours to choose
    with ExitStack() as stack:
        stack.callback(np.random.set_state, legacy)
        stack.callback(random.setstate, python)
        stack.enter_context(deterministic(device))
        stack.enter_context(full_precision(device))
        stack.enter_context(seeded(seed, device))
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield


def type_of(module: nn.Module) -> torch.dtype:
    """The floating type of a module's first parameter, or buffer; float32 if it has neither."""
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module's parameters are; None if it has none.

    Raises:
        UserError: if they are in several places, or nowhere.
    """
    places = sorted({str(tensor.device) for tensor in module.parameters()})
    if places == ["meta"]:
        raise UserError(
            f"The model {model_name(module)} is on the device 'meta', without values.",
            "Load its weights.",
        )
    if len(places) > 1:
        raise UserError(
            f"The parameters of the model {model_name(module)} are on several devices: "
            f"{', '.join(places)}.",
            "Move it to one, with model.to(device).",
        )
    return torch.device(places[0]) if places else None


def stays_where_it_is(module: nn.Module) -> bool:
    """Whether a model cannot be moved to a device, because some of its tensors cannot."""
    return isinstance(module, Function) or any(
        isinstance(part, torch.jit.ScriptModule | torch.fx.GraphModule)
        or type(part).__module__.startswith(("torch.ao.nn", "torch.nn.quantized"))
        for part in module.modules()
    )


class UserClassifier(Classifier):
    """A user's network: normalized if it is known how, run in its own type and order.

    Images come in float32, or float64 for a float64 network: in half precision the steps of input
    perturbation would be lost.

    Args:
        network: maps normalized images to logits.
        normalization: mean and standard deviation per channel; None: images come normalized.
        dtype: the network's.
        device: where it is.
        channels_last: whether it takes images in that order.
    """

    def __init__(
        self,
        network: Network,
        normalization: tuple[Sequence[float], Sequence[float]] | None,
        *,
        dtype: torch.dtype,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        mean, std = normalization or ((0.0,), (1.0,))
        super().__init__(network, mean, std)
        precision = torch.promote_types(dtype, torch.float32)
        self.mean = torch.tensor(mean, dtype=precision, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=precision, device=device).view(1, -1, 1, 1)
        self._normalizes = normalization is not None
        self._dtype = dtype
        self._channels_last = channels_last

    def normalized(self, images: Tensor) -> Tensor:
        """What the network sees of images [B, channels, ...]; of whole numbers, a copy."""
        # A copy in any case: a network's first layer may work in place.
        if not self._normalizes:
            images = images.clone()
        elif images.ndim == 4:
            images = super().normalized(images)
        else:
            shape = (1, -1, *[1] * (images.ndim - 2))
            images = (images - self.mean.view(shape)) / self.std.view(shape)
        if not images.is_floating_point():
            return images
        channels_last = self._channels_last and images.ndim == 4
        order = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(self._dtype).contiguous(memory_format=order)
