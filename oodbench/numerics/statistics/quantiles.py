"""Quantiles of the entries of a tensor, and of a stream, of which a bounded sample is kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.numerics.row_sample import RowSample


class StreamingQuantiles:
    """Quantiles over the rows of many batches, column by column.

    They are exact while all rows fit, and those of a uniform sample (`RowSample`) of more rows: the
    rank of a quantile of a sample of N rows is right to some 0.5 / sqrt(N).

    Args:
        sample: what is kept of the rows; it may have rows already, and others may read it.
    """

    def __init__(self, sample: RowSample) -> None:
        self._sample = sample
        self._sorted: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add a batch.

        Args:
            rows: shape [N] (values of one distribution) or [N, D] (of D distributions).
        """
        self._sample.add(rows)
        self._sorted = None

    @property
    def kept(self) -> Tensor:
        """The rows that are kept, a copy, shape [M] or [M, D].

        Raises:
            ValueError: if no row was added.
        """
        if not len(self._sample):
            raise ValueError("no values to take a quantile of: fit the detector first")
        return torch.cat(self._sample.blocks)

    def quantile(self, fraction: float) -> Tensor:
        """The value below which this fraction of the rows lies, with linear interpolation.

        Args:
            fraction: from 0 (the smallest) to 1 (the largest).

        Returns:
            Shape [] or [D], float64.

        Raises:
            ValueError: if the fraction is outside [0, 1], or no row was added.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile is of a fraction from 0 to 1, not {fraction}")
        if self._sorted is None:
            self._sorted = _sorted(self.kept)
        position = fraction * (len(self._sorted) - 1)
        below = int(position)
        above = min(below + 1, len(self._sorted) - 1)
        low, high = self._sorted[below].double(), self._sorted[above].double()
        return torch.lerp(low, high, position - below)


class EntryQuantiles:
    """Quantiles of all entries of one tensor, with linear interpolation, each computed once.

    Args:
        values: any shape.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.cpu().numpy()
        self._found: dict[float, float] = {}

    def quantile(self, fraction: float) -> float:
        """The value below which this fraction of the entries lies.

        Args:
            fraction: from 0 (the smallest) to 1 (the largest).
        """
        if fraction not in self._found:  # torch.quantile takes no more than 16 million values
            self._found[fraction] = float(np.quantile(self._values, fraction))
        return self._found[fraction]


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(rows.numpy(), axis=0))  # several times faster than torch's
    return rows.sort(dim=0).values
