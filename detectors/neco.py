"""NECO: neural collapse (Ben Ammar et al., ICLR 2024)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.input_checks import at_least, require_positive_logits
from oodbench.numerics.subspace import FeatureMoments, check_share

SMALLEST = 1e-300
"""Smaller lengths count as this one: the score of an image at the mean is finite."""


@register(
    "neco",
    label="NECO",
    title="NECO: share of the features in their principal space, times the largest logit",
    paper="NECO: NEural Collapse Based Out-of-distribution detection",
    authors=(
        "Mouïn Ben Ammar",
        "Nacim Belkhir",
        "Sebastian Popescu",
        "Antoine Manzanera",
        "Gianni Franchi",
    ),
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2310.06823",
    code="https://gitlab.com/drti/neco",
    needs=("features", "head", "fit"),
    search_space={"variance": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)},
)
class NECO(Detector):
    """|| P s || / || s || times the largest logit, with s the standardized features.

    s = (f - mu) / sigma, with the mean and the standard deviation of each feature over the training
    images; a feature that does not vary is divided by 1, as in scikit-learn's `StandardScaler`. P
    projects s on its first d principal axes. For an image at the mean feature the ratio is 0.

    The largest logits must be positive. Those of a DisMax head never are: a linear head is needed.

    The authors choose d for each network. Here it is the smallest number of axes with a share of
    the variance, or given. They leave out the largest logit for some networks: `max_logit` does so.

    Args:
        variance: share of the variance in the principal space, a fraction in (0, 1).
        dim: dimension of the principal space; None for the one that `variance` gives.
        max_logit: whether the ratio is multiplied by the largest logit.
    """

    def __init__(
        self, variance: float = 0.9, dim: int | None = None, max_logit: bool = True
    ) -> None:
        self.variance = check_share("variance", variance)
        self.dim = None if dim is None else at_least("dim", dim, 1)
        self.max_logit = max_logit

    def fit(self, batches: Batches) -> None:
        """Mean and standard deviation of each feature, and principal axes, in one pass.

        Raises:
            ValueError: if there are no images, their features do not vary, or the mean largest
                logit is not positive: a large ratio would then lower the score.
        """
        moments, largest_logits = batches.shared(FeatureMoments), 0.0
        for outputs in batches:
            batches.once(moments.update, outputs.features)
            largest_logits += float(outputs.logits.amax(dim=1).sum())
        self.mean, self.scale, self.axes = batches.once(moments.standardized_axes)
        if self.max_logit:
            require_positive_logits(largest_logits, moments.count, "NECO")

    def score(self, outputs: Outputs) -> Tensor:
        """Share of the length in the principal space, times the largest logit, shape [B].

        Raises:
            ValueError: if `dim` is above the number of features.
        """
        dim = self.axes.dimension(self.variance) if self.dim is None else self.dim
        standardized = (outputs.features.double() - self.mean) / self.scale
        lengths = standardized.norm(dim=1).clamp_min(SMALLEST)
        shares = self.axes.principal_norms(standardized, dim) / lengths
        score: Tensor = shares * outputs.logits.amax(dim=1) if self.max_logit else shares
        return score
