"""Histograms of the values of each image, by counting in bins of equal width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bins:
    """Bins of equal width between two numbers; both edges of the range are inside.

    Args:
        low, high: the range.
        count: number of bins, K.

    Raises:
        ValueError: if the range is empty.
    """

    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"no histogram between {self.low:g} and {self.high:g}: the values of the training "
                "images do not vary. Fit on more images, or check the network's features"
            )

    def places(self, values: Tensor) -> Tensor:
        """Bin of each value, from 1 to K; 0 below the range, K + 1 above it. int64, same shape.

        Args:
            values: any shape, any floating type; the places are computed in that type.
        """
        # A little less than one bin for each width, so that the upper edge is in the last bin.
        per_unit = self.count / (self.high - self.low) * (1 - 4 * torch.finfo(values.dtype).eps)
        scaled = (values - self.low).mul_(per_unit).add_(1)
        return scaled.clamp_(0, self.count + 1).long()

    def counts(self, values: Tensor) -> Tensor:
        """Number of an image's values in each place, shape [B, K + 2], int64.

        Args:
            values: shape [B, N].
        """
        size = self.count + 2
        places = self.places(values)
        if torch.compiler.is_exporting():  # the graph has no size for `bincount`
            none = places.new_zeros(len(values), size)
            return none.scatter_add(1, places, torch.ones_like(places))
        places += size * torch.arange(len(values), device=values.device)[:, None]
        return places.flatten().bincount(minlength=size * len(values)).view(-1, size)

    def shares(self, values: Tensor) -> Tensor:
        """Share of an image's values in each bin, shape [B, K], float64.

        Values outside the range count in the total, so that the sum may be below 1.

        Args:
            values: shape [B, N].
        """
        return self.counts(values)[:, 1:-1].double() / values.shape[1]
