"""Rendered letters, processed as the UCI digits were: near out-of-distribution data for them.

Letters are meant to differ from digits in their shape and in little else: each letter is stretched
to the box of the digits, its strokes are thickened until it has as much ink as a digit, and the
32x32 bitmap is reduced to 8x8 by counting the set pixels of 4x4 blocks (`digits.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from oodbench.data.builtin.digits import DIGIT_LEVELS
from oodbench.data.builtin.random_images import Counts, count_for, split_generator
from oodbench.data.image_array import ImageArray
from oodbench.errors import UserError
from oodbench.specs import SplitName

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Letters = Annotated[str, Field(pattern=r"^[A-Za-z]+$")]

_BITMAP = 32
_BLOCK = 4
# Size in pixels at which a letter is drawn before it is rotated, cropped and reduced.
_FONT_SIZE = 64

# Size and shift of a letter in the bitmap, in pixels, before its strokes are thickened (by one to
# two pixels on each side). The digits were normalized the same way: all fill the eight rows, and
# most (77%) fill exactly six of the eight columns.
_WIDTHS = (17, 22)
_HEIGHTS = (29, 31)
_SHIFTS = (-1, 1)
_MAX_ANGLE = 10.0
"""Maximum rotation in degrees; the angle is uniform."""

# Mean and standard deviation of the ink of the 1,797 digits: the fraction of set pixels in the
# bitmap, which is the mean intensity of the image.
_INK_MEAN, _INK_STD = 0.305, 0.034
_BLUR_RADIUS = 1.5


def rendered_letters(
    split: SplitName, *, letters: Letters, counts: Counts, seed: NonNegativeInt
) -> ImageArray:
    """Latin letters in the TrueType font that Pillow ships, as 8x8 images like the UCI digits.

    Image i shows letter i modulo the number of letters; width, height, position, angle and stroke
    thickness are random.

    Args:
        split: "validation" or "test"; each has its own random generator.
        letters: the letters to draw, each once.
        counts: number of images of each split.
        seed: seed of the random generators.

    Returns:
        Images of shape [N, 1, 8, 8], float32, multiples of 1/16 in [0, 1]; no labels.

    Raises:
        UserError: Pillow was built without FreeType, a letter is repeated, or `counts` has no
            entry for the split.
    """
    if len(set(letters)) < len(letters):
        raise UserError(f"option 'letters' repeats a letter: '{letters}'", "Name each letter once.")
    _default_font()  # an error without it, also where the letters are drawn already
    return ImageArray(_rendered(split, letters, count_for(counts, split), seed).copy())


@lru_cache(maxsize=4)  # runs in one process draw the same letters
def _rendered(split: SplitName, letters: str, count: int, seed: int) -> NDArray[np.float32]:
    """The images; do not change them."""
    rng = split_generator(seed, "rendered_letters", split)
    font = _default_font()
    upright = [_draw(letter, font) for letter in letters]
    images = np.empty((count, 1, _BITMAP // _BLOCK, _BITMAP // _BLOCK), dtype=np.float32)
    for i in range(count):
        images[i, 0] = block_counts(_bitmap(upright[i % len(upright)], rng)) / DIGIT_LEVELS
    return images


def block_counts(bitmap: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of set pixels in each 4x4 block: the reduction of the UCI digits.

    Args:
        bitmap: shape [H, W], both multiples of 4.

    Returns:
        Counts 0..16, shape [H / 4, W / 4].
    """
    height, width = bitmap.shape
    blocks = bitmap.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    counts: NDArray[np.int64] = blocks.sum(axis=(1, 3), dtype=np.int64)
    return counts


def _default_font() -> FreeTypeFont:
    """Aileron Regular, the font that Pillow ships."""
    from PIL import ImageFont, features

    font = ImageFont.load_default(_FONT_SIZE) if features.check("freetype2") else None
    # Without FreeType, Pillow has only a bitmap font of one size.
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError(
            "this Pillow was built without FreeType, so letters cannot be drawn",
            "Install Pillow from its wheels: pip install --force-reinstall pillow.",
        )
    return font


def _draw(letter: str, font: FreeTypeFont) -> Image:
    """The upright letter, white on black, with enough space around it for rotation."""
    from PIL import Image, ImageDraw

    side = 2 * _FONT_SIZE
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).text((side / 2, side / 2), letter, fill=255, font=font, anchor="mm")
    return canvas


def _bitmap(upright: Image, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random variation of a letter, shape [32, 32]; true means ink."""
    from PIL import Image, ImageFilter

    turned = upright.rotate(rng.uniform(-_MAX_ANGLE, _MAX_ANGLE), Image.Resampling.BILINEAR)
    width = int(rng.integers(*_WIDTHS, endpoint=True))
    height = int(rng.integers(*_HEIGHTS, endpoint=True))
    glyph = turned.crop(turned.getbbox()).resize((width, height), Image.Resampling.BOX)
    canvas = Image.new("L", (_BITMAP, _BITMAP))
    left = (_BITMAP - width) // 2 + int(rng.integers(*_SHIFTS, endpoint=True))
    canvas.paste(glyph, (left, (_BITMAP - height) // 2))

    # Thresholding the blurred letter changes the thickness of its strokes: a low level thickens
    # them, a high level thins them. The level is chosen to get the wanted ink.
    blurred = np.asarray(canvas.filter(ImageFilter.GaussianBlur(_BLUR_RADIUS)))
    ink = round(blurred.size * rng.normal(_INK_MEAN, _INK_STD))
    level = np.sort(blurred, axis=None)[-ink]
    bitmap: NDArray[np.bool_] = blurred >= max(level, 1)
    return bitmap
