"""OpenMax (Bendale & Boult, CVPR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.input_checks import at_least, labels_of, require_positive_logits
from oodbench.numerics.likelihood.weibull import WeibullTails, fit_weibull_tails, largest_of_classes
from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.statistics.activation_vectors import (
    distances_to_means,
    distances_within_classes,
)
from oodbench.numerics.statistics.moments import ClassMeans


@register(
    "openmax",
    label="OpenMax",
    title="OpenMax: odds of an unknown class",
    paper="Towards Open Set Deep Networks",
    authors=("Abhijit Bendale", "Terrance E. Boult"),
    venue="CVPR",
    year=2016,
    url="https://arxiv.org/abs/1511.06233",
    code="https://github.com/abhijitbendale/OSDN",
    needs=("labels", "head", "fit"),
    # The grid of pytorch-ood; the paper shows a few values of both.
    search_space={"tail_size": (10, 20, 30, 40, 50), "alpha": (1, 3, 5, 10, 15, 20)},
)
class OpenMax(Detector):
    """Minus the log-odds of the unknown class, whose activation the known classes give up.

    A class's mean activation vector mu_c is the mean logit vector of the training images that are
    classified right, and a Weibull distribution with CDF W_c is fitted to the `tail_size` largest
    of their distances to it (algorithm 1). An image's class of rank i = 1 .. alpha gives up the
    share (alpha + 1 - i) / alpha W_c(d_c) of its logit, and the unknown class gets the sum of
    these shares (algorithm 2). Higher is more in-distribution: the score is log sum exp of the
    known classes' revised logits less that of the unknown class, -log(p / (1 - p)) for the paper's
    probability p, which has the opposite order and runs into ties.

    These weights are those of the authors' code; the paper prints 1 - W_c and (alpha - i) / alpha.
    The default distance is Euclidean, as in OpenOOD and pytorch-ood; the authors' code mixes it
    with the cosine distance as `euclidean_weight` = 1/201 does, up to a factor.

    A class with fewer images than `tail_size` takes all of them. If at most one image of a class is
    classified right, every distance from that class is far: W_c = 1. Logits that are minus
    distances would reverse the order, since a share taken from a negative logit raises it: a linear
    head is needed.

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
        self.tail_size = at_least("tail_size", tail_size, 2)
        self.alpha = at_least("alpha", alpha, 1)
        if not 0 <= euclidean_weight <= 1:
            raise ValueError(f"euclidean_weight must be between 0 and 1, not {euclidean_weight}")
        self.euclidean_weight = euclidean_weight
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit(self, batches: Batches) -> None:
        """Mean activation vectors and the training images' distances to them, in one pass.

        Raises:
            ValueError: if no image is classified right, or the largest logits are not positive on
                average.
        """
        means, bank, largest = ClassMeans(batches.num_classes), RowSample(self.bank_size), 0.0
        for outputs in batches:
            labels = labels_of(outputs)
            right = outputs.logits.argmax(dim=1) == labels
            logits = outputs.logits[right]
            means.add(logits, labels[right])
            # The network's own precision: the logits are no more exact than that.
            bank.add(logits.to(torch.promote_types(outputs.dtype, torch.float32)))
            largest += float(logits.amax(dim=1).sum())
        if not bank.seen:
            raise ValueError(
                "no training image is classified right: there are no mean activation vectors"
            )
        require_positive_logits(largest, bank.seen, "OpenMax")
        self.means = means.means
        self.distances, self.classes = distances_within_classes(bank, self.means)
        self.fitted: dict[tuple[int, float], WeibullTails] = {}

    def tails(self) -> WeibullTails:
        """The distributions W_c for the present `tail_size` and `euclidean_weight`."""
        key = (self.tail_size, self.euclidean_weight)
        if key not in self.fitted:
            distances = self.distances.mixed(self.euclidean_weight)
            tails = largest_of_classes(distances, self.classes, len(self.means), self.tail_size)
            self.fitted[key] = fit_weibull_tails(tails)
        return self.fitted[key]

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the log-odds of the unknown class, shape [B]."""
        logits, revised = outputs.logits, min(self.alpha, outputs.logits.shape[1])
        ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :revised]
        shares = torch.arange(revised, 0, -1, device=logits.device) / logits.new_tensor(revised)
        weights = torch.zeros_like(logits).scatter(1, ranked, shares.expand_as(ranked))
        distances = distances_to_means(logits, self.means).mixed(self.euclidean_weight)
        given_up = logits * weights * self.tails().cdf(distances)
        return (logits - given_up).logsumexp(dim=1) - given_up.sum(dim=1)
