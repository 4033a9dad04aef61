"""Specs of data sets: the contents of `data_manifests/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from oodbench.specs.spec_base import (
    FileName,
    ImageCount,
    Options,
    PathText,
    PositiveInt,
    SchemaVersion,
    Several,
    Side,
    Spec,
    SplitName,
    Text,
)


class FileSpec(Spec):
    """A file of a data set: downloaded, or placed in its folder by the user."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the file in the data set's folder."""
    urls: Several[Annotated[str, Field(pattern=r"^https?://")]] = ()
    """Download addresses, the preferred mirror first; empty if the user must provide the file."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Many publishers give only this checksum; sha256 is used if both are given."""
    unverified: Text | None = None
    """Why no checksum is known. The SHA-256 is then recorded when the file is first fetched or
    found, and the file is verified against this record from then on."""
    text: bool = False
    """A text file: size and checksum are those of its content with CRLF turned into LF."""
    size: PositiveInt | None = None
    """Size in bytes, if known."""
    unpacked_limit: PositiveInt | None = None
    """Archives: maximum size of the content in bytes. None: the file is not unpacked."""

    @model_validator(mode="after")
    def _consistent(self) -> FileSpec:
        if not self.checksum and self.unverified is None:
            raise ValueError(
                f"file '{self.name}' needs a checksum: sha256 or md5; if none is known, say why: "
                "'unverified: REASON'"
            )
        if self.checksum and self.unverified is not None:
            raise ValueError(f"file '{self.name}' has a checksum: remove 'unverified'")
        if self.text and self.unpacked_limit is not None:
            raise ValueError(f"file '{self.name}': an archive (unpacked_limit) is no text")
        return self

    @property
    def checksum(self) -> str:
        """The preferred checksum; empty if none is known."""
        return self.sha256 or self.md5 or ""


class ResizeSpec(Spec):
    """How images of other sizes are resized to the manifest's `shape` when they are decoded."""

    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Name of Pillow's filter; all but "nearest" are antialiased."""
    crop: Literal["none", "center"] = "center"
    """"center" keeps the aspect ratio and crops the center; "none" ignores the aspect ratio."""
    short_side: PositiveInt | None = None
    """Resize the short side to this length, then crop the center, as torchvision's `Resize(int)`
    and `CenterCrop` do; None: crop and resize in a single step."""

    @model_validator(mode="after")
    def _crops_what_is_resized(self) -> ResizeSpec:
        if self.short_side is not None and self.crop == "none":
            raise ValueError("short_side keeps the aspect ratio: it needs `crop: center`")
        return self


class DatasetSpec(Spec):
    """A data set's manifest (`data_manifests/<name>.yaml`)."""

    noun: ClassVar[str] = "data set"
    schema_version: SchemaVersion
    name: FileName
    title: Text
    summary: Text
    kind: Literal["builtin", "torchvision", "folder", "list", "npz"]
    """Source of the images: a function of oodbench, a data set class of torchvision, a folder of
    images, a text file that lists images, or NumPy archives."""
    builder: Text | None = None
    """Kinds builtin and torchvision: name of the function or class that reads the images."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of the function that reads the images."""
    paths: dict[SplitName, PathText] = Field(default_factory=dict)
    """Kinds folder, list and npz: path of each split, relative to the data set's folder."""
    folder: PathText | None = None
    """The data set's folder in the data root; default: the data set's name."""
    files: Several[FileSpec] = ()
    """Files to download into the folder; empty if the user provides the folder."""
    resize: ResizeSpec | None = None
    """None: every image must already have the given `shape`."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    """If an image cannot be decoded: stop with an error that names it, or skip and count it."""
    shape: Annotated[tuple[Side, Side, Side], Field(strict=False)]
    """Channels, height, width."""
    num_classes: Annotated[int, Field(gt=0, le=10**6)] | None = None
    """Number of classes; null for data that are only used as out-of-distribution data."""
    splits: dict[SplitName, ImageCount]
    """Number of images of each split."""
    split_from: dict[SplitName, SplitName] = Field(default_factory=dict)
    """Splits that are taken from the images of another split: {validation: train}."""
    sha256: dict[SplitName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Fingerprints of the decoded splits, if they are the same on every machine."""
    license: Text
    citation: Text
    url: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        if "train" in self.splits and self.num_classes is None:
            raise ValueError("a data set with a train split needs num_classes")
        built = self.kind in ("builtin", "torchvision")
        if built and self.builder is None:
            raise ValueError(f"kind {self.kind} needs a builder")
        if not built and self.builder is not None:
            raise ValueError(f"kind {self.kind} takes no builder; it takes paths")
        if self.kind == "builtin" and (self.split_from or self.files):
            raise ValueError(
                "kind builtin takes neither split_from nor files: its splits are computed"
            )
        short = None if self.resize is None else self.resize.short_side
        if short is not None and short < max(self.shape[1:]):
            raise ValueError(
                f"resize: short_side {short} is less than a side of the shape {list(self.shape)}"
            )
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("files: two files have the same name")
        for split, source in self.split_from.items():
            if split not in self.splits or source not in self.splits:
                raise ValueError(f"split_from: {split}: {source}: both must be among the splits")
            if source in self.split_from:
                raise ValueError(
                    f"split_from: {split}: '{source}' is itself taken from another split"
                )
        read = set(self.splits) - set(self.split_from)
        if not built and set(self.paths) != read:
            raise ValueError(f"paths: expected one for each of: {', '.join(sorted(read))}")
        if built and self.paths:
            raise ValueError(f"kind {self.kind} takes no paths")
        return self
