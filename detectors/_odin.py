"""What ODIN and i-ODIN have in common: all but the values that move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from oodbench import Outputs, PerturbingDetector
from oodbench.number_checks import not_negative, positive
from oodbench.numerics.functional import max_log_odds


class Odin(PerturbingDetector):
    """The largest probability at a temperature, of an image that was moved to increase it.

    Args:
        temperature: T, applied before the gradient too.
        epsilon: step size in units of a [0, 1] pixel; the image is not clamped.
        sign_zero: sign of a zero gradient: "plus" (as the published code) or "zero".
    """

    def __init__(
        self,
        temperature: float = 1000.0,
        epsilon: float = 0.0014,
        sign_zero: Literal["plus", "zero"] = "plus",
    ) -> None:
        self.temperature = positive("temperature", temperature)
        self.epsilon = not_negative("epsilon", epsilon)
        self.sign_zero = sign_zero

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        """Log-odds against the predicted class; the step makes them larger."""
        return {"logits": -max_log_odds(outputs.logits / self.temperature)}

    def score(self, outputs: Outputs) -> Tensor:
        """Log-odds of max_i softmax(z(x') / T)_i, shape [B]."""
        return max_log_odds(outputs.logits / self.temperature)
