"""Auxiliary images beside those of a training, and that none of them is a test image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.errors import UserError, counted
from oodbench.files import digest
from oodbench.specs import AugmentSpec, BenchmarkSpec
from oodbench.training.augmentation import augment, draw


class AuxiliaryImages:
    """Auxiliary images in random order, for the batches of a training.

    Order and augmentation depend on the seed and the epoch alone: those of the ID images are the
    same with and without auxiliary images.

    Args:
        images: shape [N, C, H, W], on the device.
        per_image: how many of them go with each image of a batch.
        seed: of the training.
    """

    def __init__(self, images: Tensor, per_image: int, seed: int) -> None:
        self._images, self._per_image, self._seed = images, per_image, seed
        self._rest = torch.empty(0, dtype=torch.int64)
        self._generator = torch.Generator()

    def begin_epoch(self, number: int) -> None:
        """Begin with a new order."""
        self._generator = epoch_generator("auxiliary images", self._seed, number)
        self._rest = self._rest[:0]

    def batch(self, count: int, mine: slice, spec: AugmentSpec) -> Tensor:
        """Augmented images for a batch, shape [A, C, H, W], any type.

        Args:
            count: number of images in the whole batch.
            mine: the rows of this process in it.
            spec: the augmentation of the recipe.
        """
        needed = count * self._per_image
        while len(self._rest) < needed:
            order = torch.randperm(len(self._images), generator=self._generator)
            self._rest = torch.cat([self._rest, order])
        rows, self._rest = self._rest[:needed], self._rest[needed:]
        part = slice(mine.start * self._per_image, mine.stop * self._per_image)
        draws = draw(spec, needed, self._generator)[part]
        return augment(self._images[rows[part].to(self._images.device)], spec, draws)


def epoch_generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """A generator on the CPU for the random choices of one purpose in one epoch of a training."""
    number = int(digest(purpose, str(seed), str(epoch))[:12], 16)
    return torch.Generator().manual_seed(number)


def refuse_test_images(benchmark: BenchmarkSpec, data: LoadedSplits) -> None:
    """Refuse auxiliary images that are, byte for byte, test images of the ID, csID or OOD sets.

    Large test sets that have not been read yet are left out.

    Args:
        benchmark: names both.
        data: their images.

    Raises:
        UserError: if there are any.
    """
    for dataset, split in benchmark.auxiliary_splits:
        images = data.get(dataset, split)  # a network is trained on them, so they are in memory
        known = data.digests(dataset, split)
        assert known is not None, "digests of images that were read"
        for tested in benchmark.names:
            theirs = data.digests(tested, "test") if data.has(tested) else None
            shared = 0 if theirs is None else int(np.isin(known, theirs).sum())
            if shared:
                raise UserError(
                    f"{shared:,} of the {counted(len(images), 'auxiliary image')} ('{dataset}', "
                    f"{split}) are also test images of '{tested}', and a network must not be "
                    "trained on images that it is tested on.",
                    "Name another data set under auxiliary, or remove these images from it.",
                )
