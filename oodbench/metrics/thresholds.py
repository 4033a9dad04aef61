"""A threshold set on validation scores, and the share of images that a threshold accepts.

An image is accepted as in-distribution if its score is at or above the threshold, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from oodbench.metrics.sorted_scores import Array, checked_scores

Interval = Literal["clopper-pearson", "wilson"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold set on ID validation images.

    Attributes:
        value: images with a score at or above it are accepted; -infinity accepts every image.
        accept: share of ID images to accept, above 0 and below 1.
        images: number n of validation images.
        guaranteed: the mean acceptance rate that is guaranteed, 1 - k / (n + 1), at least `accept`:
            the mean is over validation images and one more image that is exchangeable with them.
    """

    value: float
    accept: float
    images: int
    guaranteed: float

    @property
    def warning(self) -> str | None:
        """What is wrong with the threshold, and what to do; None if nothing is."""
        if self.value > -np.inf:
            return None
        return (
            f"{self.images:,} validation images are too few to set a threshold that accepts "
            f"{percentage(self.accept)} of the ID images, so it accepts every image. "
            f"At least {images_needed(self.accept):,} are needed."
        )


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How many images a threshold accepts.

    Attributes:
        accepted: number of images at or above the threshold.
        images: number of images.
        rate: their quotient.
        low: lower end of the interval for the acceptance rate of such images.
        high: upper end.
    """

    accepted: int
    images: int
    rate: float
    low: float
    high: float


def conformal_threshold(scores: npt.ArrayLike, accept: float = 0.95) -> Threshold:
    """The largest validation score that accepts a wanted share of ID images, with a guarantee.

    The threshold is the k-th smallest of n validation scores, with k = floor((n + 1)(1 - accept)),
    in exact decimal arithmetic: the split conformal quantile (Papadopoulos et al., ECML 2002; Vovk,
    Gammerman & Shafer, 2005; Angelopoulos & Bates, 2021, section 1). If a further image is
    exchangeable with the validation images, it is accepted with a probability of at least
    1 - k / (n + 1) >= accept, and less than accept + 1 / (n + 1) if no scores are equal. This is a
    mean over the draws of validation images; for given ones, the acceptance rate of continuous
    scores is distributed as Beta(n + 1 - k, k). With k = 0, no validation score is low enough: the
    threshold is -infinity and `Threshold.warning` says how many images are needed.

    Ties: images with the score of the threshold are accepted, so that ties raise the rate.

    Args:
        scores: one score per ID validation image, shape [n]; higher is more in-distribution. The
            detector must not be fitted, calibrated or tuned on these images.
        accept: share of ID images to accept, above 0 and below 1.

    Raises:
        ValueError: `scores` is empty, is not one-dimensional, or holds NaN or infinity; or `accept`
            is not above 0 and below 1.
    """
    values = checked_scores("scores", scores)
    k = threshold_rank(values.size, accept)
    value = float(np.partition(values, k - 1)[k - 1]) if k else -np.inf
    return Threshold(value, float(accept), values.size, float(1 - Fraction(k, values.size + 1)))


def acceptance(
    scores: npt.ArrayLike,
    value: float,
    *,
    confidence: float = 0.95,
    interval: Interval = "clopper-pearson",
) -> Acceptance:
    """Share of images that a threshold accepts, with an interval for images of the same kind.

    The interval is of the binomial proportion for a given threshold: it says nothing of other draws
    of the validation images.

    Args:
        scores: one score per image, shape [n]; higher is more in-distribution.
        value: the threshold; images with a score at or above it are accepted.
        confidence: of the interval, above 0 and below 1.
        interval: "clopper-pearson" covers at least at this confidence (Clopper & Pearson,
            Biometrika 1934); "wilson" covers at it in the mean, and is shorter (Wilson, JASA 1927).

    Raises:
        ValueError: `scores` is empty, is not one-dimensional, or holds NaN or infinity; `value` is
            NaN; or `confidence` or `interval` is not one of the above.
    """
    values = checked_scores("scores", scores)
    if np.isnan(value):
        raise ValueError("value is nan; expected a threshold")
    accepted = int(np.count_nonzero(values >= value))
    return counted_acceptance(accepted, values.size, confidence=confidence, interval=interval)


def counted_acceptance(
    accepted: int, images: int, *, confidence: float = 0.95, interval: Interval = "clopper-pearson"
) -> Acceptance:
    """`acceptance` of counted images.

    Args:
        accepted: number of accepted images, from 0 to `images`.
        images: number of images, at least 1.
        confidence: as of `acceptance`.
        interval: as of `acceptance`.

    Raises:
        ValueError: an argument is not one of the above.
    """
    if not 0 <= accepted <= images or images < 1:
        raise ValueError(f"accepted is {accepted} of {images} images; expected 0 to images")
    _check_share("confidence", confidence)
    if interval not in _INTERVALS:
        raise ValueError(f"unknown interval {interval!r}; known: {', '.join(_INTERVALS)}")
    low, high = _INTERVALS[interval](accepted, images, confidence)
    return Acceptance(accepted, images, accepted / images, low, high)


def transfer_curve(
    validation: npt.ArrayLike, tested: npt.ArrayLike, accept: npt.ArrayLike
) -> tuple[Array, Array]:
    """Thresholds for several wanted rates, and the share of test images that each accepts.

    Args:
        validation: one score per ID validation image, shape [n].
        tested: one score per test image, shape [m].
        accept: wanted rates, each above 0 and below 1, shape [R].

    Returns:
        The thresholds of `conformal_threshold`, and the rates of `acceptance`, each of shape [R].

    Raises:
        ValueError: as those functions do.
    """
    ordered = np.sort(checked_scores("validation", validation))
    test = np.sort(checked_scores("tested", tested))
    ranks = [threshold_rank(ordered.size, float(rate)) for rate in np.asarray(accept)]
    thresholds = np.concatenate([[-np.inf], ordered])[ranks]
    return thresholds, 1 - np.searchsorted(test, thresholds, side="left") / test.size


def threshold_rank(images: int, accept: float) -> int:
    """The rank k = floor((images + 1)(1 - accept)), exact for decimal fractions; 0 if too few.

    Raises:
        ValueError: `accept` is not above 0 and below 1.
    """
    return floor((images + 1) * _rejected(accept))


def rate_range(images: int, accept: float, level: float = 0.95) -> tuple[float, float]:
    """Where the acceptance rate lies over draws of the validation images, for continuous scores.

    The central quantiles of Beta(images + 1 - k, k), k of `threshold_rank` (Vovk, ACML 2012).

    Args:
        images: number of validation images.
        accept: share of ID images to accept.
        level: probability of the range.

    Raises:
        ValueError: a share is not above 0 and below 1.
    """
    from scipy.special import betaincinv  # slow to import

    k = threshold_rank(images, accept)
    _check_share("level", level)
    if k == 0:
        return 1.0, 1.0
    low, high = (float(betaincinv(images + 1 - k, k, (1 + s * level) / 2)) for s in (-1, 1))
    return low, high


def images_needed(accept: float) -> int:
    """Fewest validation images with which a threshold can reject any: ceil(1 / (1 - accept)) - 1.

    Raises:
        ValueError: `accept` is not above 0 and below 1.
    """
    return ceil(1 / _rejected(accept)) - 1


def percentage(rate: float) -> str:
    """A wanted rate as a percentage, with as many decimals as it has: 0.95 is 95 %."""
    return f"{float(100 * Fraction(str(rate))):.10g} %"


def _rejected(accept: float) -> Fraction:
    # 1 - 0.9 is below 0.1 in binary: with 9 images, it would give k = 0 instead of 1.
    _check_share("accept", accept)
    return 1 - Fraction(str(float(accept)))


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(
            f"{name} is {value}; expected a share above 0 and below 1, such as 0.95 for 95 %"
        )


def _clopper_pearson(accepted: int, images: int, confidence: float) -> tuple[float, float]:
    """Where each tail of the binomial distribution has half of the error."""
    from scipy.special import betaincinv  # slow to import

    tail = (1 - confidence) / 2
    rejected = images - accepted
    low = float(betaincinv(accepted, rejected + 1, tail)) if accepted else 0.0
    high = float(betaincinv(accepted + 1, rejected, 1 - tail)) if rejected else 1.0
    return low, high


def _wilson(accepted: int, images: int, confidence: float) -> tuple[float, float]:
    """Rates whose z-test does not reject what was counted."""
    from scipy.special import ndtri  # slow to import

    z = float(ndtri((1 + confidence) / 2))
    rate = accepted / images
    center = rate + z**2 / (2 * images)
    half = z * sqrt(rate * (1 - rate) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    low = (center - half) / scale if accepted else 0.0  # rounding may give -1e-17
    high = (center + half) / scale if accepted < images else 1.0
    return low, high


_INTERVALS = {"clopper-pearson": _clopper_pearson, "wilson": _wilson}
