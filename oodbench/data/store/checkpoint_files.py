"""Checkpoints on disk: found beside the benchmark or in the data root, or downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from oodbench.data.store.disk import disk_errors, file_digest
from oodbench.data.store.download import download
from oodbench.data.store.fetching import fetch, one_at_a_time
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError
from oodbench.files import digest, expanded
from oodbench.progress import Reporter
from oodbench.specs import CheckpointSpec, FileSpec

FOLDER = "checkpoints"
"""Folder of downloaded checkpoints in the data root."""

_RESULTS = ("results", "results/checkpoints")
"""Folders in which OpenOOD stores checkpoints, beside its folder `data`."""

_HASH = re.compile(r"-([a-f0-9]{8,64})\.")
"""The beginning of its SHA-256 in the name of a file of torch.hub."""


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of a checkpoint, as the store downloads and unpacks them."""

    noun: ClassVar[str] = "checkpoint"
    spec: CheckpointSpec

    @property
    def name(self) -> str:
        """Name of the checkpoint or of its first archive."""
        return self.files[0].name

    @property
    def folder(self) -> str:
        """The folder in the data root; checkpoints in one archive share it."""
        address = digest(*(file.checksum or " ".join(file.urls) for file in self.files))
        return f"{FOLDER}/{self.name.partition('.')[0]}-{address[:8]}"

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """The files to download."""
        return self.spec.files


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that torchvision publishes.

    Attributes:
        network: name of the network, for messages.
        url: address; its name has the beginning of the SHA-256.
    """

    network: str
    url: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def hash_part(self) -> str:
        """The beginning of the SHA-256; empty if the name has none."""
        found = _HASH.search(self.name)
        return found[1] if found else ""

    def target(self, root: Path) -> Path:
        """Where the file is downloaded to."""
        return root / FOLDER / self.name

    def places(self, root: Path) -> tuple[Path, ...]:
        """Where the file is looked for: the data root and torch.hub's cache."""
        import torch

        hub = Path(torch.hub.get_dir()) / "checkpoints"
        return self.target(root), root / self.name, hub / self.name


def placed_checkpoint(spec: CheckpointSpec, benchmark: Path | None, root: Path) -> Path | None:
    """A checkpoint that is there without a download: beside the benchmark or in the data root."""
    return next((place for place in _places(spec, benchmark, root) if place.is_file()), None)


def _places(spec: CheckpointSpec, benchmark: Path | None, root: Path) -> list[Path]:
    """Where a checkpoint may be, besides unpacked archives."""
    if spec.path is None:
        return []
    path = expanded(spec.path)
    beside = [] if benchmark is None or spec.files else [benchmark.parent / path]
    of_openood = [top / folder for top in (root, root.parent) for folder in _RESULTS]
    return [*beside, *(folder / path for folder in (root, root / FOLDER, *of_openood))]


def checkpoint_file(
    spec: CheckpointSpec, benchmark: Path | None, root: Path, say: Reporter
) -> Path:
    """The file of a checkpoint, downloaded if need be, with the checksum that the spec gives.

    Args:
        spec: the checkpoint.
        benchmark: the benchmark's file, which paths are relative to; None if it has none.
        root: the data root, which they are relative to as well.
        say: progress reporter.

    Raises:
        UserError: there is no such file, it has another checksum, or it cannot be downloaded.
    """
    if spec.path is None:
        return fetch(CheckpointFiles(spec), root, say) / spec.files[0].name
    found = placed_checkpoint(spec, benchmark, root)
    if found is None and spec.files:
        found = _inside(fetch(CheckpointFiles(spec), root, say), spec)
    if found is None:
        raise UserError(
            f"checkpoint '{spec.path}' is missing; looked for: "
            f"{', '.join(map(str, dict.fromkeys(_places(spec, benchmark, root))))}.",
            "Put it into one of these places, or correct the path; give the data root with "
            f"{PLACE}.",
        )
    if spec.sha256 is not None and file_digest(found) != spec.sha256:
        raise UserError(
            f"checkpoint '{spec.path}': {found} has sha256 {file_digest(found)} instead of "
            f"{spec.sha256}.",
            "It is another or an incomplete file: get the right one, or correct the checksum.",
        )
    return found


def _inside(content: Path, spec: CheckpointSpec) -> Path:
    """A checkpoint in the unpacked archives, which may have a folder around everything."""
    assert spec.path is not None  # the caller has checked it
    exact = content / spec.path
    if exact.is_file():
        return exact
    deeper = sorted(content.rglob(spec.path))
    if len(deeper) == 1:
        return deeper[0]
    raise UserError(
        f"checkpoint '{spec.path}': {CheckpointFiles(spec).name} has "
        f"{'no such file' if not deeper else f'{len(deeper)} such files'}.",
        f"Its content is in {content}.",
    )


def torch_hub_file(url: str, network: str, root: Path, say: Reporter) -> Path:
    """A file with weights of torchvision: of the data root or torch.hub's cache, or downloaded.

    Args:
        url: its address; its name has the beginning of its SHA-256.
        network: name of the network, for messages.
        root: the data root.
        say: progress reporter.

    Raises:
        UserError: it cannot be downloaded, or has another checksum.
    """
    weights = Weights(network, url)
    name, begins, target = weights.name, weights.hash_part, weights.target(root)
    for place in weights.places(root):
        if not place.is_file():
            continue
        say.detail(f"checking {name}")
        if file_digest(place).startswith(begins):
            return place
        say.warn(f"network '{network}': {place} is not used: its sha256 is not {begins}...")
    with disk_errors(target, PLACE):
        target.parent.mkdir(parents=True, exist_ok=True)
    # Not validated: the name has a part of the checksum alone.
    spec = FileSpec.model_construct(name=name, urls=(url,), sha256=begins or None)
    with one_at_a_time(target.parent / ".lock"):
        if target.is_file() and file_digest(target).startswith(begins):
            return target  # by another process meanwhile
        return download(spec, target.parent, network, say, "network")
