"""A detector on feature maps: it reads the activations before they are averaged over space.

`needs=("feature_map",)` gives `outputs.feature_map`, shape [B, D, H, W]: the map whose mean over
space is the penultimate features. A model that has no such map, such as a perceptron, gives its
features as maps of one place, [B, D, 1, 1]. Maps come batch by batch and are never stored.
"""

from torch import Tensor

from oodbench import Detector, Outputs, register


@register(
    "map_norm",
    label="MapNorm",
    title="Mean norm of the channels of the last feature map",
    needs=("feature_map",),
)
class MapNorm(Detector):
    """1/D sum_d || m_d ||_2 for the map m of the image, m_d its channel d after max(0, .)."""

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]."""
        assert outputs.feature_map is not None
        channels = outputs.feature_map.double().relu().flatten(2)  # [B, D, H * W]
        scores: Tensor = channels.norm(dim=2).mean(dim=1)
        return scores
