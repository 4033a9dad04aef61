"""Data sets with files: downloaded, decoded and opened, each step only if it is needed.

Every split is on its own: to read one, the images of the others are neither decoded nor opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from oodbench.data.array_checks import check_fingerprint
from oodbench.data.decoding_choice import is_large
from oodbench.data.image_array import ImageArray
from oodbench.data.image_selection import Indices
from oodbench.data.listed_files import fetch_listed
from oodbench.data.readers.by_kind import check_classes, open_split
from oodbench.data.split_decoder import SplitDecoder
from oodbench.data.store.disk import disk_errors, remove_folder
from oodbench.data.store.fetching import checksums_of, fetch, one_at_a_time
from oodbench.data.store.image_cache import (
    DamagedCacheError,
    Decoded,
    checked_indices,
    decode,
    decoded_folder,
    open_decoded,
    origin_of,
)
from oodbench.data.store.locations import content_folder, decoded_root
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError, brief, counted
from oodbench.files import canonical_json, digest
from oodbench.progress import Reporter
from oodbench.specs import DatasetSpec, SplitName

_LOSSES = {
    "transparency": "the transparency of {count} is dropped",
    "CMYK": "the CMYK colors of {count} are converted to RGB as Pillow does, without a profile",
}


def remarks(
    spec: DatasetSpec,
    split: str,
    count: int,
    skipped: Sequence[str],
    lost: Mapping[str, int],
    note: str,
) -> list[str]:
    """Warnings about images that were left out, that conversion changed, or that are other ones.

    Args:
        spec: the manifest.
        split: the split.
        count: number of images that were decoded.
        skipped: names of the images that were left out.
        lost: what conversion dropped -> number of images.
        note: of the stored images.
    """
    where = f"data set '{spec.name}', split '{split}'"
    texts = []
    if skipped:
        texts.append(
            f"{where}: {len(skipped)} of {counted(count + len(skipped), 'image')} could not be "
            "decoded and are left out: "
            f"{brief(', '.join(skipped[:3]))}{' ...' if len(skipped) > 3 else ''}"
        )
    texts += [
        f"{where}: {_LOSSES[what].format(count=counted(images, 'image'))}"
        for what, images in lost.items()
    ]
    return [*texts, f"{where}: {note}"] if note else texts


class StoredDataset:
    """A data set that is not built in.

    Args:
        spec: the manifest.
        root: the data root.
        say: progress reporter.
    """

    def __init__(self, spec: DatasetSpec, root: Path, say: Reporter) -> None:
        self._spec, self._root, self._say = spec, root, say
        self._sources: dict[SplitName, StoredImages] = {}
        self._fetched: set[SplitName] = set()

    def load(self, split: SplitName) -> ImageArray:
        """The images of a split, memory-mapped; downloaded and decoded first if needed.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        decoded = self.decoded(split)
        try:
            data = decoded.images()
        except DamagedCacheError as error:
            self.discard(split, str(error))
            decoded = self.decoded(split)
            data = decoded.images()
        note = self.source(split).note if self._spec.lists else ""
        for text in remarks(self._spec, split, len(data), decoded.skipped, decoded.lost, note):
            self._say.warn(text)
        check_fingerprint(self._spec, split, data)
        return data

    def load_checked(self, split: SplitName) -> tuple[ImageArray, str]:
        """As `load`, but verify the fingerprint; changed images are decoded again.

        Returns:
            The images and their fingerprint.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        data = self.load(split)
        fingerprint = data.fingerprint()
        if fingerprint == self.decoded(split).fingerprint:
            return data, fingerprint
        del data  # a memory map; some systems do not remove files that are mapped
        self.discard(split, f"split '{split}' has changed since it was written")
        data = self.load(split)
        return data, data.fingerprint()

    def decoded(self, split: SplitName) -> Decoded:
        """The decoded split; decoded now if it is missing or damaged in the cache.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        try:
            opened = self.opened(split)
        except UserError:
            if not self._spec.lists:
                raise
            opened = None  # the list or its images are not fetched yet
        if opened is not None:
            return opened
        content = self.fetch(split)
        with one_at_a_time(self._lock()):
            opened = self.opened(split)  # another process may have decoded it meanwhile
            if opened is not None:
                return opened
            decoder = SplitDecoder(self._spec, split, self.source(split))
            self._check_others(split)
            return decode(decoder, content, self.identity(split), self._say.detail)

    def fetch(self, split: SplitName) -> Path:
        """Fetch what a split lacks; returns the folder that its paths are relative to.

        Raises:
            UserError: it is not there and cannot be fetched.
        """
        if not self._spec.lists:
            return fetch(self._spec, self._root, self._say)
        fetch_listed(self._spec, split, self._root, self._say)
        self._sources.pop(split, None)  # files may have been replaced
        return content_folder(self._spec, self._root)

    def _check_others(self, split: SplitName) -> None:
        """Check the numbers of images of the splits that will be decoded after this one."""
        named = self._spec.kind in ("folder", "list") and not self._spec.lists
        for other in self._spec.splits if named else ():
            if other == split or is_large(self._spec, other):
                continue
            try:
                source = self.source(other)
            except UserError:
                continue  # an error when it is read
            checked_indices(self._spec, other, source)

    def opened(self, split: SplitName) -> Decoded | None:
        """The decoded split in the cache, or None; a damaged one is removed with a warning."""
        try:
            return open_decoded(self.folder(split))
        except DamagedCacheError as error:
            self.discard(split, str(error))
            return None

    def folder(self, split: SplitName) -> Path:
        """The folder of a decoded split in the cache, which may not exist yet.

        Raises:
            UserError: the user's files do not exist or cannot be read.
        """
        return decoded_folder(self._spec, split, self.identity(split))

    def discard(self, split: SplitName, reason: str) -> None:
        """Remove a decoded split from the cache, with a warning."""
        folder = self.folder(split)
        self._say.warn(
            f"data set '{self._spec.name}': the decoded images in {folder} are damaged: {reason}; "
            "they are decoded again"
        )
        with disk_errors(folder, "OODBENCH_CACHE"):
            remove_folder(folder)

    def prepare(self) -> dict[SplitName, int]:
        """Decode the splits into the cache, except large ones, which are only opened.

        Returns:
            split -> number of its images.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        counts = {}
        # Splits that only the user can provide come last, so that all others are fetched.
        for split in sorted(self._spec.splits, key=self._spec.class_folders.__contains__):
            if is_large(self._spec, split):
                counts[split] = len(self.fetched(split)[1])
            else:
                counts[split] = self.decoded(split).count
        return counts

    def identity(self, split: SplitName) -> str:
        """Digest of the files: of the manifest's checksums, or of paths, sizes and times."""
        if self._spec.files:
            files = checksums_of(self._spec, self._root).items()
            return digest(canonical_json([list(file) for file in files]))
        return digest(self.source(split).identity)

    def fetched(self, split: SplitName) -> tuple[SplitDecoder, Indices]:
        """What decodes the images of a split one by one, and their indices; downloaded if needed.

        Raises:
            UserError: as `oodbench.data.load_split`, but for what only decoding shows.
        """
        if split not in self._fetched:
            self.fetch(split)
            self._fetched.add(split)
        source = self.source(split)
        indices = checked_indices(self._spec, split, source)
        return SplitDecoder(self._spec, split, source), indices

    def source(self, split: SplitName) -> StoredImages:
        """The stored images that a split is taken from.

        Raises:
            UserError: they do not exist or cannot be read.
        """
        origin = origin_of(self._spec, split)
        if origin not in self._sources:
            folder = content_folder(self._spec, self._root)
            found = open_split(self._spec, origin, folder)
            check_classes(self._spec, {**self._sources, origin: found})
            self._sources[origin] = found
        return self._sources[origin]

    def _lock(self) -> Path:
        folder = decoded_root()
        with disk_errors(folder, "OODBENCH_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{self._spec.name}.lock"
