"""Data sets that lie in files: got, decoded and opened, each only where it has not been yet."""

from __future__ import annotations

from pathlib import Path

from oodbench.data.array_checks import check_fingerprint
from oodbench.data.image_array import ImageArray
from oodbench.data.readers.by_kind import open_splits
from oodbench.data.store.dataset_files import fetch, one_at_a_time
from oodbench.data.store.dataset_folders import content_folder, decoded_root
from oodbench.data.store.disk import disk_errors, remove_folder
from oodbench.data.store.image_cache import (
    DamagedCacheError,
    Decoded,
    decode,
    decoded_folder,
    open_decoded,
)
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
    """A data set that is not built in, in the places where its files are.

    Args:
        spec: the manifest.
        root: the data root.
        say: takes progress and warnings.
    """

    def __init__(self, spec: DatasetSpec, root: Path, say: Reporter) -> None:
        self._spec, self._root, self._say = spec, root, say
        self._sources: dict[SplitName, StoredImages] | None = None

    def load(self, split: str) -> ImageArray:
        """The images of a split, memory-mapped; fetched and decoded first where they are not yet.

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
        """As `load`, with the fingerprint; what has changed since it was decoded is decoded again.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        data = self.load(split)
        fingerprint = data.fingerprint()
        if fingerprint == self.decoded().fingerprint(split):
            return data, fingerprint
        del data  # a memory map, whose file cannot be removed on every system
        self.discard(f"split '{split}' has changed since it was written")
        data = self.load(split)
        return data, data.fingerprint()

    def decoded(self) -> Decoded:
        """The decoded data set; decoded now if it has not been, or if it is damaged.

        Raises:
            UserError: as `oodbench.data.load_split`.
        """
        opened = self.opened()
        if opened is not None:
            return opened
        content = fetch(self._spec, self._root, self._say)
        with one_at_a_time(self._lock()):
            opened = self.opened()  # by whom we waited for
            if opened is not None:
                return opened
            say = self._say.detail
            return decode(self._spec, self.sources(), content, self.identity(), say)

    def opened(self) -> Decoded | None:
        """The decoded data set if there is one; a damaged one is removed, which is said."""
        try:
            return open_decoded(self.folder())
        except DamagedCacheError as error:
            self.discard(str(error))
            return None

    def folder(self) -> Path:
        """Where the decoded data set is, or will be.

        Raises:
            UserError: the user's files are not there, or not to be read.
        """
        return decoded_folder(self._spec, self.identity())

    def discard(self, reason: str) -> None:
        """Say why the decoded data set cannot be used, and remove it."""
        folder = self.folder()
        self._say.warn(
            f"data set '{self._spec.name}': the decoded images in {folder} are damaged: {reason}; "
            "they are decoded again"
        )
        with disk_errors(folder, "OODBENCH_CACHE"):
            remove_folder(folder)

    def identity(self) -> str:
        """What tells the files apart from other ones: their checksums, or else paths and times."""
        if self._spec.files:
            files = [[file.name, file.sha256 or file.md5] for file in self._spec.files]
            return digest(canonical_json(files))
        sources = self.sources()
        return digest(*(f"{split} {source.identity}" for split, source in sources.items()))

    def sources(self) -> dict[SplitName, StoredImages]:
        """The images of each split that is not set apart from another.

        Raises:
            UserError: if they are not there, or not to be read.
        """
        if self._sources is None:
            self._sources = open_splits(self._spec, content_folder(self._spec, self._root))
        return self._sources

    def _lock(self) -> Path:
        folder = decoded_root()
        with disk_errors(folder, "OODBENCH_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{self._spec.name}.lock"
