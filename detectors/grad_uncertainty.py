"""Gradients as a measure of uncertainty (Lee & AlRegib, ICIP 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register


@register(
    "grad_uncertainty",
    label="GradUncertainty",
    title="Squared norm of the last layer's gradient for a label of all classes",
    paper="Gradients as a Measure of Uncertainty in Neural Networks",
    authors=("Jinsol Lee", "Ghassan AlRegib"),
    venue="ICIP",
    year=2020,
    url="https://arxiv.org/abs/2008.08030",
    needs=("features", "head"),
    family="gradients",
)
class GradUncertainty(Detector):
    """||dL/dW||^2 + ||dL/db||^2 for L = -sum_c log p_c, p the softmax of z = W f + b.

    L is the binary cross-entropy of p with a label that names every class. dL/dz = C p - 1, so the
    sum is ||C p - 1||^2 (||f||^2 + 1): no backward pass is needed. Without a bias the 1 is left
    out. The gradient vanishes for uniform p, and is large where the network is sure.

    The paper takes the squared norm of each layer's gradient, and trains a small network on these
    numbers with ID and OOD images. This is the score that libraries have under the name: the plain
    sum, of the last layer (pytorch-ood: of all layers, unless they are filtered).
    """

    def score(self, outputs: Outputs) -> Tensor:
        """The gradient's squared norm, shape [B]."""
        p = F.softmax(outputs.logits, dim=1)
        from_uniform = (p.shape[1] * p - 1).square().sum(dim=1)
        features = outputs.features.double().square().sum(dim=1)
        return from_uniform * (features + (outputs.head.bias is not None))
