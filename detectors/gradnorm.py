"""GradNorm (Huang, Geng & Li, NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register
from oodbench.number_checks import positive


@register(
    "gradnorm",
    label="GradNorm",
    title="Norm of the last layer's gradient",
    paper="On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
    authors=("Rui Huang", "Andrew Geng", "Yixuan Li"),
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2110.00218",
    code="https://github.com/deeplearning-wisc/gradnorm_ood",
    needs=("features", "head"),
    family="gradients",
)
class GradNorm(Detector):
    """||dL/dW||_1 for L = KL(u || softmax(z / T)), u uniform, W the weights of the last layer.

    With z = W h + b the gradient is (p - u) h^T / T. The norm of this outer product is
    ||h||_1 ||p - u||_1 / T: no backward pass is needed. The published code sums the cross-entropy
    over the classes instead of averaging it, which multiplies every score by C.

    Args:
        temperature: T; 1 in the paper.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def score(self, outputs: Outputs) -> Tensor:
        """The gradient's L1 norm, shape [B]."""
        p = F.softmax(outputs.logits.double() / self.temperature, dim=1)
        from_uniform = (p - 1 / p.shape[1]).abs().sum(dim=1)
        return outputs.features.double().abs().sum(dim=1) * from_uniform / self.temperature
