"""Several networks as one classifier (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UnsuitableError, UserError
from oodbench.models.classifier import Classifier
from oodbench.numerics.functional import log_mean_probabilities


class Ensemble(nn.Module):
    """A deep ensemble: networks that were trained alike, from other seeds.

    Its logits are log p + e, with p the mean of the members' probabilities and e the mean of their
    log sum exp z. So their softmax is p, and their log-sum-exp the mean of the members'.

    Args:
        networks: at least two, each maps images to logits [B, C].

    Raises:
        UserError: if there are fewer than two, or one is no module.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        for number, network in enumerate(networks):
            if not isinstance(network, nn.Module):
                raise UserError(
                    f"Ensemble: member {number} is a {type(network).__name__}, not a torch module.",
                    "Give networks that map images to logits.",
                )
        if len(networks) < 2:
            raise UserError(
                f"Ensemble: {len(networks)} networks are no ensemble.", "Give at least two."
            )
        self.members = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Logits whose softmax is the mean of the members' probabilities, shape [B, C]."""
        each = [member(images) for member in self.members]
        logits = torch.stack(each, dim=1)
        level = logits.double().logsumexp(dim=2).mean(dim=1, keepdim=True)
        return (log_mean_probabilities(logits.double()) + level).to(logits.dtype)


@dataclass(eq=False)
class MemberLogits:
    """Keeps what the members of an ensemble give.

    Attributes:
        members: the networks.
    """

    members: tuple[nn.Module, ...]
    _images: Tensor | None = None
    _logits: dict[nn.Module, Tensor] = field(default_factory=dict)

    @contextmanager
    def kept_from(self, classifier: nn.Module) -> Iterator[None]:
        """Keep the logits of the last images, while the context is open.

        Args:
            classifier: the ensemble with its normalization.
        """

        def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._images, self._logits = inputs[0], {}

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._logits[module] = output.detach()

        with ExitStack() as stack:
            stack.callback(classifier.register_forward_pre_hook(start).remove)
            for member in self.members:
                stack.callback(member.register_forward_hook(keep).remove)
            try:
                yield
            finally:
                self._images, self._logits = None, {}

    def logits(
        self,
        images: Tensor,
        classifier: Classifier,
        during: Callable[[Callable[[], Tensor]], Tensor],
    ) -> Tensor:
        """Logits of every member, shape [B, M, C], float64; no graph.

        Args:
            images: shape [B, ...]; another forward pass is made if they are not those of the last.
            classifier: the ensemble with its normalization.
            during: carries out a forward pass; may repeat it.
        """
        if self._images is not images:
            with torch.no_grad():
                during(lambda: classifier(images))
        return torch.stack([self._logits[member] for member in self.members], dim=1).double()


def find_members(classifier: Classifier) -> MemberLogits:
    """The members of the ensemble that a classifier is.

    Raises:
        UnsuitableError: if it is a single network.
    """
    for module in classifier.network.modules():
        if isinstance(module, Ensemble):
            return MemberLogits(tuple(module.members))
    raise UnsuitableError("needs an oodbench.models.Ensemble; the model is a single network")
