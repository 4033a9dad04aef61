"""NNGuide: nearest-neighbor guidance (Park, Jung & Teoh, ICCV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.bank import QUERIES, DirectionBank, require_neighbors, top_k
from oodbench.numerics.batch_parts import row_slices
from oodbench.numerics.functional import energy
from oodbench.numerics.input_checks import at_least, require_positive_logits
from oodbench.numerics.row_sample import RowSample


@register(
    "nnguide",
    label="NNGuide",
    title="NNGuide: energy guided by the nearest training images",
    paper="Nearest Neighbor Guidance for Out-of-Distribution Detection",
    authors=("Jaewoo Park", "Yoon Gyo Jung", "Andrew Beng Jin Teoh"),
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2309.14888",
    code="https://github.com/roomo7time/nnguide",
    needs=("features", "head", "fit"),
    # The authors' k and OpenOOD's.
    search_space={"k": (10, 100)},
)
class NNGuide(Detector):
    """E(x) G(x), with E = log sum exp z and G the mean of the k largest <q, E(x_i) q_i>.

    q = f / ||f||, and i runs over training images. A product of energies orders images only where
    they are positive, as those of a linear last layer trained with softmax are as a rule. Logits
    that are minus distances may reverse the order, so a linear head is needed.

    Args:
        k: number of neighbors.
        bank_size: the largest number of training images kept, a random sample if there are more.
            (For ImageNet the paper keeps 1 %, some 13,000.)
    """

    def __init__(self, k: int = 10, bank_size: int = 50_000) -> None:
        self.k = at_least("k", k, 1)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit(self, batches: Batches) -> None:
        """The directions of the training features, and the energies of their logits.

        Raises:
            ValueError: if there are no images, or their energies are not positive on average.
        """
        self.bank = batches.shared(DirectionBank, self.bank_size)
        self.energies, total = RowSample(self.bank_size), 0.0  # of the same images as the bank
        for outputs in batches:
            batches.once(self.bank.add, outputs.features)
            energies = energy(outputs.logits)
            self.energies.add(energies[:, None].to(self.bank.dtype))
            total += float(energies.sum())
        require_positive_logits(total, self.energies.seen, "NNGuide")

    def score(self, outputs: Outputs) -> Tensor:
        """Energy times guidance, shape [B]."""
        require_neighbors(self.k, len(self.bank))
        features = outputs.features
        guidance = [self._guidance(features[rows]) for rows in row_slices(features, QUERIES)]
        return energy(outputs.logits) * torch.cat(guidance)

    def _guidance(self, features: Tensor) -> Tensor:
        cosines = zip(self.bank.cosines(features), self.energies.blocks, strict=True)
        products, _ = top_k((block * energies.T for block, energies in cosines), self.k)
        return products.double().mean(dim=1)
