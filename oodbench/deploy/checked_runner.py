"""Errors of a user's model: a runner that says which image, of which data set, it cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from oodbench.data import ImageArray
from oodbench.detector import Outputs
from oodbench.engine.passes.image_sources import ImageSource
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.errors import UserError, listed
from oodbench.models.classifier import Classifier
from oodbench.models.structure.user_network import model_name


class CheckedRunner(NetworkRunner):
    """A runner with errors that name the image and the data set."""

    _dataset = ""

    def batches(self, data: ImageArray | ImageSource) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As the base class; errors name the data set from then on."""
        self._dataset = getattr(data, "name", self._dataset)
        return super().batches(data)

    def look_at(self, images: Tensor, name: str) -> None:
        """Try the network on the first images of a data set.

        Raises:
            UserError: as `outputs`.
        """
        self._dataset = name
        self.outputs(images, first=0)

    def outputs(
        self, images: Tensor, labels: Tensor | None = None, first: int | None = None
    ) -> Outputs:
        """As the base class, with half precision converted to float32.

        Raises:
            UserError: if the network does not take the images, or its logits are not finite.
        """
        try:
            outputs = super().outputs(images, labels, first)
        except UserError as error:
            where = self._place(first)
            if len(images) > 1:
                where = f"{len(images)} images from {where} on"
            raise UserError(f"At {where}: {error.message}", error.hint) from None
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise cannot_take(self.classifier, images, self._dataset, error) from error
        logits = outputs.logits.detach()
        finite = logits.isfinite().all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).int().argmax())
            raise not_finite(self._place(None if first is None else first + row), logits[row])
        return outputs.map(_single)

    def activation(self, images: Tensor, tap: str) -> Tensor:
        """As the base class, not in half precision."""
        return _single(super().activation(images, tap))

    def _place(self, index: int | None) -> str:
        """What an image is called in messages."""
        if index is None:
            return f"an image made from {self._dataset}"
        return f"image {index} of {self._dataset}"


def not_finite(image: str, logits: Tensor) -> UserError:
    """The error of a network with logits that are not finite.

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


_OTHER_TYPE = re.compile(
    r"Input type .* should be the same|must have the same dtype|same dtype|expected scalar type"
)
"""Words of errors of functions whose weights are of another type than the images."""


_NO_TENSOR = re.compile(
    r"too many indices for tensor|only integers, slices|'Tensor' object has no attribute|"
    r"missing \d+ required (positional|keyword-only) argument"
)
"""Words of errors of models that take something else than one tensor."""


_GUARD = re.compile(r"Guard failed: .*?\bsize\(\)\[(\d+)\]|Expected input .*?shape\[(\d+)\]")
"""What an exported module says of a size that it was not exported for, and of which axis."""


def cannot_take(classifier: Classifier, images: Tensor, name: str, error: Exception) -> UserError:
    """The error of a network that does not take images of a data set.

    Args:
        classifier: the network.
        images: shape [B, channels, H, W].
        name: name of the data set.
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
    if _OTHER_TYPE.search(str(error)):
        hint = (
            "Convert the images to the type of the weights in the function, such as "
            "lambda images: model(images.double())."
        )
    if _NO_TENSOR.search(str(error)):
        hint = (
            "If the model takes something else than one tensor, give inputs=, a function of the "
            'images that makes it, such as inputs=lambda images: {"image": images}.'
        )
    if "same device" in str(error) or "Expected all tensors to be on" in str(error):
        hint = "Give device=... as it is where the model's tensors are."
    return UserError(
        f"The model {_name(classifier)} cannot take the images of {name}, of shape "
        f"{list(images.shape[1:])}: {type(error).__name__}: {line.rstrip('.')}.",
        hint,
    )


def _name(classifier: Classifier) -> str:
    return model_name(getattr(classifier.network, "module", classifier.network))


def _single(tensor: Tensor) -> Tensor:
    """Convert half precision to float32: torch has few decompositions for half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@contextmanager
def user_errors(module: nn.Module) -> Iterator[None]:
    """Turn an unexpected exception of a model into a `UserError`, with its cause."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(
            f"The model {model_name(module)} could not be evaluated: {type(error).__name__}: "
            f"{line}.",
            "The images may be too many for the memory: give smaller batches."
            if is_out_of_memory(error)
            else "",
        ) from error
