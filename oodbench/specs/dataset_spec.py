"""Specs of data sets: the contents of `data_manifests/<name>.yaml`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

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

Address = Annotated[str, Field(pattern=r"^https?://")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inner_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ValueError(f"'{path}' must be a path in the data root, with '/' between its parts")
    return path


InnerPath = Annotated[PathText, AfterValidator(_inner_path)]
"""A path in the data root; parts are joined by "/"."""


class FileSpec(Spec):
    """A file of a data set: downloaded, or placed in its folder by the user."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the file in the data set's folder."""
    urls: Several[Address] = ()
    """Download addresses, the preferred mirror first; empty if the user must provide the file."""
    sha256: Sha256 | None = None
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
    draft: bool = False
    """Decode large JPEG files at 1/2, 1/4 or 1/8 of their size, but not smaller than they are
    resized to. Faster; the pixels differ. Set by `evaluation: {decoder: draft}` of a benchmark."""

    @model_validator(mode="after")
    def _crops_what_is_resized(self) -> ResizeSpec:
        if self.short_side is not None and self.crop == "none":
            raise ValueError("short_side keeps the aspect ratio: it needs `crop: center`")
        return self


class ListSpec(Spec):
    """The list of a split: a published text file with the path of an image and its label a line.

    The label is -1 for out-of-distribution images.
    """

    path: InnerPath
    """Path in the data root, also looked for below `data/` there."""
    urls: Several[Address] = ()
    sha256: Sha256
    """Checksum of the text with CRLF turned into LF."""
    size: PositiveInt | None = None
    """Size of this text in bytes, if known."""

    @property
    def text_file(self) -> FileSpec:
        """The file to download."""
        name = PurePosixPath(self.path).name
        return FileSpec(name=name, urls=self.urls, sha256=self.sha256, size=self.size, text=True)


class PlaceSpec(Spec):
    """A place where the images of lists may be; the first place that has them is used."""

    folder: InnerPath
    """Folder in the data root, also looked for below `data/` there; files are put into it."""
    files: Several[FileSpec] = ()
    """Files to download; empty if the user provides the folder."""
    path: InnerPath | None = None
    """The images' folder, or a zip or tar file with them, in `folder` or in its unpacked archives.
    Zip and tar files are read as they are."""
    match: Literal["path", "tail", "name"] = "path"
    """How an image of a list is found: by its path; by its path without the first folder, in an
    archive below any folder; or by its file name, in any folder below."""
    builder: Text | None = None
    """torchvision's name of the format, if the images are arrays; lists then give their indices."""
    note: Text | None = None
    """What differs from the images that the lists were made for; every run says so."""

    @model_validator(mode="after")
    def _consistent(self) -> PlaceSpec:
        if self.builder is not None and (self.path is not None or self.match != "path"):
            raise ValueError("a builder takes neither path nor match: lists give indices of arrays")
        return self

    @property
    def is_archive(self) -> bool:
        """Whether the images are in a zip or tar file that is read as it is."""
        return self.path is not None and self.path.endswith((".zip", ".tar"))


class ClassFoldersSpec(Spec):
    """A split without a list: all images of a folder with one sub-folder per class."""

    folders: Several[InnerPath]
    """Folders in the data root, also looked for below `data/` there; the first one is used that
    exists."""
    classes: ListSpec | None = None
    """A list with paths `.../CLASS/IMAGE` that gives the names of the sub-folders and their labels;
    others are ignored. None: all sub-folders, in the order of their names."""
    at_most: bool = False
    """Whether the manifest's number of images is an upper bound: the exact one is not published."""


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
    lists: dict[SplitName, ListSpec] = Field(default_factory=dict)
    """Kind list, instead of paths: published lists of the splits."""
    list_archive: FileSpec | None = None
    """A zip file with the lists, if none of their addresses can be reached."""
    places: Several[PlaceSpec] = ()
    """Places where the images of `lists` may be."""
    class_folders: dict[SplitName, ClassFoldersSpec] = Field(default_factory=dict)
    """Splits without a list, beside `lists`."""
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
    classes: Several[Text] = ()
    """Names of the classes, in the order of the labels; vision-language models read them."""
    splits: dict[SplitName, ImageCount]
    """Number of images of each split."""
    split_from: dict[SplitName, SplitName] = Field(default_factory=dict)
    """Splits that are taken from the images of another split: {validation: train}."""
    sha256: dict[SplitName, Sha256] = Field(default_factory=dict)
    """Fingerprints of the decoded splits, if they are the same on every machine."""
    source: Text | None = None
    """Collection that the images are of. A report says where methods are tuned on one data set of a
    collection and tested on another."""
    license: Text
    citation: Text
    url: Text | None = None
    note: Text | None = None
    """What a reader of results has to know of the images; every report says it."""

    @property
    def published(self) -> tuple[FileSpec, ...]:
        """The files that can be downloaded, of all places."""
        files = [*self.files, *(file for place in self.places for file in place.files)]
        return tuple(file for file in files if file.urls)

    def without(self, absent: Collection[SplitName]) -> DatasetSpec:
        """A copy without some splits."""
        kept = {
            field: {split: value for split, value in mapping.items() if split not in absent}
            for field in ("splits", "paths", "lists", "class_folders", "split_from", "sha256")
            if (mapping := getattr(self, field))
        }
        return self.model_copy(update=kept)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        if "train" in self.splits and self.num_classes is None:
            raise ValueError("a data set with a train split needs num_classes")
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(
                f"classes: {len(self.classes)} names for num_classes {self.num_classes}; give one "
                "for each class, in the order of the labels"
            )
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
        if self.lists or self.places or self.class_folders:
            return self._listed()
        read = set(self.splits) - set(self.split_from)
        if not built and set(self.paths) != read:
            raise ValueError(f"paths: expected one for each of: {', '.join(sorted(read))}")
        if built and self.paths:
            raise ValueError(f"kind {self.kind} takes no paths")
        return self

    def _listed(self) -> DatasetSpec:
        if self.kind != "list" or not self.lists or not self.places:
            raise ValueError("lists, places: they belong together, with 'kind: list'")
        unused = ("paths", "files", "options", "split_from")
        for key in unused:
            if getattr(self, key):
                raise ValueError(f"{key}: a manifest with lists takes none; it takes places")
        if self.folder != ".":
            raise ValueError("a manifest with lists needs 'folder: .': paths are in the data root")
        given = [*self.lists, *self.class_folders]
        if sorted(given) != sorted(self.splits):
            raise ValueError(
                "lists, class_folders: expected one list or folder for each of: "
                f"{', '.join(self.splits)}"
            )
        return self
