"""Rendered letters, processed as the UCI digits were: near out-of-distribution data for them.

The aim is that a letter differs from a digit in its shape and in little else: each letter is
stretched to the box that digits fill, its strokes are thickened until its ink is that of a digit,
and the 32x32 bitmap is reduced to 8x8 by counting the set pixels of 4x4 blocks (`digits.py`).
"""

from __future__ import annotations

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
# The letter is drawn this large (in pixels) before it is turned, cropped and shrunk.
_FONT_SIZE = 64

# Size and place of a letter in the bitmap, in pixels, before its strokes are thickened (by one to
# two pixels on each side). Digits were normalized the same way: all fill the eight rows, and most
# (77%) exactly six of the eight columns.
_WIDTHS = (17, 22)
_HEIGHTS = (29, 31)
_SHIFTS = (-1, 1)
_MAX_ANGLE = 10.0
"""Degrees; uniform on both sides."""

# Mean and standard deviation, over the 1,797 digits, of an image's mean intensity, which is the
# share of set pixels in its bitmap.
_INK_MEAN, _INK_STD = 0.305, 0.034
_BLUR_RADIUS = 1.5


def rendered_letters(
    split: SplitName, *, letters: Letters, counts: Counts, seed: NonNegativeInt
) -> ImageArray:
    """Latin letters in the TrueType font that Pillow ships, as 8x8 images like the UCI digits.

    Letters take turns (image i shows letter i modulo their number); width, height, position, angle
    and stroke thickness are random.

    Args:
        split: "validation" or "test"; each has its own random stream.
        letters: the letters to draw, each once.
        counts: number of images of each split.
        seed: seed of the random streams.

    Returns:
        Images of shape [N, 1, 8, 8], float32, multiples of 1/16 in [0, 1]; no labels.

    Raises:
        UserError: Pillow was built without FreeType, a letter is repeated, or `counts` does not
            name the split.
    """
    if len(set(letters)) < len(letters):
        raise UserError(f"option 'letters' repeats a letter: '{letters}'", "Name each letter once.")
    count = count_for(counts, split)
    rng = split_generator(seed, "rendered_letters", split)
    font = _default_font()
    upright = [_draw(letter, font) for letter in letters]
    images = np.empty((count, 1, _BITMAP // _BLOCK, _BITMAP // _BLOCK), dtype=np.float32)
    for i in range(count):
        images[i, 0] = block_counts(_bitmap(upright[i % len(upright)], rng)) / DIGIT_LEVELS
    return ImageArray(images)


def block_counts(bitmap: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Set pixels in each 4x4 block: the reduction that made the UCI digits.

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
    """Aileron Regular, the font that Pillow carries within it."""
    from PIL import ImageFont, features

    font = ImageFont.load_default(_FONT_SIZE) if features.check("freetype2") else None
    # Without FreeType, Pillow has only a bitmap font of one size, which is not what is described.
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError(
            "this Pillow was built without FreeType, so letters cannot be drawn",
            "Install Pillow from its wheels: pip install --force-reinstall pillow.",
        )
    return font


def _draw(letter: str, font: FreeTypeFont) -> Image:
    """The letter upright, white on black, with room around it to be turned."""
    from PIL import Image, ImageDraw

    side = 2 * _FONT_SIZE
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).text((side / 2, side / 2), letter, fill=255, font=font, anchor="mm")
    return canvas


def _bitmap(upright: Image, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One random variation of a letter, shape [32, 32], true where there is ink."""
    from PIL import Image, ImageFilter

    turned = upright.rotate(rng.uniform(-_MAX_ANGLE, _MAX_ANGLE), Image.Resampling.BILINEAR)
    width = int(rng.integers(*_WIDTHS, endpoint=True))
    height = int(rng.integers(*_HEIGHTS, endpoint=True))
    glyph = turned.crop(turned.getbbox()).resize((width, height), Image.Resampling.BOX)
    canvas = Image.new("L", (_BITMAP, _BITMAP))
    left = (_BITMAP - width) // 2 + int(rng.integers(*_SHIFTS, endpoint=True))
    canvas.paste(glyph, (left, (_BITMAP - height) // 2))

    # Stroke thickness: the level set of the blurred letter that encloses the wanted ink. A low
    # level lies outside the outline and thickens the strokes, a high one thins them.
    blurred = np.asarray(canvas.filter(ImageFilter.GaussianBlur(_BLUR_RADIUS)))
    ink = round(blurred.size * rng.normal(_INK_MEAN, _INK_STD))
    level = np.sort(blurred, axis=None)[-ink]
    bitmap: NDArray[np.bool_] = blurred >= max(level, 1)
    return bitmap
