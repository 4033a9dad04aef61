"""Checks of what a detector's methods return, with errors that say what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from oodbench.detector import Detector
from oodbench.engine.passes.capture import LOGITS
from oodbench.errors import did_you_mean, kind_of


class DetectorError(Exception):
    """A detector breaks its contract; the message says how, and on which image."""


NO_LOCAL_FEATURES = "needs features of patches, and the model's image encoder gives none"
"""Why a detector with the need "local_features" cannot run on a vision-language model."""


class TuningError(Exception):
    """The tuning data are not sufficient; the message says why and what to do."""


def named(detector: Detector) -> str:
    """A detector's name for messages, with its file."""
    module = sys.modules.get(type(detector).__module__)
    file = getattr(module, "__file__", None)
    place = f" ({Path(file).parent.name}/{Path(file).name})" if file else ""
    return f"detector '{detector.info.name}'{place}"


def checked_losses(
    detector: Detector, method: str, returned: object, images: int, places: Collection[str] | None
) -> dict[str, Tensor]:
    """The losses that a detector gave, by name; one loss alone is that of the logits.

    Args:
        detector: gave them.
        method: what gave them: "perturbation_losses", "gradient_losses" or "tap_loss".
        returned: the value that the method returned.
        images: B.
        places: the names that are allowed; None if any is.

    Raises:
        DetectorError: if they are not one finite number for each image with a gradient.
    """
    source = f"{named(detector)}: {method}"
    example = f"{{'{LOGITS}': loss}} with a loss of shape [{images}], one for each image"
    losses = {LOGITS: returned} if isinstance(returned, Tensor) else returned
    if not isinstance(losses, Mapping) or not losses:
        gave = f"an empty {type(returned).__name__}" if losses == {} else _kind(returned)
        raise DetectorError(f"{source} returned {gave}; expected {example}")
    for name, loss in losses.items():
        if not isinstance(name, str) or (places is not None and name not in places):
            near = did_you_mean(str(name), places or ())
            raise DetectorError(
                f"{source} returned a loss for {name!r}; expected '{LOGITS}' or the name of a tap, "
                f"which the need 'taps' gives. {near}"
            )
        if not isinstance(loss, Tensor) or not loss.is_floating_point():
            raise DetectorError(f"{source} returned {_kind(loss)} for '{name}'; expected {example}")
        if tuple(loss.shape) != (images,):
            hint = "; one number for the batch: use reduction='none'" if loss.ndim == 0 else ""
            raise DetectorError(
                f"{source} returned a loss of shape {list(loss.shape)} for '{name}'; expected "
                f"[{images}], one for each image{hint}"
            )
        if not loss.requires_grad:
            raise DetectorError(
                f"{source} returned a loss for '{name}' without a gradient; compute it from "
                "`outputs` without detach(), numpy() or torch.no_grad()"
            )
        _check_finite(f"{source}: the loss for '{name}'", loss)
    return dict(losses)


def checked_gradient(detector: Detector, method: str, name: str, gradient: Tensor | None) -> Tensor:
    """The gradient of a loss with respect to the images.

    Raises:
        DetectorError: if there is none, or it is not finite.
    """
    source = f"{named(detector)}: {method}: the loss for '{name}'"
    if gradient is None:
        raise DetectorError(f"{source} does not depend on the images")
    _check_finite(f"{source}: its gradient", gradient)
    return gradient


def checked_taps(detector: Detector, returned: object, taps: Sequence[str]) -> tuple[str, ...]:
    """The names of taps that a detector chose, each once.

    Args:
        detector: chose them.
        returned: what its `choose_taps` returned.
        taps: all that there are.

    Raises:
        DetectorError: if they are not a list of such names.
    """
    source = f"{named(detector)}: choose_taps"
    if not isinstance(returned, list | tuple):
        raise DetectorError(
            f"{source} returned {_kind(returned)}; expected a list of names of taps"
        )
    for name in returned:
        if name not in taps:
            near = did_you_mean(str(name), taps)
            raise DetectorError(f"{source} returned {name!r}, which is no tap. {near}".rstrip())
    return tuple(dict.fromkeys(returned))


def checked_replacement(
    detector: Detector, tap: str, returned: object, shape: Sequence[int]
) -> Tensor:
    """A detector's replacement of a tap.

    Args:
        detector: gave it.
        tap: the name.
        returned: what its `replace_tap` returned.
        shape: shape of the tap.

    Raises:
        DetectorError: if it is no tensor of that shape, or not finite.
    """
    source = f"{named(detector)}: replace_tap"
    expected = f"expected a floating-point tensor of the shape it is given, {list(shape)}"
    if not isinstance(returned, Tensor) or not returned.is_floating_point():
        raise DetectorError(f"{source} returned {_kind(returned)} for '{tap}'; {expected}")
    if tuple(returned.shape) != tuple(shape):
        gave = f"a tensor of shape {list(returned.shape)}"
        raise DetectorError(f"{source} returned {gave} for '{tap}'; {expected}")
    _check_finite(f"{source}: what it returned for '{tap}'", returned)
    return returned


def checked_step(detector: Detector, place: str, returned: object, images: Tensor) -> Tensor:
    """The images that a detector moved, in the type of the images as they were.

    Args:
        detector: moved them.
        place: of the loss.
        returned: what its `step` returned.
        images: as they were, shape [B, C, H, W].

    Raises:
        DetectorError: if it is no tensor of that shape, or not finite.
    """
    source = f"{named(detector)}: step"
    expected = f"expected a floating-point tensor of the shape of the images, {list(images.shape)}"
    if not isinstance(returned, Tensor) or not returned.is_floating_point():
        raise DetectorError(f"{source} returned {_kind(returned)} for '{place}'; {expected}")
    if returned.shape != images.shape:
        gave = f"a tensor of shape {list(returned.shape)}"
        raise DetectorError(f"{source} returned {gave} for '{place}'; {expected}")
    _check_finite(f"{source}: what it returned for '{place}'", returned)
    return returned.to(images.dtype)


def checked_reduction(detector: Detector, tap: str, returned: object, images: int) -> Tensor:
    """What a detector made of a gradient.

    Args:
        detector: made it.
        tap: the name.
        returned: what its `reduce_gradient` returned.
        images: B.

    Raises:
        DetectorError: if it is no tensor with an entry for each image, or not finite.
    """
    source = f"{named(detector)}: reduce_gradient"
    expected = f"expected a tensor of shape [{images}, ...], an entry for each image"
    if not isinstance(returned, Tensor) or not returned.ndim or len(returned) != images:
        shape = f" of shape {list(returned.shape)}" if isinstance(returned, Tensor) else ""
        raise DetectorError(f"{source} returned {_kind(returned)}{shape} for '{tap}'; {expected}")
    _check_finite(f"{source}: what it returned for '{tap}'", returned)
    return returned


def _check_finite(what: str, values: Tensor) -> None:
    """Of shape [B] or [B, ...]; in a graph that is exported, values are not known."""
    if torch.compiler.is_exporting():
        return
    finite = values.detach().isfinite().flatten(1).all(dim=1) if values.ndim > 1 else None
    finite = values.detach().isfinite() if finite is None else finite
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise DetectorError(f"{what} is not finite for {count} of the {len(values)} images")


def _kind(value: object) -> str:
    return "nothing" if value is None else kind_of(value)
