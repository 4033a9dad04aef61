"""Several networks as one classifier (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodbench.errors import UserError
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
