"""VOS (Du et al., ICLR 2022): virtual outliers from Gaussians of the features, no outlier data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.losses.cross_entropy import Loss, SoftMaxHead
from oodbench.number_checks import not_negative, whole

_RIDGE = 1e-4
"""Added to the diagonal of the covariance; the authors' value."""


class VOSHead(SoftMaxHead):
    """A linear layer that is trained with `VOSLoss`.

    In training mode, the output has the features as further columns.

    Shape:
        features [B, D] -> [B, C + D] in training mode, logits [B, C] in evaluation mode.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Logits, in training mode with the features after them."""
        logits = super().forward(features)
        return torch.cat([logits, features], dim=1) if self.training else logits


class VOSLoss(Loss):
    """Cross-entropy, and the logistic loss of energies of ID features against virtual outliers.

    L = mean -log p_y + weight * (cross-entropy of a logistic regression that tells ID features from
    virtual outliers by the energy -E = log sum_c max(w_c, 0) exp z_c); the weights w and the
    regression are learned (Du et al., ICLR 2022, arXiv 2202.01197, equations 4 to 7, and the
    authors' code). The latest features of each class are kept in a queue. Virtual outliers of a
    class are those of `samples` draws from the Gaussian of its queue that have the lowest density;
    the covariance is that of all queues around their means, plus 1e-4 on the diagonal. The loss is
    cross-entropy alone until all queues are full and the share `start` of the training is done.

    Queues always hold the newest features. (In the authors' code a full queue waits until all are
    full.) The detector of the paper is `energy`. In OpenOOD v1.5, weights w are drawn anew at each
    step and energies carry no gradient, so that its second term does not change the network.

    Args:
        head: the `VOSHead` that is trained.
        weight: of the second term.
        start: share of the training before it begins; the paper's is 40 of 100 epochs.
        queue: features that are kept of each class.
        samples: draws from each class's Gaussian.
        select: how many of them are virtual outliers.

    Attributes:
        queues: the features, [C, queue, D], a buffer.
        seen: number of features of each class that were put into its queue, [C], a buffer.

    Shape:
        outputs [B, C + D] of the head in training mode, or logits [B, C]; targets [B] (int64) ->
        mean loss in nats, a scalar.

    Raises:
        ValueError: if an option is not as it must be.
    """

    queues: Tensor
    seen: Tensor

    def __init__(
        self,
        head: VOSHead,
        weight: float = 0.1,
        start: float = 0.4,
        queue: float = 1000,
        samples: float = 10_000,
        select: float = 1,
    ) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ValueError(f"start must be at least 0 and below 1, not {start}")
        self.weight, self.start = not_negative("weight", weight), start
        self.queue, self.samples = whole("queue", queue), whole("samples", samples)
        self.select = whole("select", select)
        if self.select > self.samples:
            raise ValueError(f"select must be at most samples, {samples}, not {select}")
        self._head = (head,)  # in a tuple: its weights are the network's, not the loss's
        classes, dimension = head.out_features, head.in_features
        try:
            queues = torch.zeros(classes, self.queue, dimension)
        except RuntimeError as error:
            count = f"{classes:,} x {self.queue:,} x {dimension:,} numbers"
            raise ValueError(f"queue is too large: memory has no place for {count}") from error
        self.register_buffer("queues", queues)
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))
        self.class_weights = nn.Parameter(torch.rand(classes))
        self.regression = nn.Linear(1, 2)
        self._begun = True
        self._generator = torch.Generator().manual_seed(0)

    @property
    def divisible(self) -> bool:
        """No: queues see whole batches."""
        return False

    def obstacle(self, images: Sequence[int], epochs: int) -> str:
        """That queues are never full."""
        fewest = min(range(len(images)), key=images.__getitem__)
        if images[fewest] * epochs >= self.queue:
            return ""
        return (
            f"VOS draws no virtual outliers, which leaves cross-entropy: queues hold {self.queue} "
            f"features of each class, and training shows {images[fewest] * epochs} images of class "
            f"{fewest}. Lower loss_options.queue, or train for more epochs."
        )

    def begin_epoch(self, done: float, generator: torch.Generator) -> None:
        """Take the generator; begin with virtual outliers if it is time."""
        self._begun, self._generator = done >= self.start, generator

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, and the logistic loss once the queues are full."""
        classes = len(self.seen)
        logits, features = outputs[:, :classes], outputs[:, classes:]
        loss = F.cross_entropy(logits, targets)
        if features.shape[1] == 0:
            return loss
        self.enqueue(features.detach(), targets)
        if not self._begun or int(self.seen.min()) < self.queue:
            return loss
        (head,) = self._head
        outliers = self.virtual_outliers().to(head.weight.dtype)
        virtual = F.linear(outliers, head.weight, head.bias)
        return loss + self.weight * self.logistic_loss(logits, virtual.to(logits.dtype))

    def logistic_loss(self, logits: Tensor, virtual: Tensor) -> Tensor:
        """Cross-entropy of the regression on energies: ID images against virtual outliers.

        Args:
            logits: of ID images, shape [B, C].
            virtual: of virtual outliers, shape [V, C].
        """
        energies = self.weighted_energies(torch.cat([logits, virtual]))
        is_id = (torch.arange(len(energies), device=logits.device) < len(logits)).long()
        regression = self.regression
        scores = F.linear(
            energies[:, None],
            regression.weight.to(energies.dtype),
            regression.bias.to(energies.dtype),
        )
        return F.cross_entropy(scores, is_id)

    def weighted_energies(self, logits: Tensor) -> Tensor:
        """Energies -E = log sum_c max(w_c, 0) exp z_c, shape [B], of logits [B, C]."""
        weights = self.class_weights.to(logits.dtype)
        positive = weights > 0
        logs = torch.where(positive, weights, 1.0).log()
        return torch.where(positive, logits + logs, -torch.inf).logsumexp(dim=1)

    @torch.no_grad()
    def enqueue(self, features: Tensor, labels: Tensor) -> None:
        """Put features into the queues of their classes, in place of the oldest.

        Args:
            features: shape [B, D].
            labels: shape [B], int64.
        """
        same = labels[:, None] == labels
        earlier, later = same.tril(-1).sum(dim=1), same.triu(1).sum(dim=1)
        newest = later < self.queue  # a batch may have more images of a class than a queue holds
        places = (self.seen[labels] + earlier) % self.queue
        self.queues[labels[newest], places[newest]] = features[newest].to(self.queues.dtype)
        self.seen += F.one_hot(labels, len(self.seen)).sum(dim=0)

    @torch.no_grad()
    def virtual_outliers(self) -> Tensor:
        """Features of low density under the Gaussians of full queues, [C * select, D], float64."""
        queues = self.queues.double()
        means = queues.mean(dim=1, keepdim=True)
        centered = (queues - means).flatten(0, 1)
        covariance = centered.T @ centered / len(centered)
        covariance.diagonal().add_(_RIDGE)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        factor = torch.where(failed == 0, factor, torch.nan)  # a training that diverges: loss NaN
        shape = len(queues), self.select, queues.shape[2]
        noise = longest_normals(*shape, of=self.samples, generator=self._generator)
        outliers: Tensor = means + noise.to(queues.device) @ factor.T
        return outliers.flatten(0, 1)

    def extra_repr(self) -> str:
        """Options, as torch prints them."""
        return (
            f"weight={self.weight}, start={self.start}, queue={self.queue}, "
            f"samples={self.samples}, select={self.select}"
        )


def longest_normals(
    groups: int, count: int, dimension: int, *, of: int, generator: torch.Generator
) -> Tensor:
    """The longest of many standard normal vectors: those of lowest density.

    Length and direction of such a vector are independent. So only the squared lengths are drawn, as
    the largest of `of` draws from the chi-squared distribution, and a direction for each. This has
    the same distribution as `of` whole vectors, with a ten-thousandth of the random numbers.

    Args:
        groups: G.
        count: K, how many of the longest.
        dimension: D.
        of: number of vectors that they are chosen from.
        generator: on the CPU.

    Returns:
        Shape [G, K, D], float64, the longest first.
    """
    from scipy.special import chdtri

    # The largest of n uniform numbers is U^(1/n), the next one that times U^(1/(n - 1)), ...
    uniform = torch.rand(groups, count, generator=generator, dtype=torch.float64)
    logs = (uniform.clamp(min=1e-300).log() / torch.arange(of, of - count, -1)).cumsum(dim=1)
    upper = -torch.expm1(logs)  # the probability of a larger number
    squares = torch.from_numpy(np.asarray(chdtri(dimension, upper.numpy())))
    vectors = torch.randn(groups, count, dimension, generator=generator, dtype=torch.float64)
    return F.normalize(vectors, dim=2) * squares.sqrt()[:, :, None]
