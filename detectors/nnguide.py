"""NNGuide: nearest-neighbor guidance (Park, Jung & Teoh, ICCV 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.bank import FeatureBank, directions, top_k_products
from oodbench.numerics.functional import check_logits_positive, energy


@register(
    "nnguide",
    label="NNGuide",
    title="NNGuide: energy guided by the nearest training images",
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2309.14888",
    needs=("features", "head", "fit"),
    # The authors' k and OpenOOD's.
    search_space={"k": (10, 100)},
)
class NNGuide(Detector):
    """E(x) G(x), with E = log sum exp z and G the mean of the k largest <q, E(x_i) q_i>.

    q = f / ||f||, and i runs over training images. A product of energies orders images only where
    they are positive, as a rule for a linear last layer trained with softmax; logits that are minus
    distances may turn the order round, and so a linear head is needed.

    Args:
        k: number of neighbors.
        bank_size: the largest number of training images kept, a random sample if there are more.
            (For ImageNet the paper keeps 1 %, some 13,000.)
    """

    def __init__(self, k: int = 10, bank_size: int = 50_000) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        self.k = k
        self.bank_size = bank_size
        self.bank = FeatureBank(bank_size)

    def fit(self, batches: Batches) -> None:
        """The directions of the training features, each times the energy of its logits.

        Raises:
            ValueError: if there are no images, or their energies are not positive on average.
        """
        self.bank, total = FeatureBank(self.bank_size), 0.0
        for outputs in batches:
            rows, energies = directions(outputs.features), energy(outputs.logits)
            self.bank.add((rows * energies[:, None]).to(rows.dtype))
            total += float(energies.sum())
        if not self.bank.seen:
            raise ValueError("no training images to fit on")
        check_logits_positive(total / self.bank.seen, "NNGuide")

    def score(self, outputs: Outputs) -> Tensor:
        """Energy times guidance, shape [B]."""
        products, _ = top_k_products(directions(outputs.features), self.bank, self.k)
        return energy(outputs.logits) * products.double().mean(dim=1)
