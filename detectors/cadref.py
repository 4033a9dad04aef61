"""CADRef: class-aware decoupled relative features (Ling et al., CVPR 2025)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import energy, log_generalized_entropy, max_probability
from oodbench.numerics.input_checks import one_of, require_positive_logits
from oodbench.numerics.statistics.moments import ClassMeans

SMALLEST_NORM = 1e-8
"""A feature with a smaller L1 norm counts as this long: every score is finite."""

SMALLEST_CONFIDENCE = 1e-6
"""A smaller logit score, as a fraction of its training mean, counts as this one."""

LogitScore = Literal["energy", "gen", "max_logit", "max_probability"]


@register(
    "cadref",
    label="CADRef",
    title="CADRef: CARef decoupled by the signs of the predicted class's weights",
    paper=(
        "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature "
        "Leveraging"
    ),
    authors=(
        "Zhiwei Ling",
        "Yachen Chang",
        "Hailiang Zhao",
        "Xinkui Zhao",
        "Kingsum Chow",
        "Shuiguang Deng",
    ),
    venue="CVPR",
    year=2025,
    url="https://arxiv.org/abs/2503.00325",
    code="https://github.com/LingAndZero/CADRef",
    needs=("features", "head", "fit"),
)
class CADRef(Detector):
    """-(||e+||_1 / S(x) + ||e-||_1 / S_mean) / ||z||_1, with e = z - M_c and c the predicted class.

    M_c is the mean feature of the training images that the network predicts as c. e+ = max(e sign
    w_c, 0) raises the logit of c, e- = max(-e sign w_c, 0) lowers it; a weight of zero counts in
    neither. S is a score of the logits, S_mean its mean over the training images.

    If no training image is predicted as a class, it has no mean, and the authors' code stops. Here
    its M_c is the mean feature of all training images. S must be positive, or the order is
    reversed. Here S(x) counts as 1e-6 S_mean if it is below that, and a network with a negative
    S_mean is refused.

    Args:
        logit_score: S: "energy", log sum exp of the logits; "gen", 1 / sum p^0.1 (1 - p)^0.1 over
            the max(10, C // 10) largest probabilities; "max_logit"; "max_probability". The authors
            report all four; their code has no default.
    """

    def __init__(self, logit_score: LogitScore = "energy") -> None:
        self.logit_score = one_of("logit_score", logit_score, LogitScore)

    def fit(self, batches: Batches) -> None:
        """Mean features by predicted class, shape [C, D], and S_mean, in one pass.

        Raises:
            ValueError: if there are no images, or S_mean is not positive.
        """
        means = batches.shared(ClassMeans, batches.num_classes, of="features by predicted class")
        total, count = 0.0, 0
        for outputs in batches:
            batches.once(means.add, outputs.features, outputs.logits.argmax(dim=1))
            total += float(self._confidences(outputs.logits).sum())
            count += len(outputs)
        self.means = batches.once(means.means_or_overall)
        self.mean_confidence = require_positive_logits(total, count, "CADRef")

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the decoupled relative distance, shape [B]."""
        features = outputs.features.double()
        predicted = outputs.logits.argmax(dim=1)
        signs = outputs.head.linear_weight[predicted].sign()
        signed = (features - self.means[predicted]) * signs
        raising = signed.clamp_min(0).sum(dim=1)
        lowering = raising - signed.sum(dim=1)
        least = SMALLEST_CONFIDENCE * self.mean_confidence
        confidences = self._confidences(outputs.logits).clamp_min(least)
        norms = features.abs().sum(dim=1).clamp_min(SMALLEST_NORM)
        return -(raising / confidences + lowering / self.mean_confidence) / norms

    def _confidences(self, logits: Tensor) -> Tensor:
        """S, shape [B]."""
        if self.logit_score == "energy":
            return energy(logits)
        if self.logit_score == "gen":
            top = max(10, logits.shape[1] // 10)
            return (-log_generalized_entropy(logits, gamma=0.1, top_m=top)).exp()
        if self.logit_score == "max_logit":
            return logits.amax(dim=1)
        return max_probability(logits)
