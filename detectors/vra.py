"""VRA: variational rectified activation (Xu, Lian, Liu & Tao, NeurIPS 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import BaseScore, base_score
from oodbench.numerics.input_checks import one_of
from oodbench.numerics.row_sample import FEATURE_SAMPLE, RowSample
from oodbench.numerics.shaping import rectify
from oodbench.numerics.statistics.quantiles import StreamingQuantiles


@register(
    "vra",
    label="VRA",
    title="VRA: low activations to zero, high ones cut off",
    paper="VRA: Variational Rectified Activation for Out-of-distribution Detection",
    authors=("Mingyu Xu", "Zheng Lian", "Bin Liu", "Jianhua Tao"),
    venue="NeurIPS",
    year=2023,
    url="https://arxiv.org/abs/2302.11716",
    code="https://github.com/zeroQiaoba/VRA",
    needs=("features", "head", "fit"),
    # The paper's grids of eta_alpha and eta_beta.
    search_space={
        "lower_percentile": (0.5, 0.6, 0.65, 0.7),
        "upper_percentile": (0.8, 0.85, 0.9, 0.95, 0.99),
    },
    nonnegative_features=True,
    family="shaping",
)
class VRA(Detector):
    """Energy of W g(h) + b, with g(h) = 0 below alpha, h from alpha to beta, beta above.

    h are the penultimate features. Each feature has an alpha and a beta of its own, its quantiles
    on training images, as in the authors' code for CIFAR. (For ImageNet that code uses the same two
    numbers for all features.) VRA+ and VRA++, which add to the activations that are kept, are left
    out. OpenOOD and pytorch-ood give this name to other methods: they raise low values to alpha, at
    percentiles like 1 and 99, in pytorch-ood for every element of a map.

    The formula assumes features that are not negative: g then sets weak ones to the smallest value
    there is. Of signed features, it raises the most negative ones above others that it keeps.

    Args:
        lower_percentile: eta_alpha, a fraction in [0, 1].
        upper_percentile: eta_beta, a fraction in [0, 1], above the lower one. The defaults are the
            authors' for the energy on CIFAR-10. (On CIFAR-100 they score with ODIN, at 0.6 and
            0.95.)
        base: score of the logits: "energy" or "max_probability".
    """

    def __init__(
        self,
        lower_percentile: float = 0.6,
        upper_percentile: float = 0.9,
        base: BaseScore = "energy",
    ) -> None:
        if not 0 <= lower_percentile < upper_percentile <= 1:
            raise ValueError(
                "percentiles must be fractions with 0 <= lower_percentile < upper_percentile <= 1, "
                f"not {lower_percentile} and {upper_percentile}"
            )
        self.lower_percentile = lower_percentile
        self.upper_percentile = upper_percentile
        self.base = one_of("base", base, BaseScore)

    def fit(self, batches: Batches) -> None:
        """Quantiles of each feature, exact for up to 10,000 images; of a sample of more.

        Their ranks are then right to about 0.005.
        """
        sample = batches.shared(RowSample, FEATURE_SAMPLE)
        for outputs in batches:
            batches.once(sample.add, outputs.features)
        self.quantiles = StreamingQuantiles(sample)

    def score(self, outputs: Outputs) -> Tensor:
        """Score of the logits of rectified features, shape [B]."""
        alpha = self.quantiles.quantile(self.lower_percentile)
        beta = self.quantiles.quantile(self.upper_percentile)
        rectified = rectify(outputs.features, upper=beta, lower=alpha)
        return base_score(self.base, outputs.head.logits(rectified))
