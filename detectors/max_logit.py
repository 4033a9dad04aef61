"""Maximum logit (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register


@register(
    "max_logit",
    label="MaxLogit",
    title="Largest logit",
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/1911.11132",
)
class MaxLogit(Detector):
    """max_i z_i: unlike a probability, it sees what the logits have in common."""

    def score(self, outputs: Outputs) -> Tensor:
        """The largest logit, shape [B]."""
        return outputs.logits.amax(dim=1)
