"""Neural relation graph (Kim, Yun & Song, NeurIPS 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Outputs, register
from oodbench.number_checks import not_negative, positive
from oodbench.numerics.bank import QUERIES, DirectionBank
from oodbench.numerics.batch_parts import row_slices
from oodbench.numerics.input_checks import at_least, require_images
from oodbench.numerics.row_sample import RowSample


@register(
    "relation",
    label="Relation",
    title="Relation graph: similarity of features and probabilities to training images",
    paper=(
        "Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data"
    ),
    authors=("Jang-Hyun Kim", "Sangdoo Yun", "Hyun Oh Song"),
    venue="NeurIPS",
    year=2023,
    url="https://arxiv.org/abs/2301.12321",
    code="https://github.com/snu-mllab/Neural-Relation-Graph",
    needs=("features", "fit"),
    # OpenOOD's grid.
    search_space={"power": (1, 2, 4, 6, 8)},
)
class Relation(Detector):
    """Sum over training images i of k_i^t, with k_i = max(0, q q_i) (p p_i).

    q = f / ||f|| is the direction of the features, and p the softmax probabilities. Relations k_i
    of at most 0.03 count as zero, as in the authors' code.

    Args:
        power: t, the temperature of the kernel; the authors use 1 for OOD detection.
        threshold: relations of at most this count as zero.
        bank_size: the largest number of training images kept, a random sample if there are more.
    """

    def __init__(self, power: float = 1, threshold: float = 0.03, bank_size: int = 50_000) -> None:
        self.power = positive("power", power)
        self.threshold = not_negative("threshold", threshold)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit(self, batches: Batches) -> None:
        """Keep the directions of the training features, and their probabilities.

        Raises:
            ValueError: if there are no images.
        """
        self.bank = batches.shared(DirectionBank, self.bank_size)
        self.probabilities = RowSample(self.bank_size)  # of the same images as the bank
        for outputs in batches:
            batches.once(self.bank.add, outputs.features)
            self.probabilities.add(F.softmax(outputs.logits, dim=1).to(self.bank.dtype))
        require_images(len(self.bank))

    def score(self, outputs: Outputs) -> Tensor:
        """Sum of the relations, shape [B]."""
        p = F.softmax(outputs.logits, dim=1).to(self.bank.dtype)
        features, slices = outputs.features, row_slices(p, QUERIES)
        return torch.cat([self._relations(features[rows], p[rows]) for rows in slices])

    def _relations(self, features: Tensor, p: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        bank = zip(self.bank.cosines(features), self.probabilities.blocks, strict=True)
        for cosines, probabilities in bank:
            relations = cosines.clamp_min_(0).mul_(p @ probabilities.T)
            relations.masked_fill_(relations <= self.threshold, 0)
            total = total + relations.pow_(self.power).sum(dim=1, dtype=torch.float64)
        return total
