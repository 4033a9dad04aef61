"""The temperature of a classifier's probabilities, softmax(z / T), and their calibration error."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

LOWEST, HIGHEST = 0.001, 100.0
"""Range of the search for a temperature (Macedo et al. 2022, arXiv 2205.05874)."""

BLOCK = 1024
"""Number of images that are converted to float64 at a time."""


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature that maximizes the likelihood of validation labels (Guo et al. 2017, 4.2).

    It minimizes the mean negative log-likelihood of softmax(z / T), which is convex in 1/T and has
    one minimum. If every image is classified correctly, the minimum is at or near the lower end
    of the range; if the logits do not predict the labels, it is at the upper end.

    Macedo et al. 2022 minimize the expected calibration error, on the test set. That error jumps
    when an image changes its bin, so the result of a descent depends on its start; and a parameter
    must not be chosen on test images. Give validation images that are neither trained nor tested
    on.

    Args:
        logits: shape [N, C], at temperature 1, on any device.
        labels: shape [N], integers.

    Returns:
        T in [0.001, 100].

    Raises:
        ValueError: if there are no images, shapes do not fit, a label is not a class, or a logit
            is not finite.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and few runs need it

    z = logits.detach().cpu()
    y = labels.detach().cpu().long()
    _check(z.numpy(), y.numpy(), "logits")
    if not z.isfinite().all():
        raise ValueError("logits must be finite")
    blocks = list(zip(z.split(BLOCK), y[:, None].split(BLOCK), strict=True))

    def mean_loss(log_temperature: float) -> float:
        total, temperature = 0.0, math.exp(log_temperature)
        for rows, classes in blocks:
            # The likelihood depends on differences from the true class's logit, which are exact;
            # a large logit minus the logarithm of the sum of exponentials is not.
            differences = rows.double() - rows.gather(1, classes).double()
            total += float((differences / temperature).logsumexp(dim=1).sum())
        return total / len(y)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(
        mean_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6, "maxiter": 200}
    )
    # The bounded search does not evaluate the ends of the range.
    best = min((float(found.x), *bounds), key=mean_loss)
    return float(np.clip(np.exp(best), LOWEST, HIGHEST))


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy (Guo et al. 2017, equation 3).

    Images are put into bins of equal width by their largest probability; a bin includes its upper
    bound. Each bin adds |accuracy - mean confidence| times its share of the images.

    Args:
        probabilities: shape [N, C].
        labels: shape [N], integers.
        bins: number of bins; 15 in the paper.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: if there are no images, shapes do not fit, a label is not a class, a
            probability is outside [0, 1], or there is no bin.
    """
    p = probabilities.detach().double().cpu().numpy()
    y = labels.detach().cpu().numpy()
    _check(p, y, "probabilities")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    if bins < 1:
        raise ValueError(f"bins must be positive, not {bins}")
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    bounds = np.arange(1, bins) / bins
    chosen = np.searchsorted(bounds, confidence, side="left")
    surplus = np.bincount(chosen, weights=correct - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(y))


def _check(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], name: str) -> None:
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(
            f"expected {name} [N, C] and labels [N], not {values.shape} and {labels.shape}"
        )
    if not values.size:
        raise ValueError(f"{name}: there are no images")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError(f"labels must lie between 0 and {values.shape[1] - 1}")
