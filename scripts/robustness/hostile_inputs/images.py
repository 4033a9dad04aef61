"""Image files: bombs, other formats than their suffixes, damaged ones, and what is no file."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from robustness.hostile_inputs.trial import Place, Trial, manifest

Words = list[str | Path]

GIGABYTE = 1 << 30


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG of these sizes, black, of whole lines as far as 200 MB go."""
    bits = depth * {0: 1, 2: 3, 3: 1, 6: 4}[color]
    line = 1 + (width * bits + 7) // 8
    packer, data = zlib.compressobj(1), b""
    left = line * min(height, max(1, (200 << 20) // line))
    while left > 0:
        data += packer.compress(bytes(min(left, 1 << 20)))
        left -= 1 << 20
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", data + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body + chunk(b"IEND", b"")


def saved(form: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, form, **options)
    return stream.getvalue()


def frames(form: str, count: int) -> bytes:
    """An animation."""
    images = [Image.fromarray(np.full((8, 8), index % 255, np.uint8)) for index in range(count)]
    stream = io.BytesIO()
    images[0].save(stream, form, save_all=True, append_images=images[1:])
    return stream.getvalue()


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF with a directory of tag, type, count and value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following)


def _tiff_sizes(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    return tiff(
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height)),
        *more,
    )


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 1, 1, 1, 1)
    start = struct.pack("<2sIHHI", b"BM", 58 + len(data), 0, 0, 58)
    return start + about + b"\0\0\0\0" + data


REFUSED: dict[str, Callable[[], bytes]] = {
    "PNG of 2**31 x 2**31": lambda: png((1 << 31) - 1, 1)[:40] + b"\0" * 100,
    "PNG of 50,000 x 50,000": lambda: png(50_000, 50_000, depth=1),
    "PNG of 65,000 x 2,900": lambda: png(65_000, 2_900),
    "PNG with a text of 100 MB": lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + _zeros(100 << 20))),
    "PNG with texts of 100 MB together": lambda: png(
        8, 8, *[chunk(b"zTXt", b"a\0\0" + _zeros(1 << 20))] * 100
    ),
    "PNG with a color profile of 100 MB": lambda: png(
        8, 8, chunk(b"iCCP", b"a\0\0" + _zeros(100 << 20))
    ),
    "PNG with a chunk longer than the file": lambda: png(8, 8)[:33] + struct.pack(">I", 1 << 31),
    "PNG of 16 bits": lambda: png(8, 8, depth=16),
    "PNG of 8 x 0": lambda: png(8, 1)[:20] + bytes(4) + png(8, 1)[24:],
    "PNG of 1 x 150,000,000": lambda: png(1, 150_000_000),
    "truncated JPEG": lambda: saved("JPEG", size=(99, 99))[:-300],
    "JPEG of 65,000 x 65,000": lambda: _sizes_of(saved("JPEG"), 65_000, 65_000),
    "JPEG, progressive, 65,000 x 2,900": lambda: _sizes_of(
        saved("JPEG", "L", progressive=True), 65_000, 2_900
    ),
    "text": lambda: b"these are no pixels",
    "a web page": lambda: b"<!doctype html><html><img src=x></html>",
    "an SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
    "a PostScript file": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n",
    "empty": lambda: b"",
    "GIF of 65,535 x 65,535": lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,"
    + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x08\x02\0\0\0;",
    "TIFF of 2**32 x 2**32": lambda: _tiff_sizes(0xFFFFFFFF, 0xFFFFFFFF),
    "TIFF of 65,000 x 65,000": lambda: _tiff_sizes(65_000, 65_000),
    "TIFF that is its own next image": lambda: tiff((256, 4, 1, 8), following=8),
    "TIFF with 60,000 tags": lambda: tiff(*[(index, 3, 1, 1) for index in range(60_000)]),
    "BMP of 2**31 x 2**31": lambda: bmp((1 << 31) - 1, (1 << 31) - 1, 0, b""),
    "BMP, compressed, 60,000 x 60,000": lambda: bmp(60_000, 60_000, 1, b"\0\1"),
    "BMP, compressed, without an end": lambda: bmp(10_000, 10_000, 1, b"\0\2\0\0" * 100),
    "PPM of 10**9 x 10**9": lambda: b"P6 1000000000 1000000000 255\n" + bytes(99),
    "PPM with a number of 100,000 digits": lambda: b"P6 " + b"9" * 100_000 + b" 8 255\n",
    "PPM with a comment of 2 MB": lambda: b"P6 #" + b"x" * (2 << 20),
    "PPM of 16 bits": lambda: b"P6 8 8 65535\n" + bytes(8 * 8 * 6),
    "PBM as text without an end": lambda: b"P1 8 8\n" + b"#" * 1_000_000,
    "WebP that says 16,383 x 16,383": lambda: b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X"
    + struct.pack("<II", 10, 0) + b"\xfe\x3f\x00\xfe\x3f\x00" + bytes(8),
    "ICO of 256 images": lambda: b"\0\0\1\0\xff\0" + bytes(16 * 255),
}  # fmt: skip
TAKEN: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: saved("JPEG", "CMYK"),
    "palette": lambda: saved("PNG", "P"),
    "palette with transparency": lambda: saved("GIF", "P", transparency=0),
    "transparency": lambda: saved("PNG", "RGBA"),
    "gray with transparency": lambda: saved("PNG", "LA"),
    "1 bit": lambda: saved("PNG", "1"),
    "lab": lambda: saved("TIFF", "LAB"),
    "GIF of 2,000 images": lambda: frames("GIF", 2000),
    "PNG of 500 images": lambda: frames("PNG", 500),
    "TIFF of 500 images": lambda: frames("TIFF", 500),
    "JPEG that is called PNG": lambda: saved("JPEG"),
    "EXIF of 64 kB that turns it": lambda: saved("JPEG", exif=_exif()),
    "1,000 segments of EXIF": lambda: _segments(saved("JPEG"), 1000),
    "50 MB behind its end": lambda: saved("PNG") + bytes(50 << 20),
    "PNG of 12,000 x 12,000": lambda: png(12_000, 12_000, depth=1),
    "TIFF whose tag says 4 billion values": lambda: _tiff_sizes(8, 8, (273, 4, 0xFFFFFFFF, 8)),
    "1 x 1": lambda: saved("PNG", size=(1, 1)),
    "1 x 10,000": lambda: saved("PNG", size=(1, 10_000)),
}
"""What is decoded, with or without a word about what is lost."""


def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


def _sizes_of(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that says to have other sizes."""
    place = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def _exif() -> bytes:
    entry = struct.pack("<HHII", 0x112, 3, 1, 6)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(60_000)


def _segments(jpeg: bytes, count: int) -> bytes:
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0" + bytes(59_994)
    return jpeg[:2] + segment * count + jpeg[2:]


def _damaged(form: str, number: int) -> bytes:
    """An image with bytes that were changed at random."""
    draw = random.Random(f"{form} {number}")
    data = bytearray(saved(form, "RGB", (40, 40)))
    for _ in range(draw.randint(1, 12)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _scored(make: Callable[[], bytes], place: Place) -> Words:
    """An image that a saved detector is to score."""
    return _score(place, place.file("images/x.png", make()))


def _score(place: Place, path: Path) -> Words:
    return ["score", place.shared / "artifact", path, "--workers", "0"]


def _decoded(make: Callable[[], bytes], place: Place) -> Words:
    """Ten images of a data set, one of which is hostile."""
    for index in range(9):
        place.file(f"data/toy/images/{index}.png", saved("PNG"))
    place.file("data/toy/images/x.png", make())
    return manifest(place, resize={"short_side": 8})


# --- what is no file -----------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _zero_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(50 * GIGABYTE)


OTHERS: dict[str, Callable[[Path], object]] = {
    "a pipe": _pipe,
    "a link to /dev/zero": _zero_device,
    "a link to itself": lambda path: path.symlink_to(path),
    "a file of 50 GB with holes": _sparse,
    "a link to a secret": lambda path: path.symlink_to("/etc/passwd"),
}


def _other_scored(make: Callable[[Path], object], place: Place) -> Words:
    make(place.file("images/fine.png", saved("PNG")).with_name("x.png"))
    return _score(place, place.folder / "images")


def _other_decoded(make: Callable[[Path], object], place: Place) -> Words:
    words = _decoded(lambda: b"", place)
    path = place.folder / "data" / "toy" / "images" / "x.png"
    path.unlink()
    make(path)
    return words


def trials() -> list[Trial]:
    """All of them."""
    bound = 1200 << 20  # an image of 178 million pixels, which Pillow decodes, and its copies
    damaged = {
        f"{form}, damaged at random, {number}": partial(_damaged, form, number)
        for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
        for number in range(3)
    }
    inputs: list[tuple[dict[str, Callable[[], bytes]], tuple[int, ...], tuple[int, ...]]] = [
        (REFUSED, (2, 3), (2,)),
        (TAKEN, (0, 3), (0,)),  # the detector takes 8x8 and resizes no images
        (damaged, (0, 2, 3), (0, 2)),
    ]
    found = []
    for makes, scored, decoded in inputs:
        for name, make in makes.items():
            found += [
                Trial("image", f"{name} (score)", partial(_scored, make), scored, bound),
                Trial("image", f"{name} (data set)", partial(_decoded, make), decoded, bound),
            ]
    for name, write in OTHERS.items():
        found += [
            Trial("image", f"{name} (score)", partial(_other_scored, write), (2, 3)),
            Trial("image", f"{name} (data set)", partial(_other_decoded, write)),
        ]
    return found
