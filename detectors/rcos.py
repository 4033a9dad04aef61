"""Rcos: relative cosine to the class means (Bitterwolf, Mueller & Hein, ICML 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.functional import max_probability
from oodbench.numerics.statistics.mean_directions import cosines, fitted_mean_directions


@register(
    "rcos",
    label="Rcos",
    title="Rcos: largest softmax of the cosines to the class means",
    paper="In or Out? Fixing ImageNet Out-of-Distribution Detection Evaluation",
    authors=("Julian Bitterwolf", "Maximilian Mueller", "Matthias Hein"),
    venue="ICML",
    year=2023,
    url="https://arxiv.org/abs/2306.00826",
    code="https://github.com/j-cb/NINCO",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class RelativeCosine(LayerwiseDetector):
    """max_c softmax_c cos(f, mu_c), at temperature 1.

    mu_c is the mean of the training features of class c, as in `cosine`: of the features as they
    are, by their true labels. It is MCM with class means in the place of texts. Paper and authors'
    code agree. Classes without images are left out, so that a single class gives 1 to every image.
    """

    def fit_features(self, batches: Batches) -> None:
        """The directions of the class means, in one pass.

        Raises:
            ValueError: if there are no images, or images have no labels.
        """
        self.means = fitted_mean_directions(batches)

    def score_features(self, features: Tensor) -> Tensor:
        """The largest probability, shape [B]."""
        return max_probability(cosines(features, self.means))
