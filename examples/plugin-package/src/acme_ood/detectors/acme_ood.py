"""How far the largest logit is above the soft maximum of the others."""

from oodbench import Detector, Outputs, register
from torch import Tensor


@register(
    "acme_ood",
    label="AcmeOod",
    title="Largest logit above the soft maximum of the others",
    search_space={"temperature": (0.5, 1.0, 2.0)},
)
class AcmeOod(Detector):
    """S(x) = z_1 - T log sum_{c > 1} exp(z_c / T), with z_1 >= z_2 >= ... the sorted logits.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        ordered = outputs.logits.sort(dim=1, descending=True).values  # [B, C], float64
        others = (ordered[:, 1:] / self.temperature).logsumexp(dim=1)
        return ordered[:, 0] - self.temperature * others
