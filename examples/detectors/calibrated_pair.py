"""A calibrated detector: it trains a small model of its own on tuning data.

`needs=("calibration",)` makes the engine call `calibrate` with images that the classifier was not
trained on (positives) and with attacked ones (negatives). Half of the tuning data calibrates, the
other half chooses among the values of the search space, if there is one.
"""

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.numerics.likelihood.regression import LogisticModel, fit_logistic_regression


@register(
    "calibrated_pair",
    label="CalibratedPair",
    title="Logistic regression on the largest logit and the norm of the features",
    needs=("features", "calibration"),
)
class CalibratedPair(Detector):
    """Minus the log-odds of being a negative, from (max_c z_c, || f ||)."""

    def __init__(self) -> None:
        self.model: LogisticModel | None = None

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        """Keep the model in an attribute: each setting works on a copy of the detector."""
        self.model = fit_logistic_regression(
            self._pair(positives), self._pair(negatives), standardize=True
        )

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; the plain sum of both before the calibration."""
        pair = self._pair(outputs)
        return pair.sum(dim=1) if self.model is None else -self.model.log_odds(pair)

    def _pair(self, outputs: Outputs) -> Tensor:
        largest = outputs.logits.amax(dim=1)
        return torch.stack([largest, outputs.features.double().norm(dim=1)], dim=1)
