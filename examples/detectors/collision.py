"""A detector on logits: the smallest possible one.

It needs nothing but `outputs.logits`, is not fitted, and has one hyperparameter that is not tuned.
"""

from torch import Tensor

from oodbench import Detector, Outputs, register


@register("collision", label="Collision", title="Probability that two draws give one class")
class Collision(Detector):
    """log sum_c p_c^2 for p = softmax(z / T): two draws from p give the same class.

    Args:
        temperature: T; above 1 it flattens p.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        log_p = (outputs.logits / self.temperature).log_softmax(dim=1)
        return (2 * log_p).logsumexp(dim=1)
