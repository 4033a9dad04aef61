"""i-ODIN: ODIN on the one value that matters most (Regmi, 2024)."""

from __future__ import annotations

from _odin import Odin
from torch import Tensor

from oodbench import register


@register(
    "iodin",
    label="iODIN",
    title="i-ODIN: temperature, and a step of the value with the largest gradient",
    paper="Image-based Outlier Synthesis With Training Data",
    authors=("Sudarshan Regmi",),
    venue="arXiv",
    year=2024,
    url="https://arxiv.org/abs/2411.10794",
    code="https://github.com/sudarshanregmi/ASCOOD",
    needs=("input_gradient",),
    family="gradients",
    search_space={"temperature": (1.0, 10.0, 100.0, 1000.0), "epsilon": (0.0014, 0.0028)},
)
class IODIN(Odin):
    """ODIN, but only one input value of each image moves: the one with the largest |gradient|.

    x'_j = x_j - epsilon sign(g_j) for j = argmax |g|, all other values stay; then S as in `odin`.
    The published code takes the gradient g with respect to the normalized image, and divides the
    step by the channel's standard deviation: the largest value is sought in g std, and the step is
    epsilon in units of a [0, 1] pixel. Of values that are tied the first one moves.

    Args:
        temperature: T, applied before the gradient too.
        epsilon: step size in units of a [0, 1] pixel; the image is not clamped.
        sign_zero: sign of a zero gradient, which is the largest where all are zero.
    """

    def step(self, images: Tensor, gradient: Tensor, std: Tensor) -> Tensor:
        """One value of each image moves."""
        largest = (gradient * std).abs().flatten(1).argmax(dim=1, keepdim=True)
        moved = super().step(images, gradient, std).flatten(1).gather(1, largest)
        return images.flatten(1).scatter(1, largest, moved).view_as(images)
