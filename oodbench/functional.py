"""Mathematics that several detectors share: pure functions of logits and features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def max_probability(logits: Tensor) -> Tensor:
    """Largest softmax probability (Hendrycks & Gimpel 2017), shape [B].

    Args:
        logits: shape [B, C]. In float64, or probabilities near 1 collapse into ties.
    """
    return F.softmax(logits, dim=1).amax(dim=1)


def max_log_odds(logits: Tensor) -> Tensor:
    """Log-odds of the largest softmax probability, log p - log(1 - p), shape [B].

    Orders images as the probability does, also where it is 1 up to rounding: beyond a gap of 37
    between the largest logit and the others, in float64.

    Args:
        logits: shape [B, C].
    """
    largest, predicted = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, predicted, -torch.inf).logsumexp(dim=1)
    return largest.squeeze(1) - others


def negative_entropy(logits: Tensor) -> Tensor:
    """Negative Shannon entropy of the softmax probabilities, in nats, shape [B].

    Sum of p log p, with log p from log-softmax so that p = 0 contributes 0 and not NaN. (Equation 8
    of the DisMax paper prints the positive entropy; its text, and every result, uses the negative.)

    Args:
        logits: shape [B, C].
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    return (log_probabilities.exp() * log_probabilities).sum(dim=1)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances, shape [B, C], by one matrix product.

    Both are shifted to the centres' mean first, which keeps the cancellation of the expanded square
    small; the result is never negative.

    Args:
        points: shape [B, D].
        centres: shape [C, D].
    """
    origin = centres.mean(dim=0)
    points, centres = points - origin, centres - origin
    squares = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return torch.addmm(squares, points, centres.T, alpha=-2).clamp_min(0)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy T log sum exp(z / T) (Liu et al. 2020, equation 4), shape [B].

    Args:
        logits: shape [B, C].
        temperature: T, positive.
    """
    return temperature * (logits / temperature).logsumexp(dim=1)


def check_logits_positive(mean: float, method: str) -> None:
    """Refuse logits of a level at which a method that multiplies by them turns the order round.

    Softmax does not change when a constant is added to all logits, so training does not fix their
    level. That of a linear layer trained with it is positive as a rule; not so that of one trained
    with a sigmoid for each class.

    Args:
        mean: of the largest logits, or of the energies, of the training images.
        method: its name, for the message.

    Raises:
        ValueError: if the mean is not positive.
    """
    if not mean > 0:
        raise ValueError(
            f"the largest logits of the training images are {mean:.3g} on average, and {method} "
            "multiplies by them: the order of its scores would turn round where they are negative. "
            "It is for networks that give the class of an image a positive logit"
        )


BaseScore = Literal["energy", "max_probability"]
"""What a method that changes activations scores the changed logits with. A probability is given by
its log-odds: activations that were scaled up give probabilities of 1 up to rounding."""


def base_score(name: BaseScore, logits: Tensor) -> Tensor:
    """A score of changed logits, shape [B].

    Args:
        name: "energy" (temperature 1) or "max_probability".
        logits: shape [B, C].

    Raises:
        ValueError: if there is no such score.
    """
    scores = {"energy": energy, "max_probability": max_log_odds}
    if name not in scores:
        raise ValueError(f"no base score '{name}'; there are: {', '.join(scores)}")
    return scores[name](logits)
