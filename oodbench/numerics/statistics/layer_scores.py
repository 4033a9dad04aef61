"""Scores of several feature layers on one scale, by their values on in-distribution images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from oodbench.numerics.input_checks import require_images


@dataclass(frozen=True)
class ReferenceScores:
    """Scores of one layer on in-distribution images that nothing was fitted on.

    Attributes:
        ordered: in ascending order, shape [N], float64.
    """

    ordered: Tensor

    @staticmethod
    def of(scores: Tensor) -> ReferenceScores:
        """The scores of these images.

        Args:
            scores: shape [N]; higher is more in-distribution.

        Raises:
            ValueError: if there are fewer than two, or all are equal.
        """
        require_images(len(scores), "validation")
        if len(scores) == 1:
            raise ValueError(
                "its score of one in-distribution image says nothing about other images. Give at "
                "least two validation images"
            )
        ordered = scores.double().sort().values
        if ordered[0] == ordered[-1]:
            raise ValueError(
                "its scores of in-distribution images are all equal: they say nothing about other "
                "images. Name other layers"
            )
        return ReferenceScores(ordered)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.ordered.mean(), self.ordered.std(correction=0)

    def standardized(self, scores: Tensor) -> Tensor:
        """(s - m) / sigma, with mean and standard deviation (divided by N) of the reference.

        Args:
            scores: shape [B].
        """
        mean, deviation = self._moments
        return (scores.double() - mean) / deviation

    def log_p_values(self, scores: Tensor) -> Tensor:
        """Logarithm of the empirical p-value (1 + #{i: s_i <= s}) / (N + 1), shape [B].

        Small for an image that scores lower than in-distribution images do. It counts the image
        itself, and is never 0 (Davison & Hinkley 1997, section 4.2).

        Args:
            scores: shape [B].
        """
        lower = torch.searchsorted(self.ordered, scores.double().contiguous(), right=True)
        return ((lower.double() + 1) / (len(self.ordered) + 1)).log()
