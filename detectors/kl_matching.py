"""KL matching (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.functional import negative_entropy


@register(
    "kl_matching",
    label="KLMatching",
    title="Divergence from the nearest class's mean posterior",
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/1911.11132",
    needs=("held_out",),
)
class KLMatching(Detector):
    """-min_k KL(p || d_k), where d_k is the typical posterior of class k.

    d_k is the mean of p over the held-out images that are predicted as k; true labels are not used.
    A class that no held-out image is predicted as has no d_k and is left out of the minimum.
    """

    def __init__(self) -> None:
        self.log_templates: Tensor | None = None

    def fit_held_out(self, batches: Batches) -> None:
        """Log d_k of the classes that are predicted, shape [K, C], in one sweep.

        Raises:
            ValueError: if there is no held-out image.
        """
        classes = batches.num_classes
        sums = torch.zeros(classes, classes, dtype=torch.float64)
        counts = torch.zeros(classes, dtype=torch.int64)
        for outputs in batches:
            predicted = outputs.logits.argmax(dim=1)
            sums, counts = sums.to(predicted.device), counts.to(predicted.device)
            sums.index_add_(0, predicted, F.softmax(outputs.logits.double(), dim=1))
            counts += torch.bincount(predicted, minlength=classes)
        seen = counts > 0
        if not seen.any():
            raise ValueError("no held-out images to make a class's template of")
        templates = sums[seen] / counts[seen, None]
        # What underflows to 0 counts as the smallest number: the divergence stays finite.
        self.log_templates = templates.clamp_min(torch.finfo(templates.dtype).tiny).log()

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the smallest divergence in nats, shape [B]."""
        if self.log_templates is None:
            raise ValueError("KL matching has no templates yet: call fit_held_out first")
        logits = outputs.logits.double()
        # -KL(p || d_k) = sum_i p_i log d_ki - sum_i p_i log p_i
        matches = F.softmax(logits, dim=1) @ self.log_templates.T
        return matches.amax(dim=1) - negative_entropy(logits)
