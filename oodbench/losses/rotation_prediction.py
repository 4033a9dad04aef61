"""RotPred (Hendrycks et al., NeurIPS 2019): a second head tells by how much an image is rotated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.losses.cross_entropy import Loss, SoftMaxHead
from oodbench.losses.rotations import ROTATIONS, rotated
from oodbench.number_checks import not_negative

_ROTATED = -1
"""Class in the place of the label of a rotated image."""


class RotPredHead(SoftMaxHead):
    """A linear layer for the classes, and a second one for the rotation of an image.

    In training mode the output has four more columns than classes: the logits of the rotations.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.

    Attributes:
        rotations: the second layer, [B, D] -> [B, 4].

    Shape:
        features [B, D] -> [B, C + 4] in training mode, logits [B, C] in evaluation mode.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.rotations = SoftMaxHead(in_features, ROTATIONS)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, in training mode with those of the rotations after them."""
        logits = super().forward(features)
        return torch.cat([logits, self.rotations(features)], dim=1) if self.training else logits


class RotPredLoss(Loss):
    """Cross-entropy of the classes, and of the rotations of all images in four orientations.

    L = mean_B -log p_y(x) + weight mean_{B, r} -log q_r(x rotated by r) (Hendrycks et al., NeurIPS
    2019, arXiv 1906.12340). The classes are learned from unrotated images alone, and a batch of B
    images is one pass of 4 B, as in the authors' code and in OpenOOD v1.5.

    Args:
        head: the `RotPredHead` that is trained.
        weight: of the rotations; 1 in OpenOOD v1.5, whose numbers are known. (The authors' code for
            classifiers also predicts translations, and divides the sum of these terms by 3.)

    Shape:
        outputs [4 B, C + 4] and targets [4 B, 2] as `mix` returns them, or logits [B, C] and
        targets [B] in evaluation mode -> mean loss in nats, a scalar.

    Raises:
        ValueError: if the weight is negative.
    """

    def __init__(self, head: RotPredHead, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.classes = head.out_features

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        auxiliary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The batch in four orientations.

        Returns:
            Images as of `rotated`; targets [4 B, 2]: class, or -1 if rotated, and number of
            quarter turns.

        Raises:
            UserError: if the images are not square.
        """
        hidden = labels.new_full(((ROTATIONS - 1) * len(labels),), _ROTATED)
        turns = torch.arange(ROTATIONS, device=labels.device).repeat_interleave(len(labels))
        return rotated(images), torch.stack([torch.cat([labels, hidden]), turns], dim=1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the two cross-entropies; without rotations that of the classes alone."""
        if outputs.shape[1] == self.classes:
            return F.cross_entropy(outputs, targets)
        if targets.ndim == 1:
            raise ValueError("targets have no rotations: train on what RotPredLoss.mix returns")
        logits, rotations = outputs[:, : self.classes], outputs[:, self.classes :]
        certain = F.cross_entropy(logits, targets[:, 0], ignore_index=_ROTATED)
        return certain + self.weight * F.cross_entropy(rotations, targets[:, 1])

    def extra_repr(self) -> str:
        """The weight, as torch prints it."""
        return f"weight={self.weight}"
