"""The temperature of a classifier's probabilities, softmax(z / T)."""

from __future__ import annotations

import math

import numpy as np
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
    _check(z, y)
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


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits [N, C] and labels [N], not "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if not logits.numel():
        raise ValueError("logits: there are no images")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must lie between 0 and {logits.shape[1] - 1}")
