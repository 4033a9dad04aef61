"""A data set of a few images in an archive that a server has."""

from __future__ import annotations

import io
import tarfile
from gzip import GzipFile
from hashlib import md5
from typing import Any

import numpy as np
from PIL import Image

from helpers.servers import Server
from oodbench.specs import DatasetSpec


def archive(count: int = 4, *, seed: int = 0) -> bytes:
    """A tar of images in nested folders."""
    file = io.BytesIO()
    packed = GzipFile(fileobj=file, mode="w", mtime=0)
    with packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for index in range(count):
            array = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3))
            image = io.BytesIO()
            Image.fromarray(array.astype(np.uint8)).save(image, "PNG")
            info = tarfile.TarInfo(f"toy/toy/{index}.png")
            info.size = len(image.getvalue())
            tar.addfile(info, io.BytesIO(image.getvalue()))
    return file.getvalue()


def spec(server: Server, content: bytes, **update: Any) -> DatasetSpec:
    """A manifest of a data set with one archive that the server has."""
    server.files["/toy.tar.gz"] = content
    file = {
        "name": "toy.tar.gz",
        "urls": [f"{server.url}/toy.tar.gz"],
        "md5": md5(content).hexdigest(),
        "unpacked_limit": 100_000,
    }
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": "folder",
        "files": [file],
        "paths": {"test": "."},
        "shape": [3, 6, 6],
        "splits": {"test": 4},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})
