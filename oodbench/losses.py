"""Heads and their losses: drop-in pairs for any training loop.

    model.fc, criterion = oodbench.losses.DisMaxHead(512, 10), oodbench.losses.DisMaxLoss()

is all it takes to train a network with the DisMax loss instead of SoftMax.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DisMaxHead(nn.Module):
    """Distances to learned prototypes instead of a linear layer (DisMax paper, equation 6).

    Logits are -||f - p_j||, the *non-squared* Euclidean distance, without a bias. Prototypes start
    at zero. The first step therefore moves the prototypes alone: all distances are equal, and the
    gradient with respect to the features is exactly zero.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.

    Shape:
        features [B, D] -> logits [B, C], at least float32 also under autocast: the difference of
        distances is where the information is.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.prototypes = nn.Parameter(torch.zeros(out_features, in_features))

    def forward(self, features: Tensor) -> Tensor:
        """Minus the distances to the prototypes, shape [B, C]."""
        with torch.autocast(features.device.type, enabled=False):
            if features.dtype in (torch.float16, torch.bfloat16):
                features = features.float()
            # The matrix-product form cancels for features near a prototype. This form also gives
            # the zero subgradient at distance zero, where the square root would give NaN.
            return -torch.cdist(
                features,
                self.prototypes.to(features.dtype),
                compute_mode="donot_use_mm_for_euclid_dist",
            )

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class DisMaxLoss(nn.Module):
    """Cross-entropy of softmax(alpha z), z the logits of a `DisMaxHead` (paper, equation 7).

    Alpha acts in training only: at inference probabilities are softmax(z). Computed from
    log-softmax, which stays finite where the logarithm of a softmax would overflow.

    Args:
        alpha: the paper's global constant, 10.

    Shape:
        logits [B, C], targets [B] (int64) -> mean loss in nats, a scalar.
    """

    def __init__(self, alpha: float = 10.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, not {alpha}")
        self.alpha = alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax(alpha z)_target."""
        return F.cross_entropy(self.alpha * logits, targets)

    def extra_repr(self) -> str:
        """Alpha, as torch prints it."""
        return f"alpha={self.alpha}"


class SoftMaxHead(nn.Linear):
    """The usual linear layer, weights from U(-1/sqrt(D), 1/sqrt(D)), bias zero."""

    def reset_parameters(self) -> None:
        """Initialise as the DisMax author's code does for the SoftMax it compares with."""
        bound = self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)


class SoftMaxLoss(nn.CrossEntropyLoss):
    """Cross-entropy of softmax(z) (paper, equation 2)."""
