"""Maximum logit (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register


@register(
    "max_logit",
    label="MaxLogit",
    title="Largest logit",
    aliases=("mls",),
    paper="Scaling Out-of-Distribution Detection for Real-World Settings",
    authors=(
        "Dan Hendrycks",
        "Steven Basart",
        "Mantas Mazeika",
        "Andy Zou",
        "Joe Kwon",
        "Mohammadreza Mostajabi",
        "Jacob Steinhardt",
        "Dawn Song",
    ),
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/1911.11132",
    code="https://github.com/hendrycks/anomaly-seg",
)
class MaxLogit(Detector):
    """max_i z_i: unlike a probability, it depends on the level of the logits."""

    def score(self, outputs: Outputs) -> Tensor:
        """The largest logit, shape [B]."""
        return outputs.logits.amax(dim=1)
