"""What published weights expect to be done to an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import nn

from oodbench.specs import ResizeSpec

FILTERS = get_args(ResizeSpec.model_fields["filter"].annotation)
"""Names of filters that decoding knows."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images were prepared when the accuracy of published weights was measured.

    oodbench normalizes images itself. They are resized and cropped when they are decoded, as
    `images` of the benchmark or the manifest of the data set says.

    Attributes:
        mean, std: per channel, for images in [0, 1].
        size: height and width of the network's input; None if any will do.
        resize: what is done to get there, such as "resize 256 bilinear, center crop 224".
        how: the same, for decoding; None if it is not known, or cannot be done.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    resize: str = ""
    how: ResizeSpec | None = None

    def other_size(self, shape: tuple[int, int, int]) -> str | None:
        """A warning if images [channels, height, width] have another size; else None."""
        if self.size is None or self.size == shape[1:]:
            return None
        how = f" ({self.resize})" if self.resize else ""
        return (
            f"the weights were made for images of {self.size[0]}x{self.size[1]}{how}, and the ID "
            f"images are {shape[1]}x{shape[2]}: expect another accuracy than the published one, or "
            f"write images: {{shape: [{shape[0]}, {self.size[0]}, {self.size[1]}], ...}} in the "
            "benchmark"
        )


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """A network of a library.

    Attributes:
        module: the network; maps images to logits, or to something with logits in it.
        preprocessing: what its weights expect.
        url: address of weights that are not in the module yet; "" if they are.
    """

    module: nn.Module
    preprocessing: Preprocessing
    url: str = ""
