"""NumPy archives of images and of scores, MATLAB files, idx files, batches of CIFAR."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from robustness.hostile_inputs.runs import edited_run, reading
from robustness.hostile_inputs.trial import Place, Trial, manifest, sha256

Words = list[str | Path]


def header(dtype: str, shape: Any, order: str = "False", text: str = "") -> bytes:
    """The header of an array, whatever it says."""
    words = text or f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}}}"
    padded = words.encode() + b" " * (-(len(words) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def whole(array: Any) -> bytes:
    """The file of an array; of one of Python objects, with its pickle."""
    stream = io.BytesIO()
    npy.write_array(stream, array)
    return stream.getvalue()


class Payload:
    """Writes into a folder that no trial may write into, when it is unpickled."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.outside / 'new')!r}, 'w')",))


def npz(path: Path, members: dict[str, bytes], *, compressed: bool = True) -> None:
    """An archive of members as they are."""
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def _images(content: Callable[[Place], bytes], place: Place) -> Words:
    """A data set of kind npz."""
    npz(place.file("data/toy/a.npz", b""), {"images": content(place)})
    return manifest(place, kind="npz", paths={"test": "a.npz"})


def _zeros(path: Path, name: str, first: bytes, size: int) -> None:
    """A member with a header, then zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        file.write(first)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def _bomb(shape: list[int], place: Place) -> Words:
    """Arrays of zeros that would fill gigabytes, in megabytes."""
    path = place.file("data/toy/a.npz", b"")
    _zeros(path, "images", header("|u1", tuple(shape)), int(np.prod(shape)))
    return manifest(place, kind="npz", paths={"test": "a.npz"})


SHAPE = (10, 8, 8, 3)
IMAGES: dict[str, Callable[[Place], bytes]] = {
    "objects": lambda place: whole(np.array([Payload(place.outside)], dtype=object)),
    "header of objects": lambda place: header("|O", SHAPE) + bytes(80),
    "100 TB": lambda place: header("|u1", (10, 1 << 22, 1 << 22, 3)),
    "2**80 values": lambda place: header("|u1", (10, 1 << 40, 1 << 40, 3)),
    "50 GB": lambda place: header("|u1", (10, 1 << 16, 1 << 15, 3)),
    "negative shape": lambda place: header("|u1", (-1, 8, 8, 3)) + bytes(1920),
    "shape of 100 dimensions": lambda place: header("|u1", (1,) * 100) + b"1",
    "Fortran order, float": lambda place: whole(np.zeros(SHAPE, order="F")),
    "type of 1 GB a value": lambda place: header("|V1000000000", SHAPE),
    "text": lambda place: whole(np.array(["a"] * 10)),
    "dates": lambda place: whole(np.zeros(10, "M8[s]")),
    "fields": lambda place: whole(np.zeros(10, [("a", "u1"), ("b", "f8")])),
    "header that is code": lambda place: header("", (), text="__import__('os').system('touch x')"),
    "header of a million brackets": lambda place: header("", (), text="(" * 60_000),
    "no header": lambda place: b"\x93NUMPY\x09\x09",
    "shorter than it says": lambda place: header("|u1", SHAPE) + bytes(100),
    "bool": lambda place: whole(np.zeros(SHAPE, bool)),
}


# --- scores --------------------------------------------------------------------------------------


def _scores(members: Callable[[Place], dict[str, bytes]], command: str, place: Place) -> Words:
    """A run with other scores of its first method."""
    run = edited_run(place)
    npz(run / "scores" / "Net+MSP" / "seed0.npz", members(place))
    return reading(command, run)


def _score_bomb(command: str, place: Place) -> Words:
    run = edited_run(place)
    path = run / "scores" / "Net+MSP" / "seed0.npz"
    _zeros(path, "id", header("<f8", (1 << 28,)), 1 << 31)
    return reading(command, run)


def _valid(**arrays: Any) -> dict[str, bytes]:
    found = {"id": np.linspace(0, 1, 36), "dark": np.zeros(20), "noise": np.ones(20)}
    return {name: whole(np.asarray(each)) for name, each in {**found, **arrays}.items()}


SCORES: dict[str, Callable[[Place], dict[str, bytes]]] = {
    "objects": lambda place: _valid(id=np.array([Payload(place.outside)] * 36, dtype=object)),
    "100 TB": lambda place: {**_valid(), "id": header("<f8", (1 << 44,))},
    "two dimensions": lambda place: _valid(id=np.zeros((36, 2))),
    "no dimension": lambda place: _valid(id=np.float64(1)),
    "text": lambda place: _valid(id=np.array(["a"] * 36)),
    "complex": lambda place: _valid(id=np.zeros(36, complex)),
    "fields": lambda place: _valid(id=np.zeros(36, [("a", "f8")])),
    "no images": lambda place: _valid(id=np.zeros(0)),
    "NaN": lambda place: _valid(id=np.full(36, np.nan)),
    "names that lead out": lambda place: {**_valid(), "../../x": whole(np.zeros(20))},
    "a million empty arrays": lambda place: {str(n): b"" for n in range(20_000)},
}


# --- MATLAB, idx, CIFAR --------------------------------------------------------------------------


def _torchvision(builder: str, files: dict[str, bytes], place: Place) -> Words:
    for name, content in files.items():
        place.file(f"data/toy/{name}", content)
    shape = [1, 28, 28] if builder == "MNIST" else [3, 32, 32]
    return manifest(place, kind="torchvision", builder=builder, shape=shape, num_classes=10)


def _mat(elements: bytes) -> dict[str, bytes]:
    start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    return {"test_32x32.mat": start + elements}


def _compressed(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return struct.pack("<II", 15, len(packed)) + packed


def _matrix(name: bytes, shape: tuple[int, ...], data: bytes, says: int | None = None) -> bytes:
    flags = struct.pack("<IIII", 6, 8, 9, 0)
    sizes = struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape)
    label = struct.pack("<II", 1, len(name)) + name.ljust(8, b"\0")
    values = struct.pack("<II", 2, len(data) if says is None else says) + data
    body = flags + sizes + bytes(-len(sizes) % 8) + label + values + bytes(-len(values) % 8)
    return struct.pack("<II", 14, len(body)) + body


MATS: dict[str, Callable[[], bytes]] = {
    "100 GB in a header": lambda: _matrix(b"X", (32, 32, 3, 1 << 25), b"", says=0x7FFFFFFF),
    "compressed zeros, 1 GB": lambda: _compressed(
        _matrix(b"X", (32, 32, 3, (1 << 30) // 3072), bytes(1 << 30))
    ),
    "negative shape": lambda: _matrix(b"X", (32, 32, 3, -1), b"1"),
    "zeros, 80 GB": lambda: _compressed(_matrix(b"X", (10**5, 10**5), b"", says=0x7FFFFFFF)),
    "element longer than the file": lambda: struct.pack("<II", 14, 0x7FFFFFFF),
    "compressed in itself": lambda: _compressed(_compressed(_compressed(b"1" * 8))),
}
IDX: dict[str, bytes] = {
    "2**96 images": b"\0\0\x08\x03" + b"\xff" * 12,
    "4 billion images": b"\0\0\x08\x03" + struct.pack(">III", 0xFFFFFFFF, 28, 28),
    "unknown type": b"\0\0\x77\x03" + struct.pack(">III", 1, 28, 28) + bytes(784),
    "255 dimensions": b"\0\0\x08\xff" + bytes(9),
    "other magic number": b"MZ" + bytes(100),
}


def _cifar(content: Callable[[Place], bytes], place: Place) -> Words:
    """An archive of CIFAR-10 whose test batch is another pickle."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        batch = content(place)
        for name in ("test_batch", "batches.meta"):
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(batch)
            tar.addfile(info, io.BytesIO(batch))
    place.file("data/toy/c.tar.gz", stream.getvalue())
    about = {"name": "c.tar.gz", "sha256": sha256(stream.getvalue()), "unpacked_limit": 1 << 30}
    keys: dict[str, Any] = {"kind": "torchvision", "builder": "CIFAR10", "files": [about]}
    return manifest(place, shape=[3, 32, 32], num_classes=10, **keys)


PICKLES: dict[str, Callable[[Place], bytes]] = {
    "runs code": lambda place: pickle.dumps({b"data": Payload(place.outside)}),
    "asks for os.system": lambda place: b"cposix\nsystem\n(S'touch x'\ntR.",
    "object arrays": lambda place: pickle.dumps(np.array([Payload(place.outside)], dtype=object)),
    "a list in itself": lambda place: b"(lp0\ng0\na.",
    "a million brackets": lambda place: b"(" * 1_000_000 + b".",
    "text of 4 GB": lambda place: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 32) + b"x.",
}


def trials() -> list[Trial]:
    """All of them."""
    found = [Trial("npz", name, partial(_images, make)) for name, make in IMAGES.items()]
    found += [
        Trial("npz", "2 GB of zeros, a number of images that is wrong",
              partial(_bomb, [700_000, 32, 32, 3])),
        Trial("npz", "2 GB of zeros, another shape", partial(_bomb, [10, 1 << 27, 2])),
    ]  # fmt: skip
    for command in ("verify", "report"):
        # A report reads scores only for what records lack, and says nothing of others.
        ends = (1, 2) if command == "verify" else (0, 1, 2)
        found += [
            Trial("scores", f"{name} ({command})", partial(_scores, make, command), ends)
            for name, make in SCORES.items()
        ]
        found.append(Trial("scores", f"2 GB of zeros ({command})",
                           partial(_score_bomb, command), ends))  # fmt: skip
    found += [
        Trial(
            "mat", name, partial(_mat_trial, make), memory=(2048 if "1 GB" in name else 400) << 20
        )
        for name, make in MATS.items()
    ]
    found += [
        Trial("idx", name, partial(_torchvision, "MNIST", dict.fromkeys(_IDX_FILES, content)))
        for name, content in IDX.items()
    ]
    found += [Trial("pickle", name, partial(_cifar, make)) for name, make in PICKLES.items()]
    return found


_IDX_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _mat_trial(make: Callable[[], bytes], place: Place) -> Words:
    return _torchvision("SVHN", _mat(make()), place)
