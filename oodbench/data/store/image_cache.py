"""The cache of decoded images: every image is decoded once and memory-mapped from then on.

`<cache>/decoded/<name>-<address>/` contains, for each split, `<split>.npy` ([N, C, H, W], uint8)
and, with classes, `<split>-labels.npy` (int64); `decoded.json` with the fingerprints; and, if the
user provides the files, `sources.sha256` with the checksum of every file. The address is a digest
of everything that the pixels depend on: after a change, images are decoded to another folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.array_checks import check_count, check_labels, mismatch, require_pixels
from oodbench.data.image_array import ImageArray
from oodbench.data.image_decoder import CorruptImageError, WrongShapeError, decode_image
from oodbench.data.image_selection import Indices, split_parts
from oodbench.data.store.checksummed_json import (
    DamagedRecordError,
    read_checksummed,
    write_checksummed,
)
from oodbench.data.store.disk import disk_errors, file_digest, new_folder
from oodbench.data.store.locations import decoded_root
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError, counted
from oodbench.files import canonical_json, digest
from oodbench.specs import DatasetSpec, SplitName

DECODER_VERSION = 2
"""Must be raised when a change of the code decodes the same files to other pixels."""

RECORD = "decoded.json"
CHECKSUMS = "sources.sha256"

_ENDS = {"n": "\n", "r": "\r"}
"""Escape letter -> character that ends a line."""

_BLOCK = 256
"""Number of images that a thread decodes at a time."""

_BLOCKS_AT_ONCE = 16
"""Maximum number of blocks in memory."""

_Image = tuple[int, NDArray[np.uint8] | None, str, str]
"""Index, pixels (None: cannot be decoded), SHA-256 of the file ("" if there is none), and what
conversion dropped (`oodbench.data.image_decoder.decode_image`)."""

_Block = list[_Image]


class DamagedCacheError(Exception):
    """A decoded data set differs from its record; the message says how."""


@dataclass(frozen=True)
class Decoded:
    """A decoded data set on disk.

    Attributes:
        folder: its folder in the cache.
        record: the content of its `decoded.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    def split(self, split: str) -> ImageArray:
        """The images of a split, memory-mapped.

        Raises:
            DamagedCacheError: its files are missing or have wrong sizes. Pixels are not checked:
                compare `ImageArray.fingerprint()` with `fingerprint`.
        """
        about = self.record["splits"][split]
        try:
            images = np.load(self.folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
            labels = None
            if about["labeled"]:
                labels = np.load(self.folder / f"{split}-labels.npy", allow_pickle=False)
            data = ImageArray(images, labels)
        except (OSError, ValueError) as error:
            raise DamagedCacheError(f"cannot read split '{split}' ({error})") from error
        if list(images.shape) != [about["count"], *self.record["shape"]]:
            raise DamagedCacheError(f"split '{split}' has images of shape {list(images.shape)}")
        return data

    def fingerprint(self, split: str) -> str:
        """The fingerprint of a split when it was decoded."""
        return str(self.record["splits"][split]["fingerprint"])

    def skipped(self, split: str) -> list[str]:
        """Names of the images that were skipped because they cannot be decoded."""
        return list(self.record["splits"][split]["skipped"])

    def lost(self, split: str) -> dict[str, int]:
        """What conversion dropped ("transparency", "CMYK") -> number of such images."""
        return dict(self.record["splits"][split]["lost"])


def decisive(spec: DatasetSpec) -> str:
    """Digest of all values of a manifest that the pixels depend on, 64 hexadecimal digits."""
    included = {
        *("name", "kind", "builder", "options", "paths", "resize", "corrupt_images"),
        *("shape", "num_classes", "splits", "split_from"),
    }
    content = spec.model_dump(mode="json", include=included)
    return digest(canonical_json([DECODER_VERSION, content]))


def decoded_folder(spec: DatasetSpec, identity: str) -> Path:
    """The folder of a decoded data set in the cache, which may not exist yet.

    Args:
        spec: the manifest.
        identity: digest of the files.
    """
    return decoded_root() / f"{spec.name}-{digest(decisive(spec), identity)[:16]}"


def content_name(folder: Path) -> str:
    """The name in records of the folder that images were decoded from."""
    return str(folder.resolve())


def folders_named(name: str) -> list[Path]:
    """All decoded data sets of a name, including those of other manifests and changed files."""
    pattern = re.compile(re.escape(name) + "-[0-9a-f]{16}")
    return sorted(path for path in decoded_root().glob("*") if pattern.fullmatch(path.name))


def open_decoded(folder: Path) -> Decoded | None:
    """Open a decoded data set; None if it does not exist.

    Raises:
        DamagedCacheError: its record is missing or has changed.
    """
    if not folder.is_dir():
        return None
    try:
        return Decoded(folder, read_checksummed(folder / RECORD))
    except DamagedRecordError as error:
        raise DamagedCacheError(str(error)) from error


def decode(
    spec: DatasetSpec,
    sources: Mapping[SplitName, StoredImages],
    folder: Path,
    identity: str,
    say: Callable[[str], None],
) -> Decoded:
    """Decode every split of a data set into the cache.

    Memory use does not depend on the number of images, unless they are stored in one array.

    Args:
        spec: the manifest.
        sources: the stored images of the splits that are not taken from other splits.
        folder: the folder that their paths are relative to.
        identity: digest of the files.
        say: called with progress messages.

    Raises:
        UserError: counts, classes or shapes differ from the manifest's (counts and classes are
            checked first); an image cannot be decoded, unless the manifest says
            `corrupt_images: skip`; or the disk is full.
    """
    if spec.shape[0] not in (1, 3):
        raise UserError(
            f"data set '{spec.name}': images of kind '{spec.kind}' have 1 channel (gray) or 3 "
            f"(RGB), not {spec.shape[0]}.",
            "Correct 'shape' in the manifest.",
        )
    parts = {source: split_parts(spec, source) for source in sources}
    for source, images in sources.items():
        _check_before(spec, images, parts[source])
    target = decoded_folder(spec, identity)
    with (
        disk_errors(target, "OODBENCH_CACHE"),
        new_folder(target) as temporary,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        splits: dict[str, Any] = {}
        checksums: list[str] = []
        total, done = sum(spec.splits.values()), 0
        for source, images in sources.items():
            for split, indices in parts[source].items():

                def progress(count: int, split: str = split, before: int = done) -> None:
                    say(
                        f"decoding {spec.name} ({split}): {before + count:,} of "
                        f"{counted(total, 'image')}"
                    )

                writer = _SplitWriter(spec, split, images, indices)
                splits[split] = writer.write(temporary, pool, progress)
                checksums += writer.checksums
                done += len(indices)
            others = set(images.files) - set(images.names)  # lists, archives of arrays
            checksums += [checksum_line(file_digest(folder / name), name) for name in others]
        if not spec.files:
            # Names that are not valid in the system's encoding contain surrogates.
            text = "".join(sorted(set(checksums), key=lambda line: line.lstrip("\\")[66:]))
            (temporary / CHECKSUMS).write_bytes(text.encode("utf-8", "surrogateescape"))
        record = {
            "schema_version": 1,
            "name": spec.name,
            "manifest": decisive(spec),
            "identity": identity,
            "content": content_name(folder),
            "pillow": _pillow_version(),
            "shape": list(spec.shape),
            "classes": list(next(iter(sources.values())).classes),
            "splits": splits,
            "files": {path.name: file_digest(path) for path in sorted(temporary.iterdir())},
        }
        write_checksummed(temporary / RECORD, record)
    decoded = open_decoded(target)
    assert decoded is not None  # it has just been renamed into place
    return decoded


def checksum_line(checksum: str, name: str) -> str:
    """A line in the format of sha256sum: 64 digits, two blanks, the name.

    If the name contains a backslash or a character that ends a line, it is escaped, and the line
    begins with a backslash.
    """
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == name else "\\"
    return f"{mark}{checksum}  {escaped}\n"


def read_checksums(content: bytes) -> dict[str, str]:
    """Name -> checksum, from lines in the format of `checksum_line`.

    Raises:
        UnicodeDecodeError: the content is not text.
    """
    found = {}
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        if line.startswith("\\"):
            name = re.sub(r"\\(.)", lambda part: _ENDS.get(part[1], part[1]), line[67:])
            found[name] = line[1:65]
        elif line:
            found[line[66:]] = line[:64]
    return found


def _check_before(
    spec: DatasetSpec, images: StoredImages, parts: Mapping[SplitName, Indices]
) -> None:
    """Checks against the manifest that need no decoded image."""
    total = sum(len(indices) for indices in parts.values())
    check_count(spec, " + ".join(parts), total, len(images))
    if images.labels is not None and len(images.labels) != len(images):
        raise mismatch(
            spec, " + ".join(parts), f"{total} images, so as many labels", f"{len(images.labels)}"
        )
    for split, indices in parts.items():
        check_labels(spec, split, None if images.labels is None else images.labels[indices])


class _SplitWriter:
    """Decodes one split and writes it in blocks of images."""

    def __init__(
        self, spec: DatasetSpec, split: SplitName, source: StoredImages, indices: Indices
    ) -> None:
        self._spec, self._split, self._source, self._indices = spec, split, source, indices
        self.checksums: list[str] = []

    def write(
        self, folder: Path, pool: ThreadPoolExecutor, progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """Write `<split>.npy` and `<split>-labels.npy`; return their entry in the record."""
        kept: list[int] = []
        skipped: list[str] = []
        lost: Counter[str] = Counter()
        path = folder / f"{self._split}.npy"
        # Not a writable memory map, which gives a signal instead of an error if the disk is full.
        with path.open("wb") as file:
            _write_header(file, (len(self._indices), *self._spec.shape))
            for block in self._decoded_blocks(pool):
                for index, pixels, checksum, loss in block:
                    name = self._source.names[index]
                    if checksum:
                        self.checksums.append(checksum_line(checksum, name))
                    if pixels is None:
                        skipped.append(name)
                    else:
                        kept.append(index)
                        lost.update([loss] if loss else [])
                        file.write(self._checked(pixels, index).data)
                progress(len(kept) + len(skipped))
            file.seek(0)
            _write_header(file, (len(kept), *self._spec.shape))
            file.flush()
            os.fsync(file.fileno())
        labels = None if self._source.labels is None else self._source.labels[kept]
        if labels is not None:
            np.save(folder / f"{self._split}-labels.npy", labels, allow_pickle=False)
            if skipped:
                check_labels(self._spec, self._split, labels)
        written = ImageArray(np.load(path, mmap_mode="r", allow_pickle=False), labels)
        return {
            "count": len(kept),
            "labeled": labels is not None,
            "fingerprint": written.fingerprint(),
            "skipped": skipped,
            "lost": dict(sorted(lost.items())),
        }

    def _checked(self, pixels: Any, index: int) -> NDArray[np.uint8]:
        """Check pixels of any reader before they are written.

        Raises:
            UserError: they are not uint8 of the manifest's shape.
        """
        require_pixels(pixels, self._where(index), self._spec.shape)
        return np.ascontiguousarray(pixels)

    def _decoded_blocks(self, pool: ThreadPoolExecutor) -> Iterator[_Block]:
        """Blocks in order; the number of blocks in memory is limited."""
        images = self._indices.tolist()
        blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
            yield from pool.map(self._decoded_block, blocks[start : start + _BLOCKS_AT_ONCE])

    def _decoded_block(self, indices: Sequence[int]) -> _Block:
        return [self._decoded(index) for index in indices]

    def _decoded(self, index: int) -> _Image:
        try:
            content = self._source.content(index)
        except OSError as error:  # of reading, not of writing the cache
            raise UserError(
                f"{self._where(index)} cannot be read: {error.strerror or error}.",
                "Make it readable, or remove it and correct the count in the manifest.",
            ) from error
        checksum = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
        if not isinstance(content, bytes):
            require_pixels(content, self._where(index), (1, "H", "W"), (3, "H", "W"))
        try:
            pixels, lost = decode_image(content, self._spec.shape, self._spec.resize)
            return index, pixels, checksum, lost
        except WrongShapeError as error:
            raise UserError(
                f"{self._where(index)} is {error}, the manifest says {_size(self._spec)}.",
                "Add 'resize' to the manifest to resize all images (`resize: {filter: bilinear, "
                "crop: center}`), or correct its 'shape'.",
            ) from error
        except CorruptImageError as error:
            if self._spec.corrupt_images == "skip":
                return index, None, checksum, ""
            raise UserError(
                f"{self._where(index)} cannot be decoded: {error}.",
                "Replace it, or skip such images: write 'corrupt_images: skip' into the manifest.",
            ) from error

    def _where(self, index: int) -> str:
        name = self._source.names[index]
        return f"data set '{self._spec.name}', split '{self._split}': image {name}"


def _size(spec: DatasetSpec) -> str:
    return "x".join(str(length) for length in spec.shape[1:])


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; NumPy reserves space for a larger first dimension."""
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def _pillow_version() -> str:
    import PIL

    return PIL.__version__
