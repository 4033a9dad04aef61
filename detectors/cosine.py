"""Largest cosine to a class mean (Techapanurak et al., ACCV 2020; Bitterwolf et al., ICML 2023)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.statistics.mean_directions import cosines, fitted_mean_directions


@register(
    "cosine",
    label="Cosine",
    title="Largest cosine between the features and a class mean",
    paper="Hyperparameter-Free Out-of-Distribution Detection Using Cosine Similarity",
    authors=("Engkarat Techapanurak", "Masanori Suganuma", "Takayuki Okatani"),
    venue="ACCV",
    year=2020,
    url="https://arxiv.org/abs/1905.10628",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class Cosine(LayerwiseDetector):
    """max_c cos(f, mu_c), with mu_c the mean of the training features of class c.

    The mean is of the features as they are, by their true labels, over all training images of the
    class, also those that are classified wrongly; it is divided by its length afterwards. The paper
    trains a network with cosines to class weights in the place of logits and takes the largest one.
    For networks that are trained otherwise, class means take the place of the weights, as in
    "In or Out? Fixing ImageNet Out-of-Distribution Detection Evaluation" (Bitterwolf, Mueller &
    Hein, ICML 2023) and its code. Classes without images are left out. A feature of length 0 has
    the cosine 0.
    """

    def fit_features(self, batches: Batches) -> None:
        """The directions of the class means, in one pass.

        Raises:
            ValueError: if there are no images, or images have no labels.
        """
        self.means = fitted_mean_directions(batches)

    def score_features(self, features: Tensor) -> Tensor:
        """The cosine to the nearest class mean, shape [B]."""
        return cosines(features, self.means).amax(dim=1)
