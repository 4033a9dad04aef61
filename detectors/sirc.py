"""Softmax information retaining combination, SIRC (Xia & Bouganis, ACCV 2022)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Outputs, register
from oodbench.errors import counted
from oodbench.numerics.functional import log_entropy, log_probabilities, max_log_odds
from oodbench.numerics.input_checks import one_of, require_images

First = Literal["msp", "entropy"]


@register(
    "sirc",
    label="SIRC",
    title="Softmax score, lowered where the norm of the features is unusually small",
    paper=(
        "Augmenting Softmax Information for Selective Classification with Out-of-Distribution Data"
    ),
    authors=("Guoxuan Xia", "Christos-Savvas Bouganis"),
    venue="ACCV",
    year=2022,
    url="https://arxiv.org/abs/2207.07506",
    code="https://github.com/Guoxoug/SIRC",
    needs=("features", "fit"),
)
class SIRC(Detector):
    """-(S1max - S1) (1 + exp(-b (S2 - a))), of a softmax score S1 and the features' L1 norm S2.

    a = mean - 3 std and b = 1 / std of S2 on the training images (std with divisor N). Where S2 is
    usual for an ID image, the order is that of S1; where S2 is unusually small, the score drops.
    The score here is -log(S1max - S1) - log(1 + exp(-b (S2 - a))), which has the same order and
    does not saturate: 1 - p is computed from differences of logits.

    The paper also takes the residual of `residual` as S2. `oodbench.metrics.sirc` combines any two
    arrays of scores.

    Args:
        first: S1: "msp", the maximum softmax probability (S1max = 1), or "entropy", the negative
            entropy (S1max = 0).
    """

    def __init__(self, first: First = "msp") -> None:
        self.first = one_of("first", first, First)

    def fit(self, batches: Batches) -> None:
        """Mean and standard deviation of the L1 norm of the training features, in one pass.

        Raises:
            ValueError: if there are no images, or all norms are equal.
        """
        count, mean, squares = 0, 0.0, 0.0
        for outputs in batches:
            norms = _norms(outputs)
            ours, own = len(norms), float(norms.mean())
            shift = own - mean
            # Sums of squared deviations are merged around their common mean (Chan et al., 1983).
            squares += float((norms - own).square().sum()) + shift**2 * count * ours / (
                count + ours
            )
            mean += shift * ours / (count + ours)
            count += ours
        require_images(count)
        self.mean, self.std = mean, (squares / count) ** 0.5
        if self.std <= 1e-12 * abs(mean):
            raise ValueError(
                f"the L1 norm of the features does not vary over "
                f"{counted(count, 'training image')}, and SIRC divides by its standard deviation. "
                "Fit on more images, or check the network's features"
            )

    def score(self, outputs: Outputs) -> Tensor:
        """-log(S1max - S1) - log(1 + exp(-b (S2 - a))), shape [B]."""
        logits = outputs.logits.double()
        if self.first == "msp":
            log_gap = log_probabilities(logits).amax(dim=1) - max_log_odds(logits)
        else:
            log_gap = log_entropy(logits)
        usual = (_norms(outputs) - self.mean) / self.std + 3
        return -log_gap - F.softplus(-usual)


def _norms(outputs: Outputs) -> Tensor:
    """L1 norm of the features, shape [B], float64."""
    return outputs.features.double().abs().sum(dim=1)
