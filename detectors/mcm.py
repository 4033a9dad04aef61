"""Maximum concept matching (Ming et al., NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.number_checks import positive


@register(
    "mcm",
    label="MCM",
    title="Maximum concept matching",
    paper="Delving into Out-of-Distribution Detection with Vision-Language Representations",
    authors=("Yifei Ming", "Ziyang Cai", "Jiuxiang Gu", "Yiyou Sun", "Wei Li", "Yixuan Li"),
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2211.13445",
    code="https://github.com/deeplearning-wisc/MCM",
    needs=("features", "language"),
)
class MaximumConceptMatching(Detector):
    """max_c softmax_c(s / T), with s_c the cosine of the image features and the text features of c.

    The authors take T = 1 on the cosines themselves (equation 2), not on logits with the scale that
    the model was trained with, which would be T = .01 for OpenAI's CLIP. They have no grid.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def score(self, outputs: Outputs) -> Tensor:
        """Largest probability, shape [B]."""
        assert outputs.language is not None
        cosines = outputs.language.cosines(outputs.features)
        return (cosines / self.temperature).softmax(dim=1).amax(dim=1)
