"""Checkpoints of torch and safetensors, and saved detectors."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from robustness.hostile_inputs.arrays import Payload
from robustness.hostile_inputs.trial import Place, Trial, sha256
from safetensors.torch import load, save

from oodbench.deploy.artifact.artifact_description import DETECTOR, NAME
from oodbench.deploy.artifact.artifact_writing import STATE
from oodbench.storage.description import sealed

Words = list[str | Path]


def _evaluated(name: str, make: Callable[[Place], bytes], place: Place) -> Words:
    """An evaluation of a network with these weights."""
    path = place.file(name, make(place))
    data = place.shared / "content" / "data"
    return [
        *("evaluate", "--model", "torchvision:resnet18", "--checkpoint", path),
        *("--normalization", "none", "--transform", "8", "--device", "cpu"),
        *("--methods", "baseline", "--classes", "folders", "--out", place.folder / "evaluation"),
        *("--id", data / "colors" / "test", "--ood", f"near/dark={data / 'dark'}"),
    ]


# --- torch ---------------------------------------------------------------------------------------


def zipped(pickled: bytes, *, how: int = zipfile.ZIP_STORED, size: int = 64) -> bytes:
    """A file of torch.save with this pickle and a storage of zeros."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": b"little",
            "data/0": bytes(size),
            "version": b"3\n",
        }.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def saved(value: Any, *, new: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def called(function: str, argument: bytes) -> bytes:
    """A pickle of {"w": FUNCTION(ARGUMENT)}; the argument is pickled."""
    module, name = function.rsplit(".", 1)
    return b"\x80\x02}X\x01\x00\x00\x00w" + f"c{module}\n{name}\n".encode() + argument + b"\x85Rs."


COMMAND = b"X\x07\x00\x00\x00touch x"


def big(number: int) -> bytes:
    return b"\x8a\x06" + number.to_bytes(6, "little")


TORCH: dict[str, Callable[[Place], bytes]] = {
    "runs code": lambda place: zipped(pickle.dumps({"w": Payload(place.outside)}, 2)),
    "runs code, old format": lambda place: saved({"w": Payload(place.outside)}, new=False),
    "asks for os.system": lambda place: zipped(called("os.system", COMMAND)),
    "asks for torch.load": lambda place: zipped(called("torch.load", COMMAND)),
    "bytes of 100 GB": lambda place: zipped(called("builtins.bytearray", big(10**11))),
    "tensor of 400 GB": lambda place: zipped(called("torch.Tensor", big(10**11))),
    "tensor of 6 GB": lambda place: zipped(called("torch.Tensor", big(3 << 29))),
    "one value 100 billion times": lambda place: saved({"w": torch.zeros(1).expand(10**11)}),
    "sparse tensor of 4 TB": lambda place: saved(
        {"w": torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), [], (10**12,))}
    ),
    "tensor without values, 4 TB": lambda place: saved({"w": torch.empty(10**12, device="meta")}),
    "quantized tensor": lambda place: saved(
        {"w": torch.quantize_per_tensor(torch.zeros(9), 1.0, 0, torch.qint8)}
    ),
    "complex tensor": lambda place: saved({"w": torch.zeros(9, dtype=torch.complex64)}),
    "zeros of 1 GB, compressed": lambda place: zipped(
        called("torch.Size", b"]"), how=zipfile.ZIP_DEFLATED, size=1 << 30
    ),
    "a million brackets": lambda place: zipped(b"\x80\x02" + b"]" * 1_000_000 + b"."),
    "lists in lists, 100,000": lambda place: zipped(
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    ),
    "text of 4 GB": lambda place: zipped(b"\x80\x02X\xff\xff\xff\xffx."),
    "a memo of 4 billion": lambda place: zipped(b"\x80\x02]r\xff\xff\xff\xff."),
    "no end": lambda place: zipped(b"\x80\x02]"),
    "no pickle": lambda place: zipped(b"hello"),
    "a zip of other files": lambda place: zipped(b"").replace(b"data.pkl", b"data.txt"),
    "a script": lambda place: saved_script(),
    "names that are no text": lambda place: saved({1: torch.zeros(1), (2,): torch.zeros(1)}),
    "a name of a megabyte": lambda place: saved({"w" * (1 << 20): torch.zeros(1)}),
    "entries in entries": lambda place: saved(_nested(150)),
    "NaN": lambda place: saved({"w": torch.full((9,), torch.nan)}),
}


def saved_script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), stream)
    return stream.getvalue()


def _nested(levels: int) -> Any:
    value: Any = torch.zeros(1)
    for _ in range(levels):
        value = {"state_dict": value}
    return value


# --- safetensors ---------------------------------------------------------------------------------


def safe(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(
    dtype: str = "F32", shape: Any = (2,), start: Any = 0, end: Any = 8, name: str = "w"
) -> str:
    about = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return json.dumps({name: about})


SAFE: dict[str, Callable[[], bytes]] = {
    "header of 2**63 bytes": lambda: safe(entry(), bytes(8), 1 << 63),
    "header of 2**64 - 1 bytes": lambda: safe(entry(), bytes(8), (1 << 64) - 1),
    "header of 90 MB that is not there": lambda: safe(entry(), bytes(8), 90_000_000),
    "header of 60 MB": lambda: safe(entry() + " " * 60_000_000, bytes(8)),
    "header of a million entries": lambda: safe(
        "{" + ",".join(f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
                       for n in range(300_000)) + "}"
    ),
    "header of 100,000 brackets": lambda: safe("[" * 100_000),
    "header of 100,000 brackets as a shape": lambda: safe(
        entry(shape=[]).replace("[]", "[" * 100_000 + "]" * 100_000)
    ),
    "no JSON": lambda: safe("hello"),
    "not UTF-8": lambda: safe(b"{\xff"),
    "overlapping tensors": lambda: safe(
        entry()[:-1] + ", " + entry(start=4, end=12, name="v")[1:], bytes(12)
    ),
    "a gap": lambda: safe(entry(start=8, end=16), bytes(16)),
    "beyond the file": lambda: safe(entry(shape=[1 << 40], end=1 << 42), bytes(8)),
    "end before start": lambda: safe(entry(start=8, end=0), bytes(8)),
    "negative offsets": lambda: safe(entry(start=-8, end=0), bytes(8)),
    "shape that overflows": lambda: safe(entry(shape=[1 << 32, 1 << 32, 1 << 32]), bytes(8)),
    "shape of another size": lambda: safe(entry(shape=[3]), bytes(8)),
    "unknown type": lambda: safe(entry("F77"), bytes(8)),
    "a name twice": lambda: safe(entry()[:-1] + ", " + entry()[1:], bytes(8)),
    "bytes behind the tensors": lambda: safe(entry(), bytes(1000)),
    "only a length": lambda: struct.pack("<Q", 8),
    "empty": lambda: b"",
    "a pickle": lambda: saved({"w": torch.zeros(1)}),
}  # fmt: skip


# --- saved detectors -----------------------------------------------------------------------------


def forged(
    place: Place,
    state: Callable[[Any], Any] = lambda state: state,
    about: Callable[[dict[str, Any]], Any] = lambda about: about,
    tensors: bytes | None = None,
) -> Words:
    """A saved detector that a stranger has edited, with the right checksums."""
    folder = place.folder / "artifact"
    shutil.copytree(place.shared / "artifact", folder)
    path, held = folder / DETECTOR, json.loads((folder / NAME).read_text())
    if tensors is None:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        tensors = save(load(content), {STATE: json.dumps(state(json.loads(metadata[STATE])))})
    path.write_bytes(tensors)
    held["files"][DETECTOR] = sha256(tensors)
    (folder / NAME).write_text(json.dumps(sealed(about(held))))
    return ["score", folder, place.shared / "content" / "data" / "dark"]


def _deep(levels: int) -> Any:
    value: Any = 1
    for number in range(levels):
        value = {"t": "list", "v": [value], "id": 1000 + number}
    return value


def _bomb() -> Any:
    """Lists that repeat each other."""
    first: Any = {"t": "list", "v": [1], "id": 1000}
    for number in range(60):
        made = {"t": "ref", "id": 1000 + number}
        first = {"t": "tuple", "v": [first, made, made, made], "id": 1001 + number}
    return first


def _with(value: Any) -> Callable[[Any], Any]:
    """A state with another value of each attribute."""
    return lambda state: {**state, "state": dict.fromkeys(state["state"], value)}


STATES: dict[str, Callable[[Any], Any]] = {
    "runs code": _with({"t": "object", "class": "subprocess:Popen", "v": {}}),
    "tensor of 10**15": _with(
        {"t": "tensor", "storage": "x", "dtype": "float32", "size": [10**15], "stride": [0],
         "offset": 0}
    ),
    "lists in lists, 300": _with(_deep(300)),
    "lists in lists, 20,000": lambda state: "HERE",
    "values that repeat": _with(_bomb()),
    "an integer of a million digits": _with({"t": "int", "v": "f" * 1_000_000}),
    "a range of 10**18": _with({"t": "range", "v": [0, 10**18, 1]}),
    "10**9 threads": _with({"t": "dtype", "v": "load"}),
    "no attributes": lambda state: {**state, "state": {}},
    "text": lambda state: "state",
}  # fmt: skip


def _nested_state(place: Place) -> Words:
    """A state that is nested too deeply for Python's parser of JSON."""
    text = json.dumps({STATE: '{"state": ' + "[" * 100_000 + "]" * 100_000 + "}"})
    return forged(place, tensors=safe('{"__metadata__": ' + text + "}"))


ABOUT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another file": lambda about: {**about, "files": {"../../outside/secret": "0" * 64}},
    "a file more": lambda about: {**about, "files": {**about["files"], "/etc/passwd": "0" * 64}},
    "10**18 images of a side": lambda about: json.loads(
        json.dumps(about).replace("[3, 8, 8]", f"[3, {10**18}, {10**18}]")
    ),
    "a schema of 10**30": lambda about: {**about, "schema_version": 10**30},
    "a threshold that is none": lambda about: {**about, "threshold": {"value": "x"}},
}


def trials() -> list[Trial]:
    """All of them."""
    bound = {"memory": 600 << 20, "seconds": 60}
    found = [
        Trial("torch", name, partial(_evaluated, "w.pt", make), **bound)
        for name, make in TORCH.items()
    ]
    found += [
        Trial("safetensors", name, partial(_evaluated, "w.safetensors", partial(_no_place, make)),
              **bound)
        for name, make in SAFE.items()
    ]  # fmt: skip
    for name, state in STATES.items():
        make = _nested_state if name == "lists in lists, 20,000" else partial(forged, state=state)
        # A state that a detector makes nothing of may be read; scores of it fail.
        found.append(Trial("artifact", name, make, (2, 3)))
    found += [
        Trial("artifact", name, partial(forged, about=about)) for name, about in ABOUT.items()
    ]
    return found


def _no_place(make: Callable[[], bytes], place: Place) -> bytes:
    return make()
