"""A fitted detector: it is fitted on the training images, and its hyperparameter is tuned.

`needs=("fit", ...)` makes the engine call `fit` with the training images before scoring, and
"labels" gives their classes. `search_space` lists the values that tuning tries.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Batches, Detector, Outputs, register


@register(
    "class_cosine",
    label="ClassCosine",
    title="Cosine of the features to the nearest class mean",
    needs=("features", "fit", "labels"),
    search_space={"power": (0.5, 1.0)},
)
class ClassCosine(Detector):
    """max_c cos(g(f), mean_c) of the penultimate features f, with g(f) = sign(f) |f|^power.

    Args:
        power: below 1 it weakens the largest features.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def fit(self, batches: Batches) -> None:
        """Sums while fitting, no batches: memory does not grow with the number of images."""
        sums: Tensor | float = 0.0
        counts: Tensor | float = 0.0
        for outputs in batches:  # each loop over `batches` is a pass over the training images
            assert outputs.labels is not None
            members = F.one_hot(outputs.labels, batches.num_classes).double()  # [B, C]
            sums = sums + members.T @ outputs.features.double()  # [C, D]
            counts = counts + members.sum(dim=0)  # [C]
        assert isinstance(sums, Tensor)
        assert isinstance(counts, Tensor)
        # A class without training images has no mean: leave it out, or every score is NaN.
        # One fit serves all values of `power`, which is applied while scoring.
        self.means = (sums / counts[:, None])[counts > 0]  # [classes, D]

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]."""
        features, means = self._powered(outputs.features.double()), self._powered(self.means)
        return (F.normalize(features, dim=1) @ F.normalize(means, dim=1).T).amax(dim=1)

    def _powered(self, values: Tensor) -> Tensor:
        return torch.sign(values) * values.abs() ** self.power
