"""Data sets with files: downloaded, decoded and opened, each step only if it is needed."""

from __future__ import annotations

from pathlib import Path

from oodbench.data.array_checks import check_fingerprint
from oodbench.data.image_array import ImageArray
from oodbench.data.readers.by_kind import open_splits
from oodbench.data.store.disk import disk_errors, remove_folder
from oodbench.data.store.fetching import checksums_of, fetch, one_at_a_time
from oodbench.data.store.image_cache import (
    DamagedCacheError,
    Decoded,
    decode,
    decoded_folder,
    open_decoded,
)
from oodbench.data.store.locations import content_folder, decoded_root
from oodbench.data.stored_images import StoredImages
from oodbench.errors import counted, visible
from oodbench.files import canonical_json, digest
from oodbench.progress import Reporter
from oodbench.specs import DatasetSpec, SplitName

_LOSSES = {
    "transparency": "the transparency of {count} is dropped",
    "CMYK": "the CMYK colors of {count} are converted to RGB as Pillow does, without a profile",
}


class StoredDataset:
    """A data set that is not built in.

    Args:
        spec: the manifest.
        root: the data root.
        say: progress reporter.
    """

    def __init__(self, spec: DatasetSpec, root: Path, say: Reporter) -> None:
        self._spec, self._root, self._say = spec, root, say
        self._sources: dict[SplitName, StoredImages] | None = None

    def load(self, split: str) -> ImageArray:
        """The images of a split, memory-mapped; downloaded and decoded first if needed.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        decoded = self.decoded()
        try:
            data = decoded.split(split)
        except DamagedCacheError as error:
            self.discard(str(error))
            decoded = self.decoded()
            data = decoded.split(split)
        skipped = decoded.skipped(split)
        if skipped:
            self._say.warn(
                f"data set '{self._spec.name}', split '{split}': {len(skipped)} of "
                f"{counted(len(data) + len(skipped), 'image')} could not be decoded and are left "
                "out: "
                f"{visible(', '.join(skipped[:3]))}{' ...' if len(skipped) > 3 else ''}"
            )
        for what, count in decoded.lost(split).items():
            self._say.warn(
                f"data set '{self._spec.name}', split '{split}': "
                f"{_LOSSES[what].format(count=counted(count, 'image'))}"
            )
        check_fingerprint(self._spec, split, data)
        return data

    def load_checked(self, split: str) -> tuple[ImageArray, str]:
        """As `load`, but verify the fingerprint; changed images are decoded again.

        Returns:
            The images and their fingerprint.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        data = self.load(split)
        fingerprint = data.fingerprint()
        if fingerprint == self.decoded().fingerprint(split):
            return data, fingerprint
        del data  # a memory map; some systems do not remove files that are mapped
        self.discard(f"split '{split}' has changed since it was written")
        data = self.load(split)
        return data, data.fingerprint()

    def decoded(self) -> Decoded:
        """The decoded data set; decoded now if it is missing or damaged in the cache.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        opened = self.opened()
        if opened is not None:
            return opened
        content = fetch(self._spec, self._root, self._say)
        with one_at_a_time(self._lock()):
            opened = self.opened()  # another process may have decoded it meanwhile
            if opened is not None:
                return opened
            say = self._say.detail
            return decode(self._spec, self.sources(), content, self.identity(), say)

    def opened(self) -> Decoded | None:
        """The decoded data set in the cache, or None; a damaged one is removed with a warning."""
        try:
            return open_decoded(self.folder())
        except DamagedCacheError as error:
            self.discard(str(error))
            return None

    def folder(self) -> Path:
        """The folder of the decoded data set in the cache, which may not exist yet.

        Raises:
            UserError: the user's files do not exist or cannot be read.
        """
        return decoded_folder(self._spec, self.identity())

    def discard(self, reason: str) -> None:
        """Remove the decoded data set from the cache, with a warning."""
        folder = self.folder()
        self._say.warn(
            f"data set '{self._spec.name}': the decoded images in {folder} are damaged: {reason}; "
            "they are decoded again"
        )
        with disk_errors(folder, "OODBENCH_CACHE"):
            remove_folder(folder)

    def identity(self) -> str:
        """Digest of the files: of the manifest's checksums, or of paths, sizes and times."""
        if self._spec.files:
            files = checksums_of(self._spec, self._root).items()
            return digest(canonical_json([list(file) for file in files]))
        sources = self.sources()
        return digest(*(f"{split} {source.identity}" for split, source in sources.items()))

    def sources(self) -> dict[SplitName, StoredImages]:
        """The stored images of each split that is not taken from another split.

        Raises:
            UserError: they do not exist or cannot be read.
        """
        if self._sources is None:
            self._sources = open_splits(self._spec, content_folder(self._spec, self._root))
        return self._sources

    def _lock(self) -> Path:
        folder = decoded_root()
        with disk_errors(folder, "OODBENCH_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{self._spec.name}.lock"
