"""Directed sparsification, DICE (Sun & Li, ECCV 2022)."""

from __future__ import annotations

from typing import get_args

import numpy as np
from torch import Tensor

from oodbench import Detector, Head, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.moments import mean_features


@register(
    "dice",
    label="DICE",
    title="Sparsified last layer",
    venue="ECCV",
    year=2022,
    url="https://arxiv.org/abs/2111.09805",
    needs=("features", "head", "fit"),
    # The grid of pytorch-ood 0.4.0; the published code's default is 0.9.
    search_space={"p": (0.1, 0.3, 0.5, 0.7, 0.9)},
)
class DICE(Detector):
    """Energy of (W * M) h + b, where M keeps the weights that contribute most.

    A weight contributes V_cd = W_cd E[h_d], its part in the logit of a mean training image. M is 1
    where V exceeds the p-quantile of all its C x D entries, 0 elsewhere.

    Args:
        p: fraction of the weights that are dropped, in [0, 1).
        base: what the sparse layer's logits are scored with: "energy" or "max_probability".
    """

    def __init__(self, p: float = 0.9, base: BaseScore = "energy") -> None:
        if not 0 <= p < 1:
            raise ValueError(f"p must lie in [0, 1), not be {p}")
        self.p = p
        if base not in get_args(BaseScore):
            raise ValueError(f"base must be one of {', '.join(get_args(BaseScore))}, not {base}")
        self.base = base
        self.contributions: Tensor | None = None
        self._quantiles: dict[float, float] = {}

    def fit(self, batches: Batches) -> None:
        """The contributions V, shape [C, D], in one pass.

        Raises:
            ValueError: if there are no images, or the head is not linear.
        """
        mean, head = mean_features(batches)
        if head.kind != "linear" or head.weight is None:
            raise ValueError(f"a {head.kind} head has no weights to drop")
        self.contributions = head.weight.double() * mean
        self._quantiles = {}

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the sparse layer's logits, shape [B]."""
        if self.contributions is None:
            raise ValueError("DICE has no contributions yet: call fit first")
        if self.p not in self._quantiles:  # torch.quantile takes no more than 16 million values
            values = self.contributions.cpu().numpy()
            self._quantiles[self.p] = float(np.quantile(values, self.p))
        kept = self.contributions > self._quantiles[self.p]
        assert outputs.head.weight is not None
        sparse = Head("linear", outputs.head.weight * kept, outputs.head.bias)
        return base_score(self.base, sparse.logits(outputs.features))
