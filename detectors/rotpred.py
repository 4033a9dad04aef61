"""Rotation prediction (Hendrycks et al., NeurIPS 2019)."""

from __future__ import annotations

import math

from torch import Tensor

from oodbench import Detector, Outputs, register


@register(
    "rotpred",
    label="RotPred",
    title="Rotation prediction by a second head",
    paper="Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty",
    authors=("Dan Hendrycks", "Mantas Mazeika", "Saurav Kadavath", "Dawn Song"),
    venue="NeurIPS",
    year=2019,
    url="https://arxiv.org/abs/1906.12340",
    code="https://github.com/hendrycks/ss-ood",
    needs=("rotations",),
)
class RotPred(Detector):
    """KL(u, p) - 1/4 sum_r KL(1_r, q_r), in bits.

    p are the class probabilities, u the uniform distribution, and q_r the probabilities that the
    second head gives to the four rotations of the image rotated by r; KL(1_r, q_r) = -log2 q_r(r).
    So the score is -log2 C - mean_c log2 p_c + mean_r log2 q_r(r).

    The paper describes the score in words: the divergence from the uniform distribution and the
    loss of the rotations. The formula is that of the authors' code and of OpenOOD v1.5, with the
    sign turned: there, the authors' larger values are out-of-distribution. For networks with head
    `rotpred`; each image takes four forward passes.
    """

    def score(self, outputs: Outputs) -> Tensor:
        """Divergence of the classes from uniform minus mean loss of the rotations, shape [B]."""
        classes = outputs.logits.log_softmax(dim=1)
        from_uniform = -math.log(classes.shape[1]) - classes.mean(dim=1)
        assert outputs.rotation_logits is not None
        right = outputs.rotation_logits.log_softmax(dim=2).diagonal(dim1=1, dim2=2)
        return (from_uniform + right.mean(dim=1)) / math.log(2)
