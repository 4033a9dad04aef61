"""Base of the losses; the linear head and the cross-entropy that others are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Loss(nn.Module):
    """Base of the losses: `criterion(outputs, targets)`, the mean over the batch in nats.

    For most losses, this is all that a training loop needs. A loop for every loss also trains the
    parameters of the loss and lets it prepare epochs and batches:

        optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
        for epoch in range(epochs):
            criterion.begin_epoch(epoch / epochs, generator)
            for images, labels in loader:
                images, targets = criterion.mix(images, labels, generator)
                loss = criterion(model(images), targets)

    In training mode, some heads give more columns than the C logits; their loss reads them, and is
    made with the head. The state of a loss is in its `state_dict()`.

    Shape:
        outputs [B, C] or more columns, targets [B] (int64) or what `mix` returned -> a scalar.
    """

    auxiliary = False
    """Whether `mix` needs auxiliary images, which have no class."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats, a scalar."""
        raise NotImplementedError

    def begin_epoch(self, done: float, generator: torch.Generator) -> None:
        """Called before each epoch; here without effect.

        Args:
            done: share of the training that is done, at least 0 and less than 1.
            generator: of the random choices of the loss in this epoch, on the CPU.
        """

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        auxiliary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images and targets to train on; here the batch itself.

        Args:
            images: shape [B, channels, H, W], in random order.
            labels: shape [B], int64.
            generator: generator of random choices, on the CPU.
            auxiliary: shape [A, channels, H, W], for a loss that needs them.

        Returns:
            Images [N, channels, H, W] and targets [N, ...], N >= B. The first `labeled(B)` images
            are those of the batch, unchanged.
        """
        return images, labels

    def labeled(self, count: int) -> int:
        """How many of `count` images, the first ones, are unchanged after `mix`."""
        return count

    @property
    def divisible(self) -> bool:
        """Whether processes can share a batch: the loss is the mean of the losses of its parts."""
        return True

    def obstacle(self, images: Sequence[int], epochs: int) -> str:
        """Why the loss has no effect in a training, in words; "" if it has.

        Args:
            images: number of training images of each class.
            epochs: number of epochs.
        """
        return ""


class SoftMaxHead(nn.Linear):
    """The usual linear layer, weights from U(-1/sqrt(D), 1/sqrt(D)), bias zero."""

    def reset_parameters(self) -> None:
        """Initialize as the DisMax author's code does for the SoftMax it compares with."""
        bound = self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)


class SoftMaxLoss(Loss):
    """Cross-entropy of softmax(z) (DisMax paper, equation 2)."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log softmax(z)_target."""
        return F.cross_entropy(outputs, targets)
