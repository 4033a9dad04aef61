"""The cache of decoded images: every image is decoded once and memory-mapped from then on.

`<cache>/decoded/<name>-<split>-<address>/` has `<split>.npy` ([N, C, H, W], uint8) and, with
classes, `<split>-labels.npy` (int64); `decoded.json` with the fingerprint; and, if the user
provides the files, `sources.sha256` with the checksum of every file. The address is a digest of
everything that the pixels depend on: after a change, images are decoded to another folder. A split
is decoded when it is needed: testing does not decode training images.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from oodbench.data.array_checks import check_count, check_labels, mismatch
from oodbench.data.image_array import ImageArray
from oodbench.data.image_selection import Indices, split_parts
from oodbench.data.split_decoder import DecodedImage, SplitDecoder
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

DECODER_VERSION = 3
"""Must be raised when a change of the code decodes the same files to other pixels."""

RECORD = "decoded.json"
CHECKSUMS = "sources.sha256"

_ENDS = {"n": "\n", "r": "\r"}
"""Escape letter -> character that ends a line."""

_BLOCK = 256
"""Number of images that a thread decodes at a time."""

_BLOCKS_AT_ONCE = 16
"""Maximum number of blocks in memory."""


class DamagedCacheError(Exception):
    """A decoded split differs from its record; the message says how."""


@dataclass(frozen=True)
class Decoded:
    """A decoded split on disk.

    Attributes:
        folder: its folder in the cache.
        record: the content of its `decoded.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    def images(self) -> ImageArray:
        """The images, memory-mapped.

        Raises:
            DamagedCacheError: its files are missing or have wrong sizes. Pixels are not checked:
                compare `ImageArray.fingerprint()` with `fingerprint`.
        """
        split = self.record["split"]
        try:
            images = np.load(self.folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
            labels = None
            if self.record["labeled"]:
                labels = np.load(self.folder / f"{split}-labels.npy", allow_pickle=False)
            data = ImageArray(images, labels)
        except Exception as error:  # numpy raises many types of errors for damaged headers
            raise DamagedCacheError(f"cannot read split '{split}' ({error})") from error
        if list(images.shape) != [self.count, *self.record["shape"]]:
            raise DamagedCacheError(f"split '{split}' has images of shape {list(images.shape)}")
        return data

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.record["count"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the images when they were decoded."""
        return str(self.record["fingerprint"])

    @property
    def skipped(self) -> list[str]:
        """Names of the images that were skipped because they cannot be decoded."""
        return list(self.record["skipped"])

    @property
    def lost(self) -> dict[str, int]:
        """What conversion dropped ("transparency", "CMYK") -> number of such images."""
        return dict(self.record["lost"])


def origin_of(spec: DatasetSpec, split: SplitName) -> SplitName:
    """The split that is read from the files: `split`, or the one that it is taken from."""
    return spec.split_from.get(split, split)


def decisive(spec: DatasetSpec, split: SplitName) -> str:
    """Digest of all values of a manifest that the pixels of a split depend on, 64 hex digits."""
    included = {
        *("name", "kind", "builder", "options", "resize", "corrupt_images"),
        *("shape", "num_classes"),
    }
    origin = origin_of(spec, split)
    content = spec.model_dump(mode="json", include=included)
    # Splits that are taken from the same images share them out.
    counts = {name: count for name, count in spec.splits.items() if origin_of(spec, name) == origin}
    content |= {"split": split, "origin": origin, "path": spec.paths.get(origin), "splits": counts}
    return digest(canonical_json([DECODER_VERSION, content]))


def decoded_folder(spec: DatasetSpec, split: SplitName, identity: str) -> Path:
    """The folder of a decoded split in the cache, which may not exist yet.

    Args:
        spec: the manifest.
        split: the split.
        identity: digest of the files.
    """
    address = digest(decisive(spec, split), identity)[:16]
    return decoded_root() / f"{spec.name}-{split}-{address}"


def content_name(folder: Path) -> str:
    """The name in records of the folder that images were decoded from."""
    return str(folder.resolve())


def folders_named(name: str) -> list[Path]:
    """All decoded splits of a data set, including those of other manifests and changed files."""
    pattern = re.compile(rf"{re.escape(name)}-({'|'.join(get_args(SplitName))})-[0-9a-f]{{16}}")
    return sorted(path for path in decoded_root().glob("*") if pattern.fullmatch(path.name))


def open_decoded(folder: Path) -> Decoded | None:
    """Open a decoded split; None if it does not exist.

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
    decoder: SplitDecoder,
    folder: Path,
    identity: str,
    say: Callable[[str], None],
) -> Decoded:
    """Decode a split into the cache.

    Memory use does not depend on the number of images, unless they are stored in one array.

    Args:
        decoder: names the manifest, the split and its stored images.
        folder: the folder that their paths are relative to.
        identity: digest of the files.
        say: called with progress messages.

    Raises:
        UserError: counts, classes or shapes differ from the manifest's (counts and classes are
            checked first); an image cannot be decoded, unless the manifest says
            `corrupt_images: skip`; or the disk is full.
    """
    spec, split, source = decoder.spec, decoder.split, decoder.source
    indices = checked_indices(spec, split, source)
    target = decoded_folder(spec, split, identity)
    with (
        disk_errors(target, "OODBENCH_CACHE"),
        new_folder(target) as temporary,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        whole = counted(len(indices), "image")
        writer = _SplitWriter(decoder, indices)
        about = writer.write(
            temporary,
            pool,
            lambda count: say(f"decoding {spec.name} ({split}): {count:,} of {whole}"),
        )
        if not spec.files:
            others = set(source.files) - set(source.names)  # lists, archives of arrays
            lines = {checksum_line(file_digest(folder / name), name) for name in others}
            lines.update(writer.checksums)
            text = "".join(sorted(lines, key=lambda line: line.lstrip("\\")[66:]))
            # Names that are not valid in the system's encoding contain surrogates.
            (temporary / CHECKSUMS).write_bytes(text.encode("utf-8", "surrogateescape"))
        record = {
            "schema_version": 2,
            "name": spec.name,
            "split": split,
            "manifest": decisive(spec, split),
            "identity": identity,
            "content": content_name(folder),
            "pillow": _pillow_version(),
            "shape": list(spec.shape),
            "classes": list(source.classes),
            **about,
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


def checked_indices(spec: DatasetSpec, split: SplitName, source: StoredImages) -> Indices:
    """The images of a split among those that are stored; checked as far as possible undecoded.

    Raises:
        UserError: the number of stored images or the classes differ from the manifest's.
    """
    if spec.shape[0] not in (1, 3):
        raise UserError(
            f"data set '{spec.name}': images of kind '{spec.kind}' have 1 channel (gray) or 3 "
            f"(RGB), not {spec.shape[0]}.",
            "Correct 'shape' in the manifest.",
        )
    parts = split_parts(spec, origin_of(spec, split), len(source))
    total, together = sum(len(indices) for indices in parts.values()), " + ".join(parts)
    check_count(spec, together, total, len(source))
    if source.labels is not None and len(source.labels) != len(source):
        raise mismatch(
            spec, together, f"{total} images, so as many labels", f"{len(source.labels)}"
        )
    indices = parts[split]
    check_labels(spec, split, None if source.labels is None else source.labels[indices])
    return indices


class _SplitWriter:
    """Decodes one split and writes it in blocks of images."""

    def __init__(self, decoder: SplitDecoder, indices: Indices) -> None:
        self._decoder, self._indices = decoder, indices
        self.checksums: list[str] = []

    def write(
        self, folder: Path, pool: ThreadPoolExecutor, progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """Write `<split>.npy` and `<split>-labels.npy`; return their entries in the record."""
        spec, split, source = self._decoder.spec, self._decoder.split, self._decoder.source
        files = frozenset(source.files)
        kept: list[int] = []
        skipped: list[str] = []
        lost: Counter[str] = Counter()
        path = folder / f"{split}.npy"
        # Not a writable memory map, which gives a signal instead of an error if the disk is full.
        with path.open("wb") as file:
            _write_header(file, (len(self._indices), *spec.shape))
            for block in self._decoded_blocks(pool):
                for image in block:
                    name = source.names[image.index]
                    if image.checksum and name in files:  # images in archives are no files
                        self.checksums.append(checksum_line(image.checksum, name))
                    if image.pixels is None:
                        skipped.append(name)
                    else:
                        kept.append(image.index)
                        lost.update([image.lost] if image.lost else [])
                        file.write(image.pixels.data)
                progress(len(kept) + len(skipped))
            file.seek(0)
            _write_header(file, (len(kept), *spec.shape))
            file.flush()
            os.fsync(file.fileno())
        labels = None if source.labels is None else source.labels[kept]
        if labels is not None:
            np.save(folder / f"{split}-labels.npy", labels, allow_pickle=False)
            if skipped:
                check_labels(spec, split, labels)
        written = ImageArray(np.load(path, mmap_mode="r", allow_pickle=False), labels)
        return {
            "count": len(kept),
            "labeled": labels is not None,
            "fingerprint": written.fingerprint(),
            "skipped": skipped,
            "lost": dict(sorted(lost.items())),
        }

    def _decoded_blocks(self, pool: ThreadPoolExecutor) -> Iterator[list[DecodedImage]]:
        """Blocks in order; the number of blocks in memory is limited."""
        images = self._indices.tolist()
        blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
            yield from pool.map(self._decoded_block, blocks[start : start + _BLOCKS_AT_ONCE])

    def _decoded_block(self, indices: Sequence[int]) -> list[DecodedImage]:
        return [self._decoder.decoded(index, checksum=True) for index in indices]


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; NumPy reserves space for a larger first dimension."""
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def _pillow_version() -> str:
    import PIL

    return PIL.__version__
