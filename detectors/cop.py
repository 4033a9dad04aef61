"""CoP: cosine kernel PCA (Fang et al., NeurIPS 2024)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, Detector, Outputs, register
from oodbench.numerics.bank import directions
from oodbench.numerics.subspace import FeatureMoments, check_share


@register(
    "cop",
    label="CoP",
    title="CoP: distance from the principal space of the directions",
    paper="Kernel PCA for Out-of-Distribution Detection",
    authors=("Kun Fang", "Qinghua Tao", "Kexin Lv", "Mingzhen He", "Xiaolin Huang", "Jie Yang"),
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2402.02949",
    code="https://github.com/fanghenshaometeor/ood-kernel-pca",
    needs=("features", "fit"),
    # 0.85 and 0.99 are the authors' for CIFAR-10 and ImageNet.
    search_space={"variance": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)},
)
class CoP(Detector):
    """-|| P_perp (q - mu) ||, with q = f / ||f|| and mu the mean of q over the training images.

    P_perp projects on all but the first principal axes of q: a kernel principal component analysis
    with the cosine kernel. The principal space has the smallest dimension with a share of the
    variance, and leaves at least one dimension.

    Args:
        variance: share of the variance in the principal space, a fraction in (0, 1).
    """

    def __init__(self, variance: float = 0.85) -> None:
        self.variance = check_share("variance", variance)

    def fit(self, batches: Batches) -> None:
        """Mean direction and principal axes, in one pass.

        Raises:
            ValueError: if there are no images, or their directions do not vary.
        """
        moments = batches.shared(FeatureMoments, of="directions")
        for outputs in batches:
            batches.once(moments.update, directions(outputs.features))
        self.axes = batches.once(moments.axes)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the length of the residual, shape [B]."""
        dim = self.axes.dimension(self.variance)
        return -self.axes.residual_norms(directions(outputs.features), dim)
