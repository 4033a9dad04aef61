"""Specs of published checkpoints: files with the weights of trained networks."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from oodbench.specs.dataset_spec import FileSpec
from oodbench.specs.spec_base import PathText, Several, Spec, Text

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")


class CheckpointSpec(Spec):
    """Where the weights of a trained network are.

    `files` are downloaded as those of a data set are. One that is no archive is the checkpoint
    itself; in archives, `path` is the checkpoint. Without `files`, `path` is a file of the user's.
    """

    files: Several[FileSpec] = ()
    """Files to download; a `name` that is not given is the last part of the first address."""
    path: PathText | None = None
    """With `files`: the checkpoint in the unpacked archives. Without: relative to the folder of the
    benchmark's file, or to the data root."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the file that `path` names; a file without archives has its own in `files`."""
    entry: Text | None = None
    """Key of the weights in the file, such as "model". Default: found; averaged weights (EMA) are
    preferred, as they are the ones that are published."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_address(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("files"), list | tuple):
            return values
        return {**values, "files": [_with_name(file) for file in values["files"]]}

    @model_validator(mode="after")
    def _consistent(self) -> CheckpointSpec:
        if not self.files and self.path is None:
            raise ValueError("a checkpoint needs files or a path")
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("files: two files have the same name")
        archives = [file for file in self.files if file.unpacked_limit is not None]
        if self.path is None:
            if len(self.files) > 1 or archives:
                raise ValueError(
                    "files: give the path of the checkpoint in the archives. Several checkpoints "
                    "are a list: checkpoint: [{files: ...}, {files: ...}]"
                )
            if self.sha256 is not None:
                raise ValueError("sha256: the checksum of a file to download belongs in files")
        elif self.files:
            inside = PurePosixPath(self.path)
            if inside.is_absolute() or ".." in inside.parts or "\\" in self.path:
                raise ValueError(f"path: '{self.path}' does not lie in the archives")
            if not archives:
                raise ValueError("path: files have no archive (one with unpacked_limit)")
        if PurePosixPath(self.file_name).suffix not in CHECKPOINT_SUFFIXES:
            raise ValueError(
                f"'{self.file_name}' is no checkpoint by its name (known: "
                f"{', '.join(CHECKPOINT_SUFFIXES)})"
            )
        return self

    @property
    def file_name(self) -> str:
        """Name of the checkpoint's file."""
        if self.path is None:
            return self.files[0].name
        return self.path.replace("\\", "/").rpartition("/")[2]


def _with_name(file: Any) -> Any:
    if not isinstance(file, dict) or "name" in file:
        return file
    urls = file.get("urls")
    first = urls[0] if isinstance(urls, list | tuple) and urls else None
    name = unquote(urlsplit(first).path).rpartition("/")[2] if isinstance(first, str) else ""
    return {**file, "name": name} if name else file
