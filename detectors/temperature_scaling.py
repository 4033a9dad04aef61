"""Maximum probability after temperature scaling (Guo et al., ICML 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.functional import max_log_odds
from oodbench.numerics.temperature import calibrate as likeliest_temperature


@register(
    "temperature_scaling",
    label="TemperatureScaling",
    title="Maximum probability at the calibrated temperature",
    venue="ICML",
    year=2017,
    url="https://arxiv.org/abs/1706.04599",
    needs=("validation", "labels"),
)
class TemperatureScaling(Detector):
    """Log-odds of max_i softmax(z / T)_i, at the T that makes validation labels likeliest.

    The paper (section 4.2) is about calibration; OpenOOD and pytorch-ood use the probability as a
    score for OOD detection. Its log-odds order images alike, also where T is very small, as it is
    where every validation image is classified right: there the probability is 1 up to rounding.
    """

    def __init__(self) -> None:
        self.fitted_temperature: float | None = None

    def fit_validation(self, batches: Batches) -> None:
        """T, in one pass. Keeps the logits of all validation images (N x C) while it fits.

        Raises:
            ValueError: if there are no validation images, or they have no labels.
        """
        logits, labels = [], []
        for outputs in batches:
            if outputs.labels is None:
                raise ValueError("temperature scaling needs validation images with labels")
            # The network's own precision: the logits are no more exact than that.
            precision = torch.promote_types(outputs.dtype, torch.float32)
            logits.append(outputs.logits.to("cpu", precision))
            labels.append(outputs.labels.cpu())
        if not logits:
            raise ValueError("no validation images to calibrate the temperature on")
        self.fitted_temperature = likeliest_temperature(torch.cat(logits), torch.cat(labels))

    def score(self, outputs: Outputs) -> Tensor:
        """Log-odds of max_i softmax(z / T)_i, shape [B]."""
        if self.fitted_temperature is None:
            raise ValueError(
                "temperature scaling has no temperature yet: call fit_validation first"
            )
        return max_log_odds(outputs.logits / self.fitted_temperature)
