"""AdaSCALE-A: adaptive scaling of activations (Regmi, 2025)."""

from __future__ import annotations

from _adascale import AdaScale
from torch import Tensor

from oodbench import Outputs, register
from oodbench.numerics.functional import energy


@register(
    "adascale_a",
    label="AdaSCALE-A",
    title="AdaSCALE-A: features scaled by a percentile for each image",
    paper="AdaSCALE: Adaptive Scaling for OOD Detection",
    authors=("Sudarshan Regmi",),
    venue="arXiv",
    year=2025,
    url="https://arxiv.org/abs/2503.08023",
    code="https://github.com/sudarshanregmi/AdaSCALE",
    needs=("features", "head", "input_gradient", "perturbed", "validation"),
    family="gradients",
    nonnegative_features=True,
    search_space={
        "percentiles": (
            (0.6, 0.65),
            (0.6, 0.7),
            (0.6, 0.75),
            (0.6, 0.8),
            (0.6, 0.85),
            (0.6, 0.9),
            (0.6, 0.95),
            (0.6, 0.99),
            (0.65, 0.7),
            (0.65, 0.75),
            (0.65, 0.8),
            (0.65, 0.85),
            (0.65, 0.9),
            (0.65, 0.95),
            (0.65, 0.99),
            (0.7, 0.75),
            (0.7, 0.8),
            (0.7, 0.85),
            (0.7, 0.9),
            (0.7, 0.95),
            (0.7, 0.99),
            (0.75, 0.8),
            (0.75, 0.85),
            (0.75, 0.9),
            (0.75, 0.95),
            (0.75, 0.99),
            (0.8, 0.85),
            (0.8, 0.9),
            (0.8, 0.95),
            (0.8, 0.99),
            (0.85, 0.9),
            (0.85, 0.95),
            (0.85, 0.99),
            (0.9, 0.95),
            (0.9, 0.99),
            (0.95, 0.99),
        )
    },
)
class AdaScaleA(AdaScale):
    """log sum_c exp(W (exp(r) z) + b)_c, with r the ratio of `AdaScale`.

    The file `_adascale.py` has r and the parameters. Fitted on ID validation images, as in
    OpenOOD: a forward pass, a backward pass and another forward pass for each. The default is the
    paper's for CIFAR and most networks; for ResNet-50 on ImageNet it is (0.8, 0.85). The formula
    expects features that are not negative: negative ones count as 0 in r. Where features or
    gradients are few, at least one counts; the published code then takes none.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Energy of the logits of the scaled features, shape [B]."""
        scaled = outputs.features.double() * self.ratio(outputs).exp()[:, None]
        return energy(outputs.head.logits(scaled))
