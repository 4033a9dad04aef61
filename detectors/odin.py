"""ODIN: temperature scaling and input preprocessing (Liang, Li & Srikant, ICLR 2018)."""

from __future__ import annotations

from _odin import Odin

from oodbench import register


@register(
    "odin",
    label="ODIN",
    title="ODIN: temperature and input preprocessing",
    paper="Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
    authors=("Shiyu Liang", "Yixuan Li", "R. Srikant"),
    venue="ICLR",
    year=2018,
    url="https://openreview.net/forum?id=H1VGkIxRZ",
    code="https://github.com/facebookresearch/odin",
    needs=("input_gradient",),
    # The grid of Lee et al. 2018: it holds the baseline itself (temperature 1, no perturbation).
    search_space={
        "temperature": (1.0, 10.0, 100.0, 1000.0),
        "epsilon": (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0024, 0.005, 0.01, 0.05, 0.1, 0.2),
    },
)
class ODIN(Odin):
    """Maximum probability at a temperature, of an image moved towards its predicted class.

    x' = x - epsilon sign(grad_x CE(z(x) / T, argmax z)), then S = max softmax(z(x') / T). The score
    is the log-odds L of S, and the gradient that of -L(x): the cross-entropy is log(1 + exp(-L)),
    whose gradient has the same sign and vanishes where S is near 1. Order and step are the paper's.

    Args:
        temperature: T, applied before the gradient too.
        epsilon: step size in units of a [0, 1] pixel; the image is not clamped.
        sign_zero: sign of a zero gradient: "plus" (as the published code) or "zero".
    """
