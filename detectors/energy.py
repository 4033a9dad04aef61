"""Energy score (Liu et al., NeurIPS 2020)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.functional import energy


@register(
    "energy",
    label="Energy",
    title="Negative free energy of the logits",
    venue="NeurIPS",
    year=2020,
    url="https://arxiv.org/abs/2010.03759",
    # The paper recommends 1 and shows that a larger temperature is no better; OpenOOD v1.5 passes:
    search_space={"temperature": (1.0, 10.0, 100.0, 1000.0)},
)
class Energy(Detector):
    """-E(x) = T log sum_i exp(z_i / T) (equation 4).

    Args:
        temperature: T. At a high one the order is that of the mean logit.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """The negative energy, shape [B]."""
        return energy(outputs.logits, self.temperature)
