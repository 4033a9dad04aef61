"""The logits of each member of an ensemble, from the forward pass that all detectors share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UnsuitableError
from oodbench.models.classifier import Classifier
from oodbench.models.ensemble import Ensemble


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
