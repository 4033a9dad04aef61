"""Outlier Exposure (Hendrycks et al., ICLR 2019): auxiliary images should get uniform outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.losses.cross_entropy import Loss, SoftMaxHead
from oodbench.number_checks import not_negative

_AUXILIARY = -1
"""Label of an auxiliary image."""


class OEHead(SoftMaxHead):
    """A linear layer that is trained with `OELoss`."""


class OELoss(Loss):
    """Cross-entropy, and the cross-entropy between the uniform distribution and p on outliers.

    L = mean_ID -log p_y + weight mean_aux (logsumexp(z) - mean_c z_c), p = softmax(z) (Hendrycks et
    al., ICLR 2019, arXiv 1812.04606, section 4.3; weight 0.5). The auxiliary images must be
    different from the OOD images of every test. They pass the network together with the batch, as
    in the authors' code, two of them for each image there. (OpenOOD gives them a pass of their own,
    so that BatchNorm sees them apart.)

    Args:
        weight: of the second term; the paper's for images is 0.5.

    Shape:
        logits [N, C], targets [N] (int64), -1 for auxiliary images -> mean loss in nats, a scalar.

    Raises:
        ValueError: if the weight is negative.
    """

    auxiliary = True

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        auxiliary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The batch, then the auxiliary images with the label -1."""
        if auxiliary is None:
            return images, labels
        unknown = labels.new_full((len(auxiliary),), _AUXILIARY)
        return torch.cat([images, auxiliary]), torch.cat([labels, unknown])

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log p_target, plus the weighted mean of logsumexp(z) - mean z on outliers."""
        certain = F.cross_entropy(outputs, targets, ignore_index=_AUXILIARY)
        outliers = (targets == _AUXILIARY).to(outputs.dtype)
        from_uniform = outputs.logsumexp(dim=1) - outputs.mean(dim=1)
        return certain + self.weight * (outliers @ from_uniform) / outliers.sum().clamp(min=1)

    def extra_repr(self) -> str:
        """The weight, as torch prints it."""
        return f"weight={self.weight}"
