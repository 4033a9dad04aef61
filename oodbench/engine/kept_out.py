"""Images that a detector is not fitted on, but validated on, where there are no others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.detector import Outputs

KEPT_OUT = 0.1
"""Share of the images that `fit` is not given, where there are no validation images."""


class KeptOut:
    """A random tenth of the images of a pass, which `fit` is not given; the same in every pass.

    The first image of each class is not among them, so that `fit` is given every class.
    """

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)
        self._classes: set[int] = set()

    def of(self, outputs: Outputs) -> Tensor:
        """Whether each image of the next batch is kept out, shape [B], on the device of the logits.

        There is one random number for each image: batches of any size give the same images.
        """
        kept_out = self._generator.random(len(outputs)) < KEPT_OUT
        for row, label in enumerate([] if outputs.labels is None else outputs.labels.tolist()):
            if label not in self._classes:
                self._classes.add(label)
                kept_out[row] = False
        return torch.from_numpy(kept_out).to(outputs.logits.device)
