"""Mathematics that several detectors share: pure functions of logits and features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def max_probability(logits: Tensor) -> Tensor:
    """Largest softmax probability (Hendrycks & Gimpel 2017), shape [B].

    Args:
        logits: shape [B, C], float64: in float32, probabilities near 1 are tied.
    """
    return F.softmax(logits, dim=1).amax(dim=1)


def max_log_odds(logits: Tensor) -> Tensor:
    """Log-odds of the largest softmax probability, log p - log(1 - p), shape [B].

    Orders images as the probability does, at every scale of the logits; the probability is exactly
    1 in float64 if the largest logit is more than 37 above the others. Computed from differences of
    logits, which are accurate for large logits too.

    Args:
        logits: shape [B, C].
    """
    return -_gaps(logits).logsumexp(dim=1)


def _gaps(logits: Tensor) -> Tensor:
    """z_j - max z, shape [B, C], at most 0; minus infinity for the predicted class itself."""
    largest, predicted = logits.max(dim=1, keepdim=True)
    return (logits - largest).scatter(1, predicted, -torch.inf)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax, shape [B, C], with full relative precision even if p rounds to 1.

    Args:
        logits: shape [B, C].
    """
    log_total = F.softplus(-max_log_odds(logits))  # log of the sum of exp(z - max z)
    return logits - logits.amax(dim=1, keepdim=True) - log_total[:, None]


def log_complements(logits: Tensor) -> Tensor:
    """log(1 - p) of the softmax probabilities, shape [B, C], with full relative precision.

    Args:
        logits: shape [B, C].
    """
    log_p = log_probabilities(logits)
    largest, predicted = log_p.max(dim=1, keepdim=True)
    # 1 - p cancels for the predicted class alone; no other probability is above 1/2.
    own = largest - max_log_odds(logits)[:, None]
    return torch.log1p(-log_p.exp()).scatter(1, predicted, own)


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of the mean of several softmax probabilities, shape [B, C].

    Args:
        logits: of M networks, or of M passes of one, shape [B, M, C].
    """
    sampled = log_probabilities(logits.flatten(0, 1)).view(logits.shape)
    return sampled.logsumexp(dim=1) - math.log(logits.shape[1])


def log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + exp(x))), any shape; x itself where exp(x) is small."""
    return torch.where(x < -100, x, F.softplus(x).log())


def negative_entropy(logits: Tensor) -> Tensor:
    """Negative Shannon entropy of the softmax probabilities, in nats, shape [B].

    Sum of p log p, with log p from log-softmax so that p = 0 contributes 0 and not NaN. (Equation 8
    of the DisMax paper prints the positive entropy; its text, and every result, uses the negative.)

    Args:
        logits: shape [B, C].
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    return (log_probabilities.exp() * log_probabilities).sum(dim=1)


def log_entropy(logits: Tensor) -> Tensor:
    """Logarithm of the Shannon entropy, in nats, of the softmax probabilities, shape [B].

    Orders images as the entropy does, at every scale of the logits; the entropy is exactly 0 in
    float64 if the largest logit is more than 745 above the others. With the gaps d_j = z_j -
    max z and S the sum of their exponentials, H = log S + sum_j -d_j exp(d_j) / S, a sum of terms
    that are not negative, taken here in logarithms.

    Args:
        logits: shape [B, C].
    """
    gaps = _gaps(logits)
    log_odds_against = gaps.logsumexp(dim=1)
    others = torch.where(gaps.isinf(), -torch.inf, gaps + (-gaps).log()).logsumexp(dim=1)
    return torch.logaddexp(log_softplus(log_odds_against), others - F.softplus(log_odds_against))


def log_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithm of KL(p || q), shape [B].

    Orders images as the divergence does, even if p and q both round to 1 for one class. With
    r = log p - log q, KL is the sum of q g(r), where g(r) = 1 - (1 - r) exp(r) is not negative:
    nothing cancels. A difference r below the rounding of log q is replaced by that rounding, so
    that the logarithm is finite if p equals q.

    Args:
        log_p: logarithms of probabilities (`log_probabilities`), shape [B, C], finite.
        log_q: as `log_p`.
    """
    rounding = torch.finfo(log_q.dtype).eps * log_q.abs()
    difference = log_p - log_q
    difference = difference.where(difference.abs() > rounding, rounding)
    return (log_q + _log_excess(difference)).logsumexp(dim=1)


_EXCESS_SERIES = tuple((k + 1) / math.factorial(k + 2) for k in range(12))
"""g(r) / r^2 as a power series in r."""


def _log_excess(r: Tensor) -> Tensor:
    """The logarithm of g(r) = 1 - (1 - r) exp(r), any shape."""
    near = r.clamp(-0.1, 0.1)
    series = torch.zeros_like(r)
    for coefficient in reversed(_EXCESS_SERIES):
        series = series * near + coefficient
    below, above = r.clamp_max(-0.1), r.clamp_min(0.1)
    return torch.where(
        r.abs() < 0.1,
        2 * near.abs().log() + series.log(),
        torch.where(
            r < 0,
            torch.log1p((below - 1) * below.exp()),
            above + (above + torch.expm1(-above)).log(),
        ),
    )


def squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances, shape [B, C], by one matrix product.

    Both are shifted to the centers' mean first, which keeps the cancellation of the expanded square
    small; the result is never negative.

    Args:
        points: shape [B, D].
        centers: shape [C, D].
    """
    origin = centers.mean(dim=0)
    points, centers = points - origin, centers - origin
    squares = points.square().sum(dim=1, keepdim=True) + centers.square().sum(dim=1)
    return torch.addmm(squares, points, centers.T, alpha=-2).clamp_min(0)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy T log sum exp(z / T) (Liu et al. 2020, equation 4), shape [B].

    Args:
        logits: shape [B, C].
        temperature: T, positive.
    """
    return temperature * (logits / temperature).logsumexp(dim=1)


def log_generalized_entropy(logits: Tensor, gamma: float, top_m: int) -> Tensor:
    """Logarithm of sum_{j <= M} p_j^gamma (1 - p_j)^gamma, M largest probabilities, shape [B].

    Liu, Lochman & Zach 2023 (GEN). Probabilities are neither clipped nor subtracted from 1 where
    that would cancel: with a small gamma, very small ones count.

    Args:
        logits: shape [B, C], float64.
        gamma: exponent, positive.
        top_m: M; all classes where there are fewer.
    """
    log_p = F.log_softmax(logits, dim=1).sort(dim=1, descending=True).values
    # 1 - p of the largest is the sum of the others; of these, none is larger than 1/2.
    log_largest_complement = log_p[:, 1:].logsumexp(dim=1, keepdim=True)
    others = log_p[:, 1:top_m]
    log_complement = torch.cat([log_largest_complement, torch.log1p(-others.exp())], dim=1)
    return (gamma * (log_p[:, :top_m] + log_complement)).logsumexp(dim=1)


Confidence = Literal["max_probability", "entropy"]
"""Score of probabilities: the log-odds of the largest, or minus the logarithm of the entropy."""


def confidence(name: Confidence, logits: Tensor) -> Tensor:
    """Confidence of the softmax probabilities, shape [B]; in the order of its name, without ties.

    Args:
        name: "max_probability" or "entropy".
        logits: shape [B, C]; logarithms of probabilities are logits, too.
    """
    return max_log_odds(logits) if name == "max_probability" else -log_entropy(logits)


BaseScore = Literal["energy", "max_probability"]
"""Score of the logits of changed activations. "max_probability" gives the log-odds, because
scaled-up activations give probabilities that round to 1."""


def base_score(name: BaseScore, logits: Tensor) -> Tensor:
    """Score of logits, shape [B].

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
