"""Checks of detectors' parameters and of the data that they are fitted on."""

from __future__ import annotations

from typing import TypeVar, get_args

from torch import Tensor

from oodbench.detector import Outputs
from oodbench.errors import listed

Number = TypeVar("Number", int, float)
Word = TypeVar("Word", bound=str)


def at_least(name: str, value: Number, least: Number) -> Number:
    """The value of a parameter with a lower limit.

    Raises:
        ValueError: if it is below the limit.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def fraction(name: str, value: float) -> float:
    """The value of a parameter that is a fraction in [0, 1).

    Raises:
        ValueError: if it is outside.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a fraction in [0, 1), not {value}")
    return value


def one_of(name: str, value: Word, choices: object) -> Word:
    """The value of a parameter that takes one of a few words.

    Args:
        name: name of the parameter.
        value: value of the parameter.
        choices: a `Literal` type.

    Raises:
        ValueError: if the value is not one of these words.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {value}")
    return value


def labels_of(outputs: Outputs) -> Tensor:
    """True classes of the images, shape [B].

    Raises:
        ValueError: if the images have no labels.
    """
    if outputs.labels is None:
        raise ValueError("needs images with labels to fit on; these images have no labels")
    return outputs.labels


def require_images(count: int, kind: str = "training") -> None:
    """Check that there are images to fit on.

    Args:
        count: number of images.
        kind: "training" or "validation", for the message.

    Raises:
        ValueError: if there are none.
    """
    if not count:
        raise ValueError(f"no {kind} images to fit on")


def require_every_class(counts: Tensor, problem: str) -> None:
    """Check that every class has images.

    Args:
        counts: number of images of each class, shape [C].
        problem: message of the error, with {} for the classes without images.

    Raises:
        ValueError: if a class has no image.
    """
    empty = [index for index, count in enumerate(counts.tolist()) if count == 0]
    if empty:
        raise ValueError(problem.format(listed(empty)))


def require_positive_logits(total: float, count: int, method: str) -> float:
    """The mean largest logit (or energy) of the training images, which must be positive.

    A method that multiplies by logits reverses its order if they are negative. Softmax does not
    change if a constant is added to all logits, so training does not determine their level. It is
    usually positive for a linear layer trained with softmax, but not for a layer trained with a
    sigmoid for each class.

    Args:
        total: sum of the largest logits, or of the energies, of the training images.
        count: number of training images.
        method: its name, for the message.

    Returns:
        The mean.

    Raises:
        ValueError: if the mean is not positive, or there are no images.
    """
    require_images(count)
    mean = total / count
    if not mean > 0:
        raise ValueError(
            f"the largest logits of the training images are {mean:.3g} on average, and {method} "
            "multiplies or divides by them: negative logits would reverse the order of its scores. "
            "It needs a network that gives the class of an image a positive logit"
        )
    return mean
