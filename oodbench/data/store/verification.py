"""Checking all stored files of a data set against manifest and records, and repairing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oodbench.data.listed_files import downloaded_files
from oodbench.data.store.checksummed_json import DamagedRecordError
from oodbench.data.store.disk import disk_errors, file_digest, remove_folder
from oodbench.data.store.fetching import RECORD as UNPACKED_RECORD
from oodbench.data.store.fetching import checksums_of, fetch, find, obtain, unpacked_record
from oodbench.data.store.image_cache import (
    CHECKSUMS,
    RECORD,
    DamagedCacheError,
    Decoded,
    content_name,
    decisive,
    folders_named,
    open_decoded,
    origin_of,
    read_checksums,
)
from oodbench.data.store.locations import (
    PLACE,
    StoredFiles,
    content_folder,
    dataset_folder,
    unpacked_folder,
)
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.errors import UserError, counted, listed
from oodbench.progress import Reporter
from oodbench.specs import DatasetSpec, SplitName

Layer = Literal["file", "unpacked", "image", "decoded"]
"""Downloaded files; files unpacked from them; the user's own files; the cache."""


@dataclass(frozen=True)
class Finding:
    """A file or folder that differs from its record.

    Attributes:
        layer: the layer that it belongs to.
        path: the file or folder.
        problem: what is wrong with it.
        folder: the folder that `repair` removes; None: nothing.
    """

    layer: Layer
    path: Path
    problem: str
    folder: Path | None = None


@dataclass
class Verification:
    """Result of checking a data set.

    Attributes:
        checked: descriptions of the checks, with numbers of files.
        findings: everything that is wrong.
    """

    checked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def verify(spec: DatasetSpec, root: Path, say: Reporter, *, wanted: bool = False) -> Verification:
    """Read all stored files of a data set and find those that have changed.

    Downloaded files are compared with the manifest, unpacked files with the record of unpacking,
    the user's own files with the checksums from decoding, and decoded images with the checksums in
    their record.

    Args:
        spec: the manifest; any kind but `builtin`.
        root: the data root.
        say: progress reporter.
        wanted: whether missing files are findings, unless files made from them are complete.
    """
    result = Verification()
    missing: list[Path] = []
    unpacked = True
    for files in _files_of(spec, root):
        missing += _verify_files(files, root, result, say.detail)
        unpacked = _verify_unpacked(files, root, result, say.detail) and unpacked
    decoded = _verify_decoded(spec, root, result, say, wanted=wanted)
    if missing and (unpacked or decoded):
        made = "decoded" if decoded else "unpacked"
        result.checked.append(f"the others are not needed: the {made} files are complete")
    elif wanted:
        result.findings += [Finding("file", path, "is not there") for path in missing]
    # A damaged archive may also be found as a file of images.
    result.findings = list({finding.path: finding for finding in result.findings[::-1]}.values())
    result.findings.reverse()
    return result


def _files_of(spec: DatasetSpec, root: Path) -> Sequence[StoredFiles]:
    """The downloaded files of a data set: those of the manifest or of its places."""
    return downloaded_files(spec, root) if spec.lists else [spec]


def repair(spec: DatasetSpec, root: Path, say: Reporter) -> None:
    """Remove damaged files that can be restored, then download and unpack them again.

    The user's own files are not touched: changed images are decoded again when they are used.

    Raises:
        UserError: a file cannot be removed or downloaded.
    """
    findings = verify(spec, root, say).findings
    for folder in {finding.folder for finding in findings if finding.folder is not None}:
        with disk_errors(folder, PLACE):
            remove_folder(folder)
    wrong = {finding.path.name for finding in findings if finding.layer == "file"}
    for files in _files_of(spec, root):
        for file in files.files:
            if file.name in wrong:
                obtain(files, file, root, say)
        if any(finding.layer == "unpacked" for finding in findings):
            fetch(files, root, say)


def _verify_files(
    spec: StoredFiles, root: Path, result: Verification, say: Callable[[str], None]
) -> list[Path]:
    """Check the manifest's files; return the expected paths of missing ones."""
    present, unpublished = 0, []
    missing = []
    for file in spec.files:
        say(f"checking {spec.name}: {file.name}")
        path, wrong = find(spec, file, root)
        if file.unverified is None:
            present += path is not None
        elif path is not None:
            unpublished.append(file.name)
        # A file in the data root may belong to another data set.
        mine = dataset_folder(spec, root) / file.name
        if mine in wrong:
            result.findings.append(Finding("file", mine, f"has {wrong[mine]}"))
        elif path is None:
            missing.append(mine)
    published = sum(file.unverified is None for file in spec.files)
    if published:
        result.checked.append(f"{present} of {counted(published, 'file')} as in the manifest")
    if unpublished:
        result.checked.append(
            f"as first fetched, not verified against a published checksum: {listed(unpublished)}"
        )
    return missing


def _verify_unpacked(
    spec: StoredFiles, root: Path, result: Verification, say: Callable[[str], None]
) -> bool:
    """Check unpacked files; return whether the manifest's archives are unpacked completely."""
    folder = unpacked_folder(spec, root)
    before = len(result.findings)
    try:
        record = unpacked_record(spec, root)
    except DamagedRecordError as error:
        result.findings.append(
            Finding("unpacked", folder / UNPACKED_RECORD, str(error), folder=folder)
        )
        return False
    if record is None:
        return False
    if record["archives"] != checksums_of(spec, root):
        other = "was unpacked from other files than the manifest's"
        result.findings.append(Finding("unpacked", folder, other, folder=folder))
        return False
    content = content_folder(spec, root)
    files = record["files"]
    for number, (name, (_, checksum)) in enumerate(files.items()):
        if number % 100 == 0:
            say(f"checking {spec.name}: unpacked file {number:,} of {len(files):,}")
        problem = _problem(content / name, checksum)
        if problem is not None:
            result.findings.append(Finding("unpacked", content / name, problem, folder=folder))
    for extra in sorted(set(_files_below(content)) - set(files)):
        added = "was not in the archive"
        result.findings.append(Finding("unpacked", content / extra, added, folder=folder))
    result.checked.append(f"{len(files):,} unpacked files as recorded")
    return len(result.findings) == before


def _verify_decoded(
    spec: DatasetSpec, root: Path, result: Verification, say: Reporter, *, wanted: bool
) -> bool:
    """Check the cache; return whether it has complete images of the current files."""
    same: dict[SplitName, list[Decoded]] = {split: [] for split in spec.splits}
    for folder in folders_named(spec.name):
        try:
            decoded = open_decoded(folder)
        except DamagedCacheError as error:
            result.findings.append(Finding("decoded", folder / RECORD, str(error), folder=folder))
            continue
        split = None if decoded is None else decoded.record["split"]
        if decoded and split in same and decoded.record["manifest"] == decisive(spec, split):
            same[split].append(decoded)
    content = content_folder(spec, root)
    # The cache is shared by all data roots.
    here = content_name(content)
    stored = StoredDataset(spec, root, say)
    current: dict[Path, SplitName] = {}
    try:
        for split in spec.splits:
            if split not in spec.class_folders or same[split]:  # the user may not have them
                current[stored.folder(split)] = split
    except UserError as error:
        found_here = any(each.record["content"] == here for all_ in same.values() for each in all_)
        damaged = any(each.layer == "file" for each in result.findings)  # reported already
        if not damaged and (wanted or (content.exists() and not spec.lists) or found_here):
            result.findings.append(Finding("image", dataset_folder(spec, root), error.message))
        current = {}
    # If the user's files have changed since, they are compared with the newest decoded images from
    # the same folder.
    newest = [
        max(
            each,
            key=lambda decoded: (
                decoded.folder in current,
                decoded.record["content"] == here,
                decoded.folder.stat().st_mtime_ns,
            ),
        )
        for each in same.values()
        if each
    ]
    if not newest:
        return False
    before = len(result.findings)
    _verify_arrays(newest, result, say.detail)
    whole = current.keys() == {each.folder for each in newest} and len(result.findings) == before
    if not spec.files and current:
        mine = [e for e in newest if e.folder in current or e.record["content"] == here]
        if mine:
            _verify_sources(spec, mine, stored, content, result, say.detail)
        else:
            result.checked.append("from another folder; the images in yours are not decoded yet")
    return whole


def _verify_arrays(
    splits: Sequence[Decoded], result: Verification, say: Callable[[str], None]
) -> None:
    for decoded in splits:
        for name, checksum in decoded.record["files"].items():
            say(f"checking {decoded.record['name']}: decoded {name}")
            problem = _problem(decoded.folder / name, checksum)
            if problem is not None:
                result.findings.append(
                    Finding("decoded", decoded.folder / name, problem, folder=decoded.folder)
                )
    total = sum(decoded.count for decoded in splits)
    result.checked.append(f"{counted(total, 'decoded image')} as recorded")


def _verify_sources(
    spec: DatasetSpec,
    splits: Sequence[Decoded],
    stored: StoredDataset,
    folder: Path,
    result: Verification,
    say: Callable[[str], None],
) -> None:
    recorded: dict[str, str] = {}
    for decoded in splits:
        try:
            recorded |= read_checksums((decoded.folder / CHECKSUMS).read_bytes())
        except (OSError, UnicodeDecodeError):
            return  # `_verify_arrays` has reported it
    folder = Path(splits[0].record["content"])
    for number, (name, checksum) in enumerate(recorded.items()):
        if number % 100 == 0:
            say(f"checking {spec.name}: file {number:,} of {len(recorded):,}")
        problem = _problem(folder / name, checksum)
        if problem is not None:
            result.findings.append(Finding("image", folder / name, f"{problem} since decoded"))
    present: set[str] = set()
    verified = {decoded.record["split"] for decoded in splits}
    for origin in {origin_of(spec, split) for split in verified}:
        if all(split in verified for split in spec.splits if origin_of(spec, split) == origin):
            present.update(stored.source(origin).files)
    for name in sorted(present - set(recorded)):
        result.findings.append(Finding("image", folder / name, "was not there when decoded"))
    result.checked.append(f"{len(recorded):,} of your files as when they were decoded")


def _problem(path: Path, checksum: str) -> str | None:
    try:
        found = file_digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == checksum else f"has changed (sha256 {found} instead of {checksum})"


def _files_below(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        for name in names:
            yield (Path(top) / name).relative_to(folder).as_posix()
