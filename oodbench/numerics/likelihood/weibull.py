"""Weibull distributions of the largest values of several samples, by maximum likelihood.

The conventions are those of libMR (Scheirer et al., PAMI 2011), which the authors of OpenMax use:
values are translated so that the smallest value of the tail is `TRANSLATION`, and a two-parameter
Weibull distribution is fitted. Logarithms relative to the translation avoid cancellation.
`scipy.stats.weibull_min.fit` fits one sample at a time, by a general search.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TRANSLATION = 10_000.0
"""Value in the copy of libMR that the authors of OpenMax use; libMR itself has 1.

It matters: the larger it is, the nearer the fit is to a Gumbel distribution.
"""

STEPS = 60
"""Bisection steps: full precision for a bracket with ends that differ by at most 1 + T / e."""


@dataclass(frozen=True)
class WeibullTails:
    """One distribution for each of C samples.

    Attributes:
        smallest: the smallest value of the tail, shape [C]; minus infinity for an empty sample.
        shape: shape [C]; infinite if all values of the tail are equal (the limit is a step).
        log_scale: logarithm of the scale over the translation, shape [C].
        translation: value that the smallest value is translated to.
    """

    smallest: Tensor
    shape: Tensor
    log_scale: Tensor
    translation: float = TRANSLATION

    def cdf(self, values: Tensor) -> Tensor:
        """Probability that a value of the tail is smaller, shape [..., C]; 1 for an empty sample.

        Args:
            values: shape [..., C], float64.
        """
        moved = ((values - self.smallest) / self.translation).clamp_min(-1)
        distance = moved.log1p() - self.log_scale
        exponent = torch.where(distance == 0, 0, self.shape * distance)
        return -torch.expm1(-exponent.exp())


def fit_weibull_tails(tails: Tensor, translation: float = TRANSLATION) -> WeibullTails:
    """Fit a Weibull distribution to each row by maximum likelihood.

    With u = log x and c the shape, the likelihood is stationary if the mean of u weighted by
    exp(c u) exceeds the plain mean by 1 / c. The excess grows with c. With s the largest u minus
    the mean, and n values, the solution lies between 1 / s and (1 + (n - 1) / e) / s.

    Args:
        tails: values, shape [C, T], float64; rows with fewer than T values end in NaN.
        translation: value that the smallest value of a row is translated to, positive.
    """
    there = ~tails.isnan()
    counts = there.sum(dim=1)
    smallest = tails.nan_to_num(torch.inf).amin(dim=1)
    logs = torch.where(there, ((tails - smallest[:, None]) / translation).log1p(), -torch.inf)
    largest = logs.amax(dim=1)
    logs = torch.where(there, logs - largest[:, None], 0)  # at most 0: exp cannot overflow
    mean = logs.sum(dim=1) / counts

    def weights(shape: Tensor) -> Tensor:
        return torch.where(there, (shape[:, None] * logs).exp(), 0)

    low = -1 / mean
    high = low * (1 + (counts - 1) / torch.e)
    for _ in range(STEPS):
        middle = (low + high) / 2
        weight = weights(middle)
        excess = (weight * logs).sum(dim=1) / weight.sum(dim=1) - mean
        above = excess * middle > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    shape = (low + high) / 2
    log_scale = largest + (weights(shape).sum(dim=1) / counts).log() / shape

    alike, empty = mean == 0, counts == 0
    shape = torch.where(alike, torch.inf, shape)
    log_scale = torch.where(alike, largest, log_scale)
    return WeibullTails(
        torch.where(empty, -torch.inf, smallest),
        torch.where(empty, 1, shape),
        torch.where(empty, 0, log_scale),
        translation,
    )


def largest_of_classes(values: Tensor, classes: Tensor, num_classes: int, count: int) -> Tensor:
    """The largest values of every class, shape [C, count], the largest first.

    Args:
        values: shape [N].
        classes: 0 .. C - 1, shape [N], int64.
        num_classes: C.
        count: number of values; NaN fills the row of a class with fewer.
    """
    order = values.argsort(descending=True)
    order = order[classes[order].argsort(stable=True)]
    values, classes = values[order], classes[order]
    sizes = torch.bincount(classes, minlength=num_classes)
    first = sizes.cumsum(dim=0) - sizes
    ranks = torch.arange(len(values), device=values.device) - first[classes]
    kept = ranks < count
    largest = values.new_full((num_classes, count), torch.nan)
    largest[classes[kept], ranks[kept]] = values[kept]
    return largest
