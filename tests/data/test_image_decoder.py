"""Resizing of the short side: pixels equal those of torchvision's transforms."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers.reader_sets import spec
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from oodbench.data.image_decoder import CorruptImageError, decode_image
from oodbench.specs import ResizeSpec

SIZES = [(1, 1), (3, 1000), (31, 32), (32, 32), (32, 33), (33, 32), (45, 37), (64, 64), (500, 375)]
SIZES += [(375, 500), (257, 256), (256, 301), (1023, 77), (28, 28), (640, 427), (333, 500), (2, 3)]


@pytest.mark.parametrize(("short", "side"), [(32, 32), (256, 224), (232, 224), (37, 32)])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_torchvision(size: tuple[int, int], short: int, side: int) -> None:
    width, height = size
    pixels = np.random.default_rng(width + height).integers(0, 256, (height, width, 3), np.uint8)
    transform = Compose([Resize(short, InterpolationMode.BILINEAR), CenterCrop(side)])
    wanted = np.asarray(transform(Image.fromarray(pixels))).transpose(2, 0, 1)
    how = ResizeSpec(short_side=short)
    found, lost = decode_image(pixels.transpose(2, 0, 1), (3, side, side), how)
    np.testing.assert_array_equal(found, wanted)
    assert lost == ""


def test_gray_images_become_colored() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    found, _ = decode_image(pixels, (3, 32, 32), ResizeSpec(short_side=32))
    wanted = np.asarray(Resize(32, InterpolationMode.BILINEAR)(Image.fromarray(pixels[0])))
    np.testing.assert_array_equal(found, np.stack([wanted] * 3))


def test_what_cannot_be_cropped_is_refused() -> None:
    with pytest.raises(ValidationError, match="short_side 31 is less than a side of the shape"):
        spec("npz", paths={"test": "a.npz"}, resize={"short_side": 31})
    with pytest.raises(ValidationError, match="needs `crop: center`"):
        ResizeSpec(short_side=32, crop="none")


@pytest.mark.parametrize(
    ("size", "divided"), [((1030, 515), 2), ((511, 700), 1), ((1024, 1100), 4), ((2048, 2048), 8)]
)
def test_a_draft_is_decoded_at_a_part_of_its_size(size: tuple[int, int], divided: int) -> None:
    """What Pillow decodes at 1/2, 1/4 or 1/8, not smaller than the short side; then as always."""
    content = io.BytesIO()
    smooth = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC).save(content, "JPEG")
    image = Image.open(io.BytesIO(content.getvalue()))
    image.draft(None, (size[0] // divided, size[1] // divided))
    assert min(image.size) >= 256
    assert divided == 1 or image.size[0] < size[0]
    transform = Compose([Resize(256, InterpolationMode.BILINEAR), CenterCrop(224)])
    wanted = np.asarray(transform(image.convert("RGB"))).transpose(2, 0, 1)
    found, exact = (
        decode_image(content.getvalue(), (3, 224, 224), ResizeSpec(short_side=256, draft=draft))[0]
        for draft in (True, False)
    )
    np.testing.assert_array_equal(found, wanted)
    assert np.array_equal(found, exact) == (divided == 1)
    assert np.abs(found.astype(int) - exact).mean() < 3


def test_a_draft_that_is_cropped_in_one_step() -> None:
    content = io.BytesIO()
    Image.new("RGB", (500, 300), (10, 200, 30)).save(content, "JPEG")
    for crop in ("center", "none"):
        how = ResizeSpec(crop=crop, draft=True)  # type: ignore[arg-type]
        found, _ = decode_image(content.getvalue(), (3, 64, 64), how)
        assert np.abs(found.astype(int) - np.array([10, 200, 30])[:, None, None]).max() <= 3


def test_an_image_that_is_too_narrow_to_be_resized() -> None:
    """A thousand bytes would become 15 GB."""
    content = io.BytesIO()
    Image.new("L", (100_000, 1)).save(content, "PNG")
    with pytest.raises(CorruptImageError, match="it is 1x100000, and 224x22400000 after"):
        decode_image(content.getvalue(), (3, 224, 224), ResizeSpec(short_side=224))
    found, _ = decode_image(content.getvalue(), (3, 8, 8), ResizeSpec(short_side=8))
    assert found.shape == (3, 8, 8)
    header = b"P5 1 2000000 255\n"
    with pytest.raises(CorruptImageError, match="it is 2000000x1: that is no image"):
        decode_image(header, (3, 8, 8), ResizeSpec())
