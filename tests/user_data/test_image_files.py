"""Image files of a user: what is found where, pixels, and what is reported instead of raised."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.data.image_decoder import decode_image
from oodbench.errors import UserError
from oodbench.specs import ResizeSpec
from oodbench.user_data.image_files import ImageFile, ImageStream, find_images

SHAPE, RESIZE = (3, 8, 8), ResizeSpec(short_side=10)
RANDOM = np.random.default_rng(0)


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (13, 11), **save: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = 4 if mode == "RGBA" else 3
    pixels = RANDOM.integers(0, 256, (*size[::-1], channels), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **save)  # type: ignore[arg-type]
    return path


def stream(
    files: list[Path], workers: int = 0, batch_size: int = 4
) -> tuple[ImageStream, list[tuple[str, str]]]:
    problems: list[tuple[str, str]] = []
    made = ImageStream(
        [ImageFile(str(path)) for path in files],
        SHAPE,
        RESIZE,
        batch_size=batch_size,
        workers=workers,
        report=lambda file, reason: problems.append((Path(file.path).name, reason)),
    )
    return made, problems


# --- what is found ---------------------------------------------------------------------------


def test_a_folder_is_sorted_by_path(tmp_path: Path) -> None:
    names = ["a/x.png", "a-b/y.png", "a.png", "b/c/z.JPG", "b/A.jpeg"]
    for name in [*names, "b/.hidden.png", ".git/w.png"]:
        write(tmp_path / name)
    (tmp_path / "b/notes.md").write_text("not an image")
    (tmp_path / "b/readme").write_text("not an image")
    (tmp_path / "b/above").symlink_to(tmp_path)
    found = find_images([tmp_path])
    shown = [Path(file.path).relative_to(tmp_path).as_posix() for file in found.files]
    assert shown == sorted(names)
    assert [file.label for file in found.files] == ["a-b", "", "a", "b", "b"]
    assert found.note == "2 files without the suffix of an image left out (.md, none)."


def test_files_folders_and_lists_in_the_order_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [write(tmp_path / f"{name}/{name}.png") for name in "abc"]
    listing = tmp_path / "b/images.txt"
    listing.write_text("# comment\n\n../c/c.png\tship\r\nno such.png\n", encoding="utf-8-sig")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images[0]}\n"))
    found = find_images([images[2], tmp_path / "a", listing, "-"])
    assert [Path(file.path).name for file in found.files] == [
        *("c.png", "a.png", "c.png", "no such.png", "a.png")
    ]
    assert [file.label for file in found.files] == ["", "", "ship", "", ""]
    assert found.note == ""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("absent", "There is no file or folder"),
        ("empty", "There is no image in"),
        ("text", "1 file without the suffix of an image left out (.md)"),
        ("latin.txt", "must be UTF-8"),
    ],
)
def test_places_without_images(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.md").write_text("x")
    (tmp_path / "latin.txt").write_bytes(b"\xe9.png\n")
    with pytest.raises(UserError) as error:
        find_images([tmp_path / place])
    assert said in str(error.value)
    assert place in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    found = find_images([tmp_path])
    closed.chmod(0o700)
    assert found.unreadable == ((str(closed), "Permission denied"),)


# --- pixels ----------------------------------------------------------------------------------


def test_pixels_are_those_of_the_reference(tmp_path: Path) -> None:
    """All modes, in order, with and without workers, in batches of the given size."""
    modes = {"rgb.jpg": "RGB", "gray.png": "L", "palette.png": "P", "bits.png": "1"}
    modes |= {"alpha.png": "RGBA", "cmyk.jpg": "CMYK", "animated.gif": "P", "web.webp": "RGB"}
    files = [write(tmp_path / name, mode) for name, mode in modes.items()]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    files.append(write(tmp_path / "rotated.jpg", exif=exif))
    wanted = [decode_image(path.read_bytes(), SHAPE, RESIZE)[0] for path in files]
    for workers in (0, 2):
        images, problems = stream(files, workers)
        batches = [batch for batch, _ in images.batches()]
        assert [len(batch) for batch in batches] == [4, 4, 1]
        np.testing.assert_array_equal(torch.cat(batches).numpy(), np.stack(wanted))
        assert images.read == list(range(len(files)))
        assert images.lost == {"transparency": 1, "CMYK": 1}
        assert problems == []
    np.testing.assert_array_equal(images.first()[0].numpy(), np.stack(wanted[:4]))


def test_what_cannot_be_read_is_reported_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [write(tmp_path / f"good{number}.png") for number in range(3)]
    whole = good[0].read_bytes()
    broken = {
        "truncated.png": whole[: len(whole) // 2],
        "text.png": b"not an image",
        "empty.png": b"",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    deep = Image.fromarray(RANDOM.integers(0, 65536, (9, 9), np.uint16))
    deep.save(tmp_path / "deep.png")
    Image.new("1", (400, 400)).save(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = [*broken, "deep.png", "bomb.png", "pipe.png", "absent.png", "nul\0.png"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("oodbench.data.image_decoder.LARGEST_FILE", len(whole) + 1000)
    (tmp_path / "huge.png").write_bytes(whole + bytes(1001))
    files = [good[0], *(tmp_path / name for name in names), good[1], tmp_path / "huge.png", good[2]]
    images, problems = stream(files, workers=1, batch_size=2)
    assert sum(len(batch) for batch, _ in images.batches()) == 3
    assert [files[index] for index in images.read] == good
    said = dict(problems)
    assert list(said) == [*names, "huge.png"]
    assert "truncated" in said["truncated.png"]
    assert "not an image" in said["text.png"]
    assert "empty" in said["empty.png"]
    assert "more than 8 bits" in said["deep.png"]
    assert "exceeds limit" in said["bomb.png"]
    assert "not a file" in said["pipe.png"]
    assert "No such file" in said["absent.png"]
    assert "null" in said["nul\0.png"]
    assert "gigabyte" in said["huge.png"]


def test_without_resizing_other_sizes_are_skipped(tmp_path: Path) -> None:
    files = [ImageFile(str(write(tmp_path / f"{side}.png", size=(side, side)))) for side in (8, 9)]
    said: list[str] = []
    images = ImageStream(
        files, SHAPE, None, batch_size=2, workers=0, report=lambda file, why: said.append(why)
    )
    assert [len(batch) for batch, _ in images.batches()] == [1]
    assert said == ["it is 9x9, and the detector takes 8x8 and resizes no images"]
