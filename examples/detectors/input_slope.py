"""A detector that scores with the gradient of the images: nothing is moved.

`needs=("input_gradients",)` gives `outputs.input_gradients` to `score`: a gradient for each loss of
`gradient_losses`, under the loss's name. This takes one backward pass for each
loss, and no second forward pass.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register


@register(
    "input_slope",
    label="InputSlope",
    title="Norm of the gradient of the loss with respect to the image",
    needs=("input_gradients",),
    search_space={"temperature": (1.0, 10.0)},
)
class InputSlope(Detector):
    """-|| grad_x CE(z(x) / T, argmax z(x)) ||_1: a confident network has a flat loss.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def gradient_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        """A loss for each image, shape [B]; the name is free."""
        scaled = outputs.logits / self.temperature
        return {"predicted": F.cross_entropy(scaled, scaled.argmax(dim=1), reduction="none")}

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]."""
        gradient = outputs.input_gradients["predicted"]  # [B, channels, H, W]
        return -gradient.double().abs().flatten(1).sum(dim=1)
