"""OpenMax (Bendale & Boult, CVPR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.bank import FeatureBank
from oodbench.numerics.functional import check_logits_positive, squared_distances
from oodbench.numerics.weibull import WeibullTails, fit_weibull_tails, largest_of_classes


@register(
    "openmax",
    label="OpenMax",
    title="OpenMax: odds of an unknown class",
    venue="CVPR",
    year=2016,
    url="https://arxiv.org/abs/1511.06233",
    needs=("labels", "head", "fit"),
    # The grid of pytorch-ood; the paper shows a few values of both.
    search_space={"tail_size": (10, 20, 30, 40, 50), "alpha": (1, 3, 5, 10, 15, 20)},
)
class OpenMax(Detector):
    """Minus the log-odds of the unknown class, whose activation the known classes give up.

    A class's mean activation vector mu_c is the mean logit vector of the training images that are
    classified right, and a Weibull distribution with CDF W_c is fitted to the `tail_size` largest
    of their distances to it (algorithm 1). An image's class of rank i = 1 .. alpha gives up the
    share (alpha + 1 - i) / alpha W_c(d_c) of its logit, and the unknown class gets what all give up
    (algorithm 2). Higher is more in-distribution: the score is log sum exp of the known classes'
    revised logits less that of the unknown class, -log(p / (1 - p)) for the paper's probability p,
    which has the opposite order and runs into ties.

    As the authors' code, where the paper prints 1 - W_c and (alpha - i) / alpha. Unlike it, the
    distance is by default the Euclidean one, as in OpenOOD and pytorch-ood; the authors' mixture is
    that of `euclidean_weight` = 1/201, up to a factor.

    A class with fewer images than `tail_size` takes what there are. With a single one, or none,
    that is classified right, nothing counts as near: W_c = 1. Logits that are minus distances turn
    the order round, since what is taken from them raises them: a linear head is needed.

    Args:
        tail_size: number of distances that a Weibull distribution is fitted to.
        alpha: number of classes that are revised, at most all.
        euclidean_weight: share w of the Euclidean distance in w d_euclidean + (1 - w) d_cosine.
        bank_size: the largest number of training images whose distances are taken, a random sample
            if there are more; means are over all images.
    """

    def __init__(
        self,
        tail_size: int = 20,
        alpha: int = 10,
        euclidean_weight: float = 1.0,
        bank_size: int = 50_000,
    ) -> None:
        if tail_size < 2:
            raise ValueError(f"tail_size must be at least 2, not {tail_size}")
        self.tail_size = tail_size
        if alpha < 1:
            raise ValueError(f"alpha must be at least 1, not {alpha}")
        self.alpha = alpha
        if not 0 <= euclidean_weight <= 1:
            raise ValueError(f"euclidean_weight must be between 0 and 1, not {euclidean_weight}")
        self.euclidean_weight = euclidean_weight
        if bank_size < 1:
            raise ValueError(f"bank_size must be at least 1, not {bank_size}")
        self.bank_size = bank_size
        self.means: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        """Mean activation vectors and the training images' distances to them, in one pass."""
        count, bank, largest = batches.num_classes, FeatureBank(self.bank_size), 0.0
        sums = torch.zeros(count, count, dtype=torch.float64)
        counts = torch.zeros(count, dtype=torch.float64)
        for outputs in batches:
            logits, labels = outputs.logits, outputs.labels
            assert labels is not None
            right = logits.argmax(dim=1) == labels
            logits, labels = logits[right], labels[right]
            sums, counts = sums.to(logits), counts.to(logits)
            sums.index_add_(0, labels, logits)
            counts += torch.bincount(labels, minlength=count)
            # The network's own precision: the logits are no more exact than that.
            bank.add(logits.to(torch.promote_types(outputs.dtype, torch.float32)))
            largest += float(logits.amax(dim=1).sum())
        if not bank.seen:
            raise ValueError(
                "no training image is classified right: there are no mean activation vectors"
            )
        check_logits_positive(largest / bank.seen, "OpenMax")
        self.means = sums / counts.clamp_min(1)[:, None]
        euclidean, cosine, classes = [], [], []
        for rows in bank.blocks:
            nearest = rows.argmax(dim=1)  # classified right: the label too
            own = self.means[nearest]
            euclidean.append((rows.double() - own).norm(dim=1))
            cosine.append(1 - (F.normalize(rows.double(), dim=1) * F.normalize(own, dim=1)).sum(1))
            classes.append(nearest)
        self.euclidean, self.cosine = torch.cat(euclidean), torch.cat(cosine)
        self.classes = torch.cat(classes)
        self.fitted: dict[tuple[int, float], WeibullTails] = {}

    def tails(self) -> WeibullTails:
        """The distributions of the present `tail_size` and `euclidean_weight`."""
        if self.means is None:
            raise ValueError("OpenMax has no mean activation vectors yet: call fit first")
        key = (self.tail_size, self.euclidean_weight)
        if key not in self.fitted:
            distances = self._mixed(self.euclidean, self.cosine)
            tails = largest_of_classes(distances, self.classes, len(self.means), self.tail_size)
            self.fitted[key] = fit_weibull_tails(tails)
        return self.fitted[key]

    def _mixed(self, euclidean: Tensor, cosine: Tensor) -> Tensor:
        return self.euclidean_weight * euclidean + (1 - self.euclidean_weight) * cosine

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the log-odds of the unknown class, shape [B]."""
        tails, logits = self.tails(), outputs.logits
        assert self.means is not None
        revised = min(self.alpha, logits.shape[1])
        ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :revised]
        shares = torch.arange(revised, 0, -1, device=logits.device) / logits.new_tensor(revised)
        weights = torch.zeros_like(logits).scatter(1, ranked, shares.expand_as(ranked))
        distances = self._mixed(
            squared_distances(logits, self.means).sqrt(),
            1 - F.normalize(logits, dim=1) @ F.normalize(self.means, dim=1).T,
        )
        given_up = logits * weights * tails.cdf(distances)
        return (logits - given_up).logsumexp(dim=1) - given_up.sum(dim=1)
