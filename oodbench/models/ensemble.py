"""Several networks as one classifier (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UnsuitableError, UserError, kind_of
from oodbench.models.adapted_network import described
from oodbench.models.classifier import Classifier
from oodbench.models.structure.logits_entry import find_output, logits_in
from oodbench.numerics.functional import log_mean_probabilities


class Ensemble(nn.Module):
    """A deep ensemble: networks that were trained alike, from other seeds.

    Its logits are log p + e, with p the mean of the members' probabilities and e the mean of their
    log sum exp z. So their softmax is p, and their log-sum-exp the mean of the members'.

    Args:
        networks: at least two, each maps images to logits [B, C], or to something that has them as
            its entry "logits" or its first one. All have one type of numbers.

    Raises:
        UserError: if there are fewer than two, one is no module, or their types differ; in a
            forward pass, if one gives no logits or those of other classes.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        if isinstance(networks, nn.Sequential) or not isinstance(networks, Iterable):
            raise UserError(
                f"Ensemble: {kind_of(networks)} is no list of networks.",
                "Write Ensemble([network, network]).",
            )
        networks = list(networks)
        for number, network in enumerate(networks):
            if not isinstance(network, nn.Module):
                raise UserError(
                    f"Ensemble: member {number} is {kind_of(network)}, not a torch module.",
                    "Give networks that map images to logits.",
                )
        if len(networks) < 2:
            raise UserError(
                f"Ensemble: {len(networks)} networks are no ensemble.", "Give at least two."
            )
        types = [type_ for type_ in map(_number_type, networks) if type_ is not None]
        if len(set(types)) > 1:
            raise UserError(
                f"Ensemble: the members' weights have several types: "
                f"{', '.join(str(each).removeprefix('torch.') for each in types)}.",
                "Convert them to one, with network.float().",
            )
        self.members = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Logits whose softmax is the mean of the members' probabilities, shape [B, C]."""
        each = [member_logits(member(images), images) for member in self.members]
        if len({logits.shape[1] for logits in each}) > 1:
            raise UserError(
                "Ensemble: the members have different numbers of classes: "
                f"{', '.join(str(logits.shape[1]) for logits in each)}.",
                "Give networks that were trained on the same classes.",
            )
        logits = torch.stack(each, dim=1)
        level = logits.double().logsumexp(dim=2).mean(dim=1, keepdim=True)
        return (log_mean_probabilities(logits.double()) + level).to(logits.dtype)


def member_logits(returned: Any, images: Tensor) -> Tensor:
    """The logits [B, C] in what a member returned.

    Raises:
        UserError: if there are none.
    """
    try:
        output, _ = find_output(returned, images, "in the ensemble", None, lambda tensor: False)
    except UserError as error:
        hint = "Give networks that return logits, or their entry 'logits'."
        raise UserError(f"Ensemble: {error.message}", hint) from None
    logits = logits_in(returned, output, images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        shape = f" of shape {list(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise UserError(
            f"Ensemble: a member returned {described(returned)}{shape}, not logits [images, "
            "classes].",
            "Give networks that map images to logits.",
        )
    return logits


def _number_type(network: nn.Module) -> torch.dtype | None:
    types = (each.dtype for each in network.parameters() if each.is_floating_point())
    return next(types, None)


@dataclass(eq=False)
class MemberLogits:
    """Keeps what the members of an ensemble give.

    Attributes:
        members: the networks.
    """

    members: tuple[nn.Module, ...]
    _images: Tensor | None = None
    _logits: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def kept_from(self, classifier: nn.Module) -> Iterator[None]:
        """Keep the logits of the last images, while the context is open.

        Args:
            classifier: the ensemble with its normalization.
        """

        def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._images, self._logits = inputs[0], {}

        # By number: while a graph is traced, hooks get stand-ins of the modules.
        def keep(number: int, module: nn.Module, inputs: Any, output: Any) -> None:
            self._logits[number] = member_logits(output, inputs[0]).detach()

        with ExitStack() as stack:
            stack.callback(classifier.register_forward_pre_hook(start).remove)
            for number, member in enumerate(self.members):
                handle = member.register_forward_hook(functools.partial(keep, number))
                stack.callback(handle.remove)
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
        return torch.stack([self._logits[m] for m in range(len(self.members))], dim=1).double()


def find_members(classifier: Classifier) -> MemberLogits:
    """The members of the ensemble that a classifier is.

    Raises:
        UnsuitableError: if it is a single network.
    """
    for module in classifier.network.modules():
        if isinstance(module, Ensemble):
            return MemberLogits(tuple(module.members))
    raise UnsuitableError("needs an oodbench.models.Ensemble; the model is a single network")
