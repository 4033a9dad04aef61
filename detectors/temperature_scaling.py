"""Maximum probability after temperature scaling (Guo et al., ICML 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import max_log_odds
from oodbench.numerics.input_checks import labels_of, require_images
from oodbench.numerics.likelihood.temperature import calibrate as likeliest_temperature


@register(
    "temperature_scaling",
    label="TemperatureScaling",
    title="Maximum probability at the calibrated temperature",
    aliases=("temp_scaling",),
    paper="On Calibration of Modern Neural Networks",
    authors=("Chuan Guo", "Geoff Pleiss", "Yu Sun", "Kilian Q. Weinberger"),
    venue="ICML",
    year=2017,
    url="https://arxiv.org/abs/1706.04599",
    code="https://github.com/gpleiss/temperature_scaling",
    needs=("validation", "labels"),
)
class TemperatureScaling(Detector):
    """Log-odds of max_i softmax(z / T)_i, at the T of maximum likelihood on validation labels.

    The paper (section 4.2) is about calibration; OpenOOD and pytorch-ood use the probability as a
    score for OOD detection. Its log-odds order images alike, also at a very small T, where the
    probability is 1 up to rounding. (T is that small if every validation image is classified
    right.)
    """

    def fit_validation(self, batches: Batches) -> None:
        """T, in one pass. Keeps the logits of all validation images (N x C) while it fits.

        Raises:
            ValueError: if there are no validation images, or they have no labels.
        """
        logits, labels = [], []
        for outputs in batches:
            # The network's own precision: the logits are no more exact than that.
            precision = torch.promote_types(outputs.dtype, torch.float32)
            logits.append(outputs.logits.to("cpu", precision))
            labels.append(labels_of(outputs).cpu())
        require_images(len(logits), "validation")
        self.fitted_temperature = likeliest_temperature(torch.cat(logits), torch.cat(labels))

    def score(self, outputs: Outputs) -> Tensor:
        """Log-odds of max_i softmax(z / T)_i, shape [B]."""
        return max_log_odds(outputs.logits / self.fitted_temperature)
