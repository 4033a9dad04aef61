"""Cross-entropy of normalized logits (LogitNorm) or of directions of features (T2FNorm)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.losses.cross_entropy import Loss, SoftMaxHead
from oodbench.losses.directions import directions
from oodbench.number_checks import positive


class LogitNormHead(SoftMaxHead):
    """A linear layer that is trained with `LogitNormLoss`; its logits are not normalized."""


class LogitNormLoss(Loss):
    """Cross-entropy of softmax(z / (tau (||z|| + 1e-7))) (LogitNorm, Wei et al., ICML 2022).

    The length of the logits z does not change the loss, so training does not increase it. Scores
    are computed from z itself. The 1e-7 is that of the authors' code. Logits of 16 bits are
    normalized in float32.

    Args:
        tau: the temperature; OpenOOD v1.5 trains with 0.04.

    Shape:
        logits [B, C], targets [B] (int64) -> mean loss in nats, a scalar.

    Raises:
        ValueError: if tau is not positive.
    """

    def __init__(self, tau: float = 0.04) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax(z / (tau (||z|| + 1e-7)))_target."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        norms = torch.linalg.vector_norm(logits, dim=1, keepdim=True) + 1e-7
        return F.cross_entropy(logits / (self.tau * norms), targets)

    def extra_repr(self) -> str:
        """Tau, as torch prints it."""
        return f"tau={self.tau}"


class T2FNormHead(SoftMaxHead):
    """A linear layer on directions in training (T2FNorm, Regmi et al., CVPR Workshops 2024).

    Logits of the features f are W f / (tau ||f||) + b in training mode, and W f / tau + b in
    evaluation mode: OOD images have shorter features, and so smaller logits. The loss is
    `SoftMaxLoss`.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.
        tau: the temperature; OpenOOD v1.5 trains with 0.1. It is a buffer, stored with the weights.

    Raises:
        ValueError: if tau is not positive.
    """

    tau: Tensor

    def __init__(self, in_features: int, out_features: int, tau: float = 0.1) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("tau", torch.tensor(positive("tau", tau)))

    @property
    def evaluation_weight(self) -> Tensor:
        """W / tau, shape [C, D], detached: the weights of the linear map in evaluation mode."""
        return self.weight.detach() / self.tau

    def forward(self, features: Tensor) -> Tensor:
        """Logits, shape [B, C], of features [B, D]."""
        return super().forward((directions(features) if self.training else features) / self.tau)

    def extra_repr(self) -> str:
        """Sizes and tau, as torch prints them."""
        return f"{super().extra_repr()}, tau={self.tau.item():.6g}"
