"""A detector that perturbs its input: the image is moved before it is scored.

A `PerturbingDetector` with `needs=("input_gradient",)` makes the engine move each image x to
x - epsilon sign(dL/dx), with L the loss of `perturbation_losses`. `score` gets the outputs of the
moved images. This takes a backward pass and a second forward pass.
"""

from collections.abc import Mapping

from torch import Tensor

from oodbench import Outputs, PerturbingDetector, register


@register(
    "moved_energy",
    label="MovedEnergy",
    title="Energy of the image, moved towards higher energy",
    needs=("input_gradient",),
    search_space={"epsilon": (0.0, 0.001, 0.002, 0.005)},  # 0 moves nothing, and costs nothing
)
class MovedEnergy(PerturbingDetector):
    """log sum_c exp z_c(x') for x' = x - epsilon sign(grad_x(-log sum_c exp z_c(x))).

    Args:
        epsilon: step size in units of a pixel in [0, 1]. Every perturbing detector has this
            attribute.
    """

    def __init__(self, epsilon: float = 0.002) -> None:
        if epsilon < 0:
            raise ValueError(f"epsilon must not be negative, not {epsilon}")
        self.epsilon = epsilon

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        """The loss that the step decreases, for each image, shape [B]; no mean over the batch.

        The key is the output that the moved images are for: "logits", or the name of a tap.
        """
        return {"logits": -outputs.logits.logsumexp(dim=1)}

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; `outputs` are those of the moved images."""
        return outputs.logits.logsumexp(dim=1)
