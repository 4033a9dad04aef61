"""Augmentation against moving and mirroring one pixel at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from oodbench.specs import AugmentSpec
from oodbench.training.augmentation import augment, draw


def augmented(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    return augment(images, spec, draw(spec, len(images), generator))


def distinct_images(count: int) -> Tensor:
    return torch.arange(1.0, count * 2 * 6 * 5 + 1).view(count, 2, 6, 5)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """An image moved by whole pixels, zeros moving in, one pixel at a time."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_crops_are_shifts_by_all_amounts() -> None:
    images = distinct_images(150)
    generator = torch.Generator().manual_seed(0)
    found = augmented(images, AugmentSpec(crop_padding=2), generator)
    assert found.shape == images.shape
    amounts = []
    for image, crop in zip(images, found, strict=True):
        row, column = torch.nonzero(crop[0] > 0)[0].tolist()  # some pixel that is left
        index = int(crop[0, row, column] - image[0, 0, 0])
        amount = (row - index // 5, column - index % 5)
        torch.testing.assert_close(crop, shifted(image, *amount), rtol=0, atol=0)
        amounts.append(amount)
    counts = [amounts.count(amount) for amount in itertools.product(range(-2, 3), repeat=2)]
    assert sum(counts) == len(amounts), "shifted by more than the padding"
    # 6 of each expected: all occur, and none far more often than the others.
    assert min(counts) > 0
    assert max(counts) < 20


def test_flips_half_of_the_images() -> None:
    images = distinct_images(400)
    generator = torch.Generator().manual_seed(0)
    found = augmented(images, AugmentSpec(horizontal_flip=True), generator)
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(images, found, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(images, found, strict=True)]
    assert all(one != other for one, other in zip(flipped, same, strict=True))
    assert abs(sum(flipped) - 200) < 50


def test_no_augmentation_is_none() -> None:
    images = distinct_images(5)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    torch.testing.assert_close(augmented(images, AugmentSpec(), generator), images, rtol=0, atol=0)
    assert torch.equal(generator.get_state(), before)


def test_bytes_stay_bytes() -> None:
    images = (distinct_images(4) % 256).to(torch.uint8)
    spec = AugmentSpec(crop_padding=1, horizontal_flip=True)
    found = augmented(images, spec, torch.Generator().manual_seed(0))
    floats = augmented(images.float(), spec, torch.Generator().manual_seed(0))
    assert found.dtype == torch.uint8
    assert torch.equal(found.float(), floats)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_share_of_a_batch_is_augmented_as_in_the_whole(cut: int) -> None:
    images = distinct_images(5)
    spec = AugmentSpec(crop_padding=2, horizontal_flip=True)
    draws = draw(spec, 5, torch.Generator().manual_seed(0))
    parts = [augment(images[rows], spec, draws[rows]) for rows in (slice(0, cut), slice(cut, 5))]
    assert torch.equal(torch.cat(parts), augment(images, spec, draws))
