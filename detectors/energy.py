"""Energy score (Liu et al., NeurIPS 2020)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.number_checks import positive
from oodbench.numerics.functional import energy


@register(
    "energy",
    label="Energy",
    title="Negative free energy of the logits",
    aliases=("ebo",),
    paper="Energy-based Out-of-distribution Detection",
    authors=("Weitang Liu", "Xiaoyun Wang", "John D. Owens", "Yixuan Li"),
    venue="NeurIPS",
    year=2020,
    url="https://arxiv.org/abs/2010.03759",
    code="https://github.com/wetliu/energy_ood",
    # The paper recommends 1 and shows that a larger temperature is no better; OpenOOD v1.5 passes:
    search_space={"temperature": (1.0, 10.0, 100.0, 1000.0)},
)
class Energy(Detector):
    """-E(x) = T log sum_i exp(z_i / T) (equation 4).

    Args:
        temperature: T. A high T orders images as the mean logit does.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def score(self, outputs: Outputs) -> Tensor:
        """The negative energy, shape [B]."""
        return energy(outputs.logits, self.temperature)
