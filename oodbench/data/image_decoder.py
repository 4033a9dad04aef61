"""Decoding an image to pixels of the manifest's shape.

Colors are converted to RGB or gray (ITU-R 601), and EXIF orientation is ignored, as in the loaders
that published results used. Conversion drops transparency and CMYK, which is reported. Images with
more than 8 bits per channel are refused.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodbench.specs import ResizeSpec

Shape = tuple[int, int, int]
"""Channels, height, width."""

Content = bytes | NDArray[np.uint8]
"""An encoded image, or pixels of shape [C, H, W]."""

SUFFIXES = frozenset(
    "bmp gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905
)
"""Suffixes of image files, in lower case."""

LARGEST_FILE = 1 << 30
"""Maximum size in bytes of an encoded image."""

_MOST_PIXELS = 2 * 89_478_485
"""Maximum number of pixels of an image after resizing; Pillow's limit for images in files."""

_LONGEST_SIDE = 1 << 20

_MODES = {1: "L", 3: "RGB"}
_DEEP_MODES = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits; conversion would clip their values."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class CorruptImageError(Exception):
    """An image cannot be decoded; the message is the reason."""


class WrongShapeError(Exception):
    """An image has not the manifest's size, and the manifest has no `resize`."""


def read_encoded(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        OSError: it cannot be read, has more than a gigabyte, or is a pipe or a device, reading
            which might never end.
        ValueError: the path has an invalid character.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is not a file")
    if about.st_size > LARGEST_FILE:
        raise OSError("the file has more than a gigabyte")
    return path.read_bytes()


def decode_image(
    content: Content, shape: Shape, resize: ResizeSpec | None
) -> tuple[NDArray[np.uint8], str]:
    """Decode an image.

    Args:
        content: an encoded image, or pixels of shape [C, H, W] with 1 or 3 channels, uint8.
        shape: channels (1: gray, 3: RGB), height, width of the result.
        resize: how images of other sizes are resized; None: they are refused.

    Returns:
        Pixels of shape `shape`, uint8; and "transparency" or "CMYK" if conversion dropped it, or
        "".

    Raises:
        CorruptImageError: the image cannot be decoded, or is so long and narrow that resizing its
            short side gives more than 178 million pixels.
        WrongShapeError: it has another size, and `resize` is None.
    """
    channels, height, width = shape
    unchanged = resize is None or resize.short_side in (None, min(height, width))
    if unchanged and not isinstance(content, bytes) and content.shape == shape:
        return np.ascontiguousarray(content), ""
    least = None
    if resize is not None and resize.draft:
        side = resize.short_side
        least = (width, height) if side is None else (side, side)
    image, lost = _decoded(content, _MODES[channels], least)
    if resize is not None:
        image = resized(image, (width, height), resize)
    elif image.size != (width, height):
        raise WrongShapeError(f"{image.height}x{image.width}")
    pixels = np.asarray(image).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), lost


def resized(image: Image.Image, size: tuple[int, int], how: ResizeSpec) -> Image.Image:
    """Crop and resize an image, with at most one resampling step.

    Args:
        image: mode L or RGB.
        size: width, height.
        how: the filter, and whether to resize the short side and crop the center, to crop the
            largest centered part with the aspect ratio of `size`, or to ignore the aspect ratio.
    """
    if how.short_side is not None:
        return _center(_with_short_side(image, how.short_side, _FILTERS[how.filter]), size)
    left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
    if how.crop == "center":
        scale = min(image.width / size[0], image.height / size[1])
        # min: rounding may make the box larger than the image, which Pillow refuses.
        box_width, box_height = (
            min(scale * wanted, have) for wanted, have in zip(size, image.size, strict=True)
        )
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        right, bottom = min(left + box_width, right), min(top + box_height, bottom)
    return image.resize(size, _FILTERS[how.filter], box=(left, top, right, bottom))


def _with_short_side(image: Image.Image, length: int, resampling: Image.Resampling) -> Image.Image:
    """The image resized; the long side is rounded down, as in torchvision's `Resize(int)`."""
    width, height = image.size
    if width <= height:
        size = length, int(length * height / width)
    else:
        size = int(length * width / height), length
    if size[0] * size[1] > _MOST_PIXELS:
        raise CorruptImageError(
            f"it is {height}x{width}, and {size[1]}x{size[0]} after its short side is resized"
        )
    return image if size == image.size else image.resize(size, resampling)


def _center(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The central part, with the offset rounded half to even, as in torchvision's `CenterCrop`."""
    left, top = (round((have - wanted) / 2) for have, wanted in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _decoded(content: Content, mode: str, least: tuple[int, int] | None) -> tuple[Image.Image, str]:
    """The image converted to a mode, and what conversion dropped.

    Args:
        content: the image.
        mode: "L" or "RGB".
        least: a smaller image that has this width and height at least will do, if that is faster.
    """
    if not isinstance(content, bytes):
        return _from_array(content).convert(mode), ""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if _is_deep(image):
                raise CorruptImageError(
                    f"it has more than 8 bits per channel (mode {image.mode}); convert it to 8"
                )
            if max(image.size) > _LONGEST_SIDE:  # Pillow takes a pointer of memory for each row
                raise CorruptImageError(f"it is {image.height}x{image.width}: that is no image")
            if least is not None:
                image.draft(None, least)  # has an effect for JPEG files alone
            return image.convert(mode), _lost(image)
    except (MemoryError, CorruptImageError):
        raise
    # For damaged files, decoders raise many types: OSError, SyntaxError, struct.error, zlib.error,
    # KeyError, OverflowError, DecompressionBombError.
    except Exception as error:
        raise CorruptImageError(_reason(error)) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether an opened image, not loaded yet, has more than 8 bits per channel.

    Pillow has modes for such images with one channel. For others it drops the lower bits; only the
    decoder's arguments show them: "RGB;16B", or the maximum value of a PPM file.
    """
    if image.mode.startswith(_DEEP_MODES):
        return True
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    parts = [part for each in arguments for part in (each if isinstance(each, tuple) else (each,))]
    deep = any(isinstance(part, str) and ";16" in part for part in parts)
    return deep or (
        image.format == "PPM" and any(isinstance(part, int) and part > 255 for part in parts)
    )


def _lost(image: Image.Image) -> str:
    """What conversion to RGB or gray drops from a loaded image."""
    if image.mode == "CMYK":
        return "CMYK"
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        return "transparency" if alpha.getextrema()[0] < 255 else ""  # type: ignore[operator]
    return ""


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    """An image of pixels with shape [C, H, W], where C is 1 or 3."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is not an image of a known format"
    return str(error).rstrip(".") or type(error).__name__
