"""DisMax and its successors: logits are minus distances to learned prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.losses.cross_entropy import Loss
from oodbench.losses.directions import directions
from oodbench.number_checks import not_negative, positive


class DistanceHead(nn.Module):
    """Base of the heads whose logits come from distances to learned prototypes.

    A subclass writes `logits_of`.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.

    Attributes:
        prototypes: shape [C, D], initially zero.

    Shape:
        features [B, D] -> logits [B, C], at least float32 also under autocast: the
        information is in small differences of distances.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.prototypes = nn.Parameter(torch.zeros(out_features, in_features))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        with torch.autocast(features.device.type, enabled=False):
            if features.dtype in (torch.float16, torch.bfloat16):
                features = features.float()
            return self.logits_of(features, self.prototypes.to(features.dtype))

    def logits_of(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D] and prototypes [C, D], both float32 or float64."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class DisMaxHead(DistanceHead):
    """Distances to learned prototypes instead of a linear layer (DisMax paper, equation 6).

    Logits are -||f - p_j||, the *non-squared* Euclidean distance, without a bias. Prototypes start
    at zero. The first step therefore moves the prototypes alone: all distances are equal, and the
    gradient with respect to the features is exactly zero.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.
    """

    def logits_of(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Minus the distances to the prototypes, shape [B, C]."""
        return -_distances(features, prototypes)


class IsoMaxPlusHead(DistanceHead):
    """Scaled distances between directions (IsoMax+, Macedo et al. 2021, arXiv 2105.14399).

    Logits are -|s| ||f/||f|| - p_j/||p_j|| ||, without a bias. The scale s is learned and starts at
    1, prototypes start from N(0, 1).

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        nn.init.normal_(self.prototypes)
        self.scale = nn.Parameter(torch.ones(()))

    def logits_of(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Minus the scaled distances of the directions, shape [B, C]."""
        distances = _distances(directions(features), directions(prototypes))
        return -self.scale.to(distances.dtype).abs() * distances


class DisMax2022Head(IsoMaxPlusHead):
    """The head of the later loss of the same name (Macedo et al. 2022, arXiv 2205.05874).

    With D_j = |s| ||f/||f|| - p_j/||p_j|| || / sqrt(2), logits are -(D_j + mean_i D_i). The mean
    shifts all logits of an image equally: it changes scores made from the logits, but not the
    probabilities.

    In evaluation mode logits are divided by `temperature`, a buffer that is stored with the
    weights. It is 1 until it is set from validation data
    (`oodbench.numerics.likelihood.temperature.calibrate`); the paper sets it on the test set.

    Args:
        in_features: D, the dimension of the penultimate features.
        out_features: C, the number of classes.
    """

    temperature: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("temperature", torch.ones(()))

    def logits_of(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Minus distance and mean distance, shape [B, C]; over T in evaluation mode."""
        isometric = super().logits_of(features, prototypes) / math.sqrt(2)
        logits = isometric + isometric.mean(dim=1, keepdim=True)
        return logits if self.training else logits / self.temperature.to(logits.dtype)


def _distances(points: Tensor, prototypes: Tensor) -> Tensor:
    # The matrix-product form cancels for features near a prototype. This form also gives
    # the zero subgradient at distance zero, where the square root would give NaN.
    return torch.cdist(points, prototypes, compute_mode="donot_use_mm_for_euclid_dist")


class DisMaxLoss(Loss):
    """Cross-entropy of softmax(alpha z), z the logits of a `DisMaxHead` (paper, equation 7).

    Alpha acts in training only: at inference probabilities are softmax(z). It is computed
    from log-softmax, which stays finite where the logarithm of a softmax would overflow.

    Args:
        alpha: the paper's global constant, 10.

    Shape:
        logits [B, C], targets [B] (int64) -> mean loss in nats, a scalar.

    Raises:
        ValueError: if alpha is not positive.
    """

    def __init__(self, alpha: float = 10.0) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax(alpha z)_target."""
        return F.cross_entropy(self.alpha * logits, targets)

    def extra_repr(self) -> str:
        """Alpha, as torch prints it."""
        return f"alpha={self.alpha}"


class IsoMaxPlusLoss(DisMaxLoss):
    """Cross-entropy of softmax(alpha z), z the logits of an `IsoMaxPlusHead` (arXiv 2105.14399).

    Args:
        alpha: the paper's entropic scale, 10.
    """


class DisMax2022Loss(DisMaxLoss):
    """Cross-entropy of softmax(alpha z), z the logits of a `DisMax2022Head` (arXiv 2205.05874).

    `mixed_quadrants` adds the paper's fractional probability regularization. Each image of the
    second half of the batch is composed of quadrants of four images of that half; its target gives
    each of their labels a probability of 1/4. The loss is then
    (CE of the first half + mixed_quadrants KL(target || p) of the second half) / 2.

    Args:
        alpha: the paper's entropic scale, 10.
        mixed_quadrants: weight of the second half's divergence; the paper's is 1. 0: nothing is
            mixed.

    Shape:
        logits [B, C], targets [B] (int64), or [B, 4] as `mix` returns them -> a scalar.

    Raises:
        ValueError: if alpha is not positive, or mixed_quadrants is negative.
    """

    def __init__(self, alpha: float = 10.0, mixed_quadrants: float = 0.0) -> None:
        super().__init__(alpha)
        self.mixed_quadrants = not_negative("mixed_quadrants", mixed_quadrants)

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        auxiliary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mix the images of the second half.

        Quadrant q of an image (upper left, upper right, lower left, lower right) is that of the
        image q places before it in the half, in a circle.

        Args:
            images: shape [B, channels, H, W], in random order.
            labels: shape [B], int64.
            generator: not used; the order of the batch is random enough.
            auxiliary: not used.

        Returns:
            Images, and targets of shape [B, 4]: the label of each quadrant, four times the same in
            the first half. Without mixing, the batch itself.
        """
        pure = self.labeled(len(images))
        if pure == len(images):
            return images, labels
        sources = [images[pure:].roll(places, dims=0) for places in range(4)]
        row, column = images.shape[2] // 2, images.shape[3] // 2
        upper = torch.cat([sources[0][:, :, :row, :column], sources[1][:, :, :row, column:]], dim=3)
        lower = torch.cat([sources[2][:, :, row:, :column], sources[3][:, :, row:, column:]], dim=3)
        mixed = torch.cat([upper, lower], dim=2)
        quarters = torch.stack([labels[pure:].roll(places) for places in range(4)], dim=1)
        targets = torch.cat([labels[:pure, None].expand(-1, 4), quarters])
        return torch.cat([images[:pure], mixed]), targets

    @property
    def divisible(self) -> bool:
        """Not where images of the whole batch are mixed."""
        return self.mixed_quadrants == 0

    def labeled(self, count: int) -> int:
        """The first half, the larger one, if the second is mixed."""
        return count - count // 2 if self.mixed_quadrants > 0 else count

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax(alpha z)_target, or with [B, 4] targets the sum of two halves."""
        if targets.ndim == 1:
            return super().forward(logits, targets)
        pure = self.labeled(len(logits))
        certain = super().forward(logits[:pure], targets[:pure, 0])
        log_probabilities = F.log_softmax(self.alpha * logits[pure:], dim=1)
        # Quadrants of one class add up. kl_div takes 0 log 0 as 0.
        mixed = F.one_hot(targets[pure:], logits.shape[1]).to(logits.dtype).mean(dim=1)
        divergence = F.kl_div(log_probabilities, mixed, reduction="batchmean")
        return (certain + self.mixed_quadrants * divergence) / 2

    def extra_repr(self) -> str:
        """Options, as torch prints them."""
        return f"{super().extra_repr()}, mixed_quadrants={self.mixed_quadrants}"
