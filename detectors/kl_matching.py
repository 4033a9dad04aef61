"""KL matching (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.functional import log_divergence, log_probabilities
from oodbench.numerics.input_checks import require_images


@register(
    "kl_matching",
    label="KLMatching",
    title="Divergence from the nearest class's mean posterior",
    aliases=("klm",),
    paper="Scaling Out-of-Distribution Detection for Real-World Settings",
    authors=(
        "Dan Hendrycks",
        "Steven Basart",
        "Mantas Mazeika",
        "Andy Zou",
        "Joe Kwon",
        "Mohammadreza Mostajabi",
        "Jacob Steinhardt",
        "Dawn Song",
    ),
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/1911.11132",
    code="https://github.com/hendrycks/anomaly-seg",
    needs=("validation",),
)
class KLMatching(Detector):
    """-log min_k KL(p || d_k), where d_k is the typical posterior of class k.

    The paper's score is the divergence. Its logarithm has the same order, and no ties where p and
    d_k are 0 and 1 up to rounding; everything is computed from logarithms of probabilities.

    d_k is the mean of p over the validation images that are predicted as k; true labels are not
    used. A class that no validation image is predicted as has no d_k and is left out of the
    minimum.
    """

    def fit_validation(self, batches: Batches) -> None:
        """Log d_k of the classes that are predicted, shape [K, C], in one pass.

        Raises:
            ValueError: if there is no validation image.
        """
        classes = batches.num_classes
        log_sums = torch.full((classes, classes), -torch.inf, dtype=torch.float64)
        counts = torch.zeros(classes, dtype=torch.float64)
        for outputs in batches:
            predicted = outputs.logits.argmax(dim=1)
            log_p = log_probabilities(outputs.logits.double())
            log_sums, counts = log_sums.to(log_p), counts.to(log_p)
            counts += torch.bincount(predicted, minlength=classes)
            for k in predicted.unique().tolist():
                log_sums[k] = torch.logaddexp(log_sums[k], log_p[predicted == k].logsumexp(dim=0))
        seen = counts > 0
        require_images(int(seen.sum()), "validation")
        log_templates = log_sums - counts[:, None].log()
        # A template's own class is 1 less the others: exact where it is 1 up to rounding.
        others = log_templates.masked_fill(torch.eye(classes).bool().to(seen.device), -torch.inf)
        log_templates.diagonal().copy_(torch.log1p(-others.logsumexp(dim=1).exp()))
        self.log_templates = log_templates[seen]

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the logarithm of the smallest divergence in nats, shape [B]."""
        log_p = log_probabilities(outputs.logits.double())
        # KL(p || d_k) = sum_i p_i log p_i - p_i log d_ki; the last term alone depends on k.
        nearest = (log_p.exp() @ self.log_templates.T).argmax(dim=1)
        return -log_divergence(log_p, self.log_templates[nearest])
