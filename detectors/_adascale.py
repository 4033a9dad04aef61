"""What AdaSCALE-A and AdaSCALE-L have in common: the percentile of each image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from oodbench import Batches, Outputs, PerturbingDetector
from oodbench.number_checks import not_negative
from oodbench.numerics.input_checks import at_least, fraction, require_images
from oodbench.numerics.shaping import kept


class AdaScale(PerturbingDetector):
    """r = s1 / s2, with a percentile for each image: low where the image looks in-distribution.

    The image x' is x with the values of the smallest |dl/dx| moved by `epsilon` in the direction
    that increases the largest logit l; z and z' are the features of x and x'. Of the `top` largest
    features of z, Q' = sum relu(z') + weight * sum |z - z'|, the second sum over the `top_shift`
    largest. F is the distribution of Q' on ID validation images. The percentile is
    p_min + (1 - F(Q')) (p_max - p_min); s1 is the sum of relu(z), s2 that of its values above the
    percentile.

    Args:
        percentiles: p_min and p_max, fractions.
        top: share of the features in the first sum, k1.
        top_shift: share of the features in the second sum, k2.
        weight: lambda.
        moved: share of the values of an image that move, o.
        epsilon: their step, in units of the normalized image.
        fitting_images: number of ID validation images that F is taken on at most.
    """

    def __init__(
        self,
        percentiles: tuple[float, float] = (0.75, 0.85),
        top: float = 0.05,
        top_shift: float = 0.01,
        weight: float = 10.0,
        moved: float = 0.05,
        epsilon: float = 0.5,
        fitting_images: int = 5000,
    ) -> None:
        lower, upper = percentiles
        if not 0 <= lower < upper < 1:
            raise ValueError(f"percentiles must be two fractions, rising, not {percentiles}")
        self.percentiles = percentiles
        self.top = fraction("top", top)
        self.top_shift = fraction("top_shift", top_shift)
        self.weight = not_negative("weight", weight)
        self.moved = fraction("moved", moved)
        self.epsilon = not_negative("epsilon", epsilon)
        self.fitting_images = at_least("fitting_images", fitting_images, 1)

    @property
    def perturbation_key(self) -> Hashable:
        """Both variants, and all percentiles, move an image to the same place."""
        return "adascale", self.moved, self.epsilon

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        """Minus the logit of the predicted class."""
        return {"logits": -outputs.logits.amax(dim=1)}

    def step(self, images: Tensor, gradient: Tensor, std: Tensor) -> Tensor:
        """The values with the smallest |gradient| move; those of which it is 0 stay.

        The published code works on normalized images, in gradient and step.
        """
        size = (gradient * std).abs().flatten(1)
        count = max(1, int(size.shape[1] * self.moved))
        limit = size.kthvalue(count, dim=1, keepdim=True).values
        direction = (gradient.sign().flatten(1) * (size <= limit)).view_as(images)
        return images - self.epsilon * std * direction

    def fit_validation(self, batches: Batches) -> None:
        """The distribution of Q'."""
        shifts = [self.shift(outputs) for outputs in batches]
        require_images(len(shifts), "validation")
        self.shifts = torch.cat(shifts).sort().values

    def shift(self, outputs: Outputs) -> Tensor:
        """Q', shape [B]. Features that are tied at the threshold share the places that are left."""
        assert outputs.perturbed is not None
        z, moved = outputs.features.double(), outputs.perturbed.features.double()
        large, largest = (_top(z, share) for share in (self.top, self.top_shift))
        corrected = (large * moved.relu()).sum(dim=1)
        return corrected + self.weight * (largest * (z - moved).abs()).sum(dim=1)

    def ratio(self, outputs: Outputs) -> Tensor:
        """r, shape [B]; 1 for an image without a positive feature."""
        z = outputs.features.double().relu()
        below = torch.searchsorted(self.shifts, self.shift(outputs), right=True)
        lower, upper = self.percentiles
        percentile = lower + (1 - below / len(self.shifts)) * (upper - lower)
        count = (z.shape[1] - (z.shape[1] * percentile).round()).clamp_min(1).long()
        sums = z.sort(dim=1, descending=True).values.cumsum(dim=1)
        above = sums.gather(1, count[:, None] - 1).squeeze(1)
        return torch.where(above > 0, sums[:, -1] / above.where(above > 0, 1.0), 1.0)


def _top(z: Tensor, share: float) -> Tensor:
    """1 for the largest features of an image, at least one, 0 for the others, shape [B, D]."""
    count = max(1, int(z.shape[1] * share))
    return kept(z, z.topk(count, dim=1, sorted=False).values)
