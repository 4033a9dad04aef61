"""A user's own model for the time of a call: converted, checked while it runs, given back."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.data import ImageArray
from oodbench.detector import Outputs
from oodbench.engine.device import full_precision
from oodbench.engine.passes.batches import ImageSource, is_out_of_memory
from oodbench.engine.passes.network import NetworkRunner
from oodbench.errors import UserError, listed
from oodbench.models.adapter import Function, model_name
from oodbench.models.classifier import Classifier, Network
from oodbench.training.determinism import deterministic, seeded

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_ABSENT = object()


@contextmanager
def borrowed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module with stand-ins for its parameters and buffers, on a device.

    The module's own tensors are taken out and put back, even if something raises: their storage,
    strides, gradients and hooks stay as they are. Buffers are copies, and attributes that hold
    other tensors are set back, so what a pass keeps is forgotten. A parameter that stays on its
    device shares its storage with its stand-in, and a module may write into it; its values are
    copied first, and put back if they changed. That takes the memory of one copy of the weights.

    Args:
        module: any module.
        device: where it is to run.
    """
    stand_ins: dict[int, Tensor] = {}  # a tensor that is in several places stays one
    taken: list[tuple[nn.Module, str, Tensor]] = []
    # A TorchScript module shows its tensors and does not let go of them: it runs with its own.
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
    """Put the weights of a borrowed module's convolutions in channels_last order: it is faster."""
    for part in module.modules():
        # Exactly torch's own layers: those of others may look at their weights in another order.
        if type(part) not in _CONVOLUTIONS:
            continue
        weight = part._parameters.get("weight")  # none if it is made of others in each pass
        if weight is not None:
            weight.data = weight.data.to(memory_format=torch.channels_last)


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """The same results each time: torch's settings for it, and generators seeded; all put back.

    Everybody's own generators: a data set may draw from any of them.
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
    """Whether a model cannot be moved to a device: some of its tensors are out of reach."""
    return isinstance(module, Function) or any(
        isinstance(part, torch.jit.ScriptModule | torch.fx.GraphModule)
        or type(part).__module__.startswith(("torch.ao.nn", "torch.nn.quantized"))
        for part in module.modules()
    )


class BorrowedClassifier(Classifier):
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


class CheckedRunner(NetworkRunner):
    """A runner that says which image, of which data set, a network cannot deal with."""

    _set = ""
    _batch: Tensor | None = None
    _first = 0

    def batches(self, data: ImageArray | ImageSource) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As the base class; remembers what is being read."""
        first = 0
        self._set = getattr(data, "name", "validation_data")
        try:
            for images, labels in super().batches(data):
                self._batch, self._first = images, first
                yield images, labels
                first += len(images)
        finally:
            self._batch = None

    def look_at(self, images: Tensor, name: str) -> None:
        """Try the network on the first images of a data set.

        Raises:
            UserError: as `outputs`.
        """
        self._set, self._batch, self._first = name, images, 0
        try:
            self.outputs(images)
        finally:
            self._batch = None

    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Outputs:
        """As the base class, nothing in half precision.

        Raises:
            UserError: if the network does not take the images, or its logits are not finite.
        """
        try:
            outputs = super().outputs(images, labels)
        except UserError as error:
            where = self._position(images, 0)
            if len(images) > 1:
                where = f"{len(images)} images from {where} on"
            raise UserError(f"At {where}: {error.message}", error.hint) from None
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise cannot_take(self.classifier, images, self._set, error) from error
        logits = outputs.logits.detach()
        finite = logits.isfinite().all(dim=1)
        if not bool(finite.all()):
            index = int((~finite).int().argmax())
            raise not_finite(self._position(images, index), logits[index])
        return outputs.map(_single)

    def activation(self, images: Tensor, tap: str) -> Tensor:
        """As the base class, not in half precision."""
        return _single(super().activation(images, tap))

    def _position(self, images: Tensor, index: int) -> str:
        """What an image of a batch, or of a part of it, is called."""
        whole = self._batch
        storage = images.untyped_storage().data_ptr()
        if whole is None or whole.untyped_storage().data_ptr() != storage:
            return f"a perturbed image of {self._set}"
        row = (images.storage_offset() - whole.storage_offset()) // max(1, whole[0].numel())
        return f"image {self._first + row + index} of {self._set}"


def not_finite(image: str, logits: Tensor) -> UserError:
    """The error of a network whose logits for an image are not finite.

    Args:
        image: what the image is called.
        logits: for it, shape [C].
    """
    masked = logits.isneginf()
    if bool(masked.any()) and not bool(masked.all()) and bool((masked | logits.isfinite()).all()):
        classes = listed(masked.nonzero().flatten().tolist())
        return UserError(
            f"The model's logits for {image} are -inf for the classes {classes}.",
            "If these classes are masked, leave their columns out with output=, such as "
            "output=lambda logits: logits[:, kept], and give labels that count the others alone.",
        )
    return UserError(
        f"The model's logits for {image} are not finite.",
        "Look at its weights; half precision overflows beyond 65504.",
    )


_ABOUT_SHAPES = re.compile(
    r"size|shape|channel|dimension|\bmat1\b|broadcast|stride|elements|length|too small|\bview\b",
    re.IGNORECASE,
)
"""Words of errors that are about the shape of what a model is given."""
_GUARD = re.compile(r"Guard failed: .*?\bsize\(\)\[(\d+)\]|Expected input .*?shape\[(\d+)\]")
"""What an exported module says of a size that it was not exported for, and of which axis."""


def cannot_take(classifier: Classifier, images: Tensor, name: str, error: Exception) -> UserError:
    """The error of a network that does not take images of a data set.

    Args:
        classifier: the network.
        images: shape [B, channels, H, W].
        name: of the data set.
        error: what the network raised.
    """
    line = (str(error).strip().splitlines() or [""])[0]
    hint = ""
    if isinstance(error, RuntimeError | ValueError | AssertionError | IndexError) and (
        _ABOUT_SHAPES.search(str(error))
    ):
        hint = (
            "Give images of the size and with the channels that the model takes; a transform, such "
            "as torchvision.transforms.Resize and CenterCrop, brings them to it."
        )
    guard = _GUARD.search(str(error))
    if guard is not None and "0" in guard.groups():
        hint = (
            "Export it for batches of any size: torch.export.export(model, (images,), "
            "dynamic_shapes=({0: torch.export.Dim.AUTO},))."
        )
    elif hint and images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        hint = (
            "Their channels come last; give [channels, height, width], as "
            "torchvision.transforms.ToTensor() does."
        )
    if "same device" in str(error) or "Expected all tensors to be on" in str(error):
        hint = "Give device=... as it is where the model's tensors are."
    return UserError(
        f"The model {_name(classifier)} cannot take the images of {name}, of shape "
        f"{list(images.shape[1:])}: {type(error).__name__}: {line.rstrip('.')}.",
        hint,
    )


def find_gradient(classifier: Classifier, images: Tensor) -> tuple[str | None, bool]:
    """Whether the logits of a classifier have a gradient with respect to its images.

    It may be zero for some images in any network: where all rectifiers are at zero, as for black
    images. In a model that rounds its images it is zero for noise around them, too.

    Args:
        classifier: in evaluation mode, its parameters frozen.
        images: a few, on the device.

    Returns:
        Why there is none, or None; and whether there is one that is zero for images and noise.
    """
    if not images.is_floating_point():
        return "needs the gradient for its input, which is whole numbers", False
    try:
        gradient = _gradient(classifier, images)
        if gradient is not None:
            return None, not gradient.any() and _is_zero_for_noise(classifier, images)
    except Exception as error:  # a model under inference mode, in int8, or frozen, may raise
        if is_out_of_memory(error):
            return None, False
    return (
        "needs the gradient of the logits for the images, and the model gives none: a part of it "
        "computes without gradients (torch.no_grad, inference mode, detach, int8, a frozen "
        "export). Let it compute with gradients; freeze weights with requires_grad_(False)"
    ), False


def _is_zero_for_noise(classifier: Classifier, images: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images)
    try:
        gradient = _gradient(classifier, images + noise)
    except Exception:  # nothing is known
        return False
    return gradient is not None and not gradient.any()


def _gradient(classifier: Classifier, images: Tensor) -> Tensor | None:
    """Gradient of a random combination of the logits; None if no graph leads to the images.

    Of their sum it may be zero: that of centered logits is the same for every image.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits: Tensor = classifier(images)
        if not logits.requires_grad:
            return None
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (logits * weights).sum().backward(inputs=[images])
    return images.grad


def _name(classifier: Classifier) -> str:
    return model_name(getattr(classifier.network, "module", classifier.network))


def _single(tensor: Tensor) -> Tensor:
    """In float32 what is in half precision: few decompositions are made for it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
