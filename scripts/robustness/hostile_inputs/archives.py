"""Tar, zip and gz files, and lists of images in them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from robustness.hostile_inputs.trial import Place, Trial, manifest, sha256

LIMIT = 1_000_000
"""Bytes that the manifests allow after unpacking."""

Words = list[str | Path]


def _unpacked(write: Callable[[Path], object], name: str, place: Place) -> Words:
    """A data set whose archive is there."""
    path = place.file(f"data/toy/{name}", b"")
    write(path)
    checksum = sha256(path.read_bytes())
    about = {"name": name, "sha256": checksum, "unpacked_limit": LIMIT}
    return manifest(place, files=[about])


def _read_in_place(write: Callable[[Path], object], name: str, place: Place) -> Words:
    """A list whose images are in an archive that is read as it is."""
    path = place.file(f"data/pictures/{name}", b"")
    write(path)
    listing = "".join(f"images/{index}.png -1\n" for index in range(10))
    place.file("data/lists/test.txt", listing)
    return manifest(
        place,
        kind="list",
        folder=".",
        lists={"test": {"path": "lists/test.txt", "sha256": sha256(listing.encode())}},
        places=[{"folder": "pictures", "path": name}],
    )


# --- tar -----------------------------------------------------------------------------------------


def _header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """The header of a member, with any size."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (
        b"%011o\0" % size if 0 <= size < 8**11 else (size % (1 << 96)).to_bytes(12, "big")
    )
    if size < 0:
        block[124] = 0xFF
    elif size >= 8**11:
        block[124] = 0x80
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:512]))
    return bytes(block)


def _member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    return _header(name, len(content), kind) + content + bytes(-len(content) % 512)


def _tar(parts: Callable[[], Iterable[bytes]], path: Path) -> None:
    """A compressed tar of these bytes; large ones are not kept in memory."""
    suffix = path.name.partition(".tar")[2]
    opened = {"": open, ".gz": partial(gzip.open, compresslevel=1)}[suffix]
    with opened(path, "wb") as file:
        for part in parts():
            file.write(part)
        file.write(bytes(1024))


def _pax(**values: str) -> bytes:
    """A pax header for the next member."""
    records = b""
    for key, value in values.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        records += str(length).encode() + text
    return _member("pax", records, tarfile.XHDTYPE)


def _many(count: int, name: Callable[[int], str]) -> Iterator[bytes]:
    return (_header(name(index)) for index in range(count))


def _chain(count: int) -> Iterator[bytes]:
    """Links to links to links, the longest chain last and first."""
    for index in range(count):
        yield _header(f"{index}", kind=tarfile.SYMTYPE, link=f"{index + 1}")
    yield _member(f"{count}", b"end")


def _backwards(count: int) -> Iterator[bytes]:
    """Every name twice, the second time in the other order: reading them goes back each time."""
    zeros = bytes(1 << 16)
    for index in range(count):
        yield _member(f"{index}", zeros[:1])
    for index in reversed(range(count)):
        yield _member(f"{index}", zeros[:300])


def _endless_map() -> Iterator[bytes]:
    """A sparse file whose list of parts goes on beyond the end of the tar."""
    yield _pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="9")
    yield _member("a", b"9999999\n1\n")


TARS: dict[str, Callable[[], Iterable[bytes]]] = {
    "link out": lambda: [_header("x", kind=tarfile.SYMTYPE, link="../../../../outside/new")],
    "absolute link": lambda: [_header("x", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "hard link out": lambda: [_header("x", kind=tarfile.LNKTYPE, link="../../outside/secret")],
    "write through a link": lambda: [
        _header("x", kind=tarfile.SYMTYPE, link="../../../outside"),
        _member("x/new", b"1"),
    ],
    "link to the folder above, in two steps": lambda: [
        _header("a", kind=tarfile.SYMTYPE, link="."),
        _header("b", kind=tarfile.SYMTYPE, link="a/.."),
        _member("b/new", b"1"),
    ],
    "absolute path": lambda: [_member("/tmp/oodbench-hostile", b"1")],
    "..": lambda: [_member("../../../outside/new", b"1")],
    ".. in the middle": lambda: [_member("images/../../../../outside/new", b"1")],
    "backslashes": lambda: [_member("..\\..\\outside\\new", b"1")],
    "drive": lambda: [_member("C:new", b"1")],
    "character device": lambda: [_header("null", kind=tarfile.CHRTYPE)],
    "block device": lambda: [_header("disk", kind=tarfile.BLKTYPE)],
    "pipe": lambda: [_header("pipe", kind=tarfile.FIFOTYPE)],
    "unknown kind of member": lambda: [_header("x", 1 << 70, kind=b"Z")],
    "says 8 EiB": lambda: [_header("x", 1 << 63)],
    "says 2**80 bytes": lambda: [_header("x", 1 << 80)],
    "negative size": lambda: [_member("fine", b"1"), _header("x", -1024), _member("y", b"1")],
    "negative size in a pax header": lambda: [_pax(size="-1024"), _member("x", b"1")],
    "negative size of a long name": lambda: [_header("x", -512, kind=tarfile.GNUTYPE_LONGNAME)],
    "sparse file of 8 TiB": lambda: [
        _pax(
            GNU__sparse__size=str(1 << 43),
            GNU__sparse__numblocks="1",
            GNU__sparse__map="0,1",
            GNU__sparse__name="x",
        ),
        _member("x", b"1"),
    ],
    "sparse map without end": _endless_map,
    "sparse map of negative parts": lambda: [
        _pax(GNU__sparse__size="512", GNU__sparse__map="-9,5,400,-300", GNU__sparse__name="x"),
        _member("x", bytes(512)),
    ],
    "long name of 64 MB": lambda: [
        _header("x", 1 << 26, kind=tarfile.GNUTYPE_LONGNAME),
        *(bytes([120]) * (1 << 20) for _ in range(64)),
        _member("y", b"1"),
    ],
    "2 million long names": lambda: (
        part
        for index in range(1_000_000)
        for part in (_member("n", b"y" * 1000 + b"%d" % index, tarfile.GNUTYPE_LONGNAME), _EMPTY)
    ),
    "2.1 million members": lambda: (_EMPTY for _ in range(2_100_000)),
    "headers of headers": lambda: (
        _member("n", b"x", tarfile.GNUTYPE_LONGNAME) for _ in range(3000)
    ),
    "chain of 20,000 links to nowhere": lambda: [
        *list(_chain(20_000))[:-1],
    ],
    "bomb of 100 MB": lambda: [
        _header("x", 100 << 20),
        *(bytes(1 << 20) for _ in range(100)),
    ],
    "links that copy beyond the limit": lambda: [
        _member("x", bytes(LIMIT // 2)),
        *(_header(f"{n}", kind=tarfile.LNKTYPE, link="x") for n in range(9)),
    ],
    "file and folder of one name": lambda: [_member("a", b"1"), _member("a/b", b"1")],
    "name of 300 bytes": lambda: [
        _member("n", b"n" * 300 + b"\0", tarfile.GNUTYPE_LONGNAME),
        _member("x", b"1"),
    ],
    "name with a zero": lambda: [_pax(path="a\0b"), _member("x", b"1")],
    "only a header": lambda: [_header("x", 10)],
}
_EMPTY = _header("x")


def _valid_but_slow(parts: Callable[[], Iterable[bytes]]) -> Callable[[Place], Words]:
    """An archive within all limits, whose images are none: unpacked quickly, then refused."""
    return partial(_unpacked, partial(_tar, parts), "a.tar.gz")


# --- zip, gz -------------------------------------------------------------------------------------


def _zip(entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def _special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def _patched(path: Path, entries: list[tuple[str, bytes]], **fields: int) -> None:
    """A zip with other numbers in both of its headers."""
    places = {"size": (22, 24), "compressed": (18, 20), "method": (8, 10), "flags": (6, 8)}
    _zip(entries, path)
    data = bytearray(path.read_bytes())
    for name, value in fields.items():
        form = "<H" if name in ("method", "flags") else "<I"
        for start, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), places[name], strict=True):
            struct.pack_into(form, data, data.index(start) + offset, value)
    path.write_bytes(data)


def _overlapping(path: Path, count: int = 2000) -> None:
    """Many members that share the data of one: 2,000 x 1 MB in 40 kB."""
    _zip([("0", bytes(1 << 20))], path)
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    entries = b"".join(entry[:46] + b"%d" % (index % 10) for index in range(count))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + end)


def _nested(path: Path) -> None:
    """A zip in a zip in a zip, ten levels: only the first one is unpacked."""
    content = bytes(10_000)
    for level in range(10):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(10):
                archive.writestr(f"{level}-{index}.zip", content)
        content = stream.getvalue()
    path.write_bytes(content)


def _many_entries(path: Path) -> None:
    """A directory of 300,000 members without data."""
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"x"
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, *[0] * 14)
    entry = bytearray(entry)
    struct.pack_into("<H", entry, 28, 8)
    directory = b"".join(bytes(entry) + b"../%05d" % (index % 99_999) for index in range(300_000))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 31, 0)
    path.write_bytes(local + directory + end)


ZIPS: dict[str, Callable[[Path], object]] = {
    "..": partial(_zip, [("../../../outside/new", b"1")]),
    "absolute path": partial(_zip, [("/tmp/oodbench-hostile", b"1")]),
    "backslashes": partial(_zip, [("..\\outside\\new", b"1")]),
    "link": partial(_zip, [(_special("x", 0o120777), b"/etc/passwd")]),
    "device": partial(_zip, [(_special("x", 0o020666), b"")]),
    "bomb of 100 MB": lambda path: _zip([("x", bytes(100 << 20))], path),
    "bomb that says 10 bytes": lambda path: _patched(path, [("x", bytes(50 << 20))], size=10),
    "data longer than the file": lambda path: _patched(
        path, [("x", bytes(1000))], compressed=0xFFFFFFF0
    ),
    "unknown compression": lambda path: _patched(path, [("x", b"1")], method=77),
    "encrypted": lambda path: _patched(path, [("x", b"1")], flags=1),
    "2,000 members that share data": _overlapping,
    "300,000 members": _many_entries,
    "LZMA that asks for 4 GB": lambda path: _lzma(path),
    "file and folder of one name": partial(_zip, [("a", b"1"), ("a/b", b"2")]),
    "directory beyond the file": lambda path: path.write_bytes(
        struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 9, 9, 1 << 30, 1 << 31, 0)
    ),
    "zips in zips": _nested,
}


def _lzma(path: Path) -> None:
    """A member whose LZMA header asks for a dictionary of 4 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x", bytes(1000))
    data = bytearray(path.read_bytes())
    place = 30 + 1 + 4  # after the header, the name, and the version and length of the properties
    data[place + 1 : place + 5] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


def _images_bomb(path: Path) -> None:
    """Ten "images" of 500 MB of zeros each, in a zip of 5 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(10):
            with archive.open(f"images/{index}.png", "w", force_zip64=True) as file:
                for _ in range(2000 if index == 0 else 1):
                    file.write(bytes(1 << 20))


def _images(path: Path, **fields: int) -> None:
    _patched(path, [(f"images/{index}.png", bytes(1000)) for index in range(10)], **fields)


IN_PLACE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "zip: bomb of 2 GB": ("images.zip", _images_bomb),
    "zip: says 10 bytes": ("images.zip", lambda path: _images(path, size=10)),
    "zip: data longer than the file": (
        "images.zip",
        lambda path: _images(path, compressed=0x3FFFFFFF),
    ),
    "zip: unknown compression": ("images.zip", lambda path: _images(path, method=77)),
    "tar: sizes of 2**70": (
        "images.tar",
        partial(_tar, lambda: [_header(f"images/{n}.png", 1 << 70) for n in range(10)]),
    ),
    "tar: says 1 GB": (
        "images.tar",
        partial(_tar, lambda: [_header("images/0.png", 1 << 30)]),
    ),
    "tar: negative size": ("images.tar", partial(_tar, TARS["negative size"])),
    "tar: sparse map without end": ("images.tar", partial(_tar, _endless_map)),
    "tar: long name of 64 MB": ("images.tar", partial(_tar, TARS["long name of 64 MB"])),
    "tar: headers of headers": ("images.tar", partial(_tar, TARS["headers of headers"])),
    "tar: unknown kind of member": ("images.tar", partial(_tar, TARS["unknown kind of member"])),
}


def _flipped(number: int, path: Path) -> None:
    """An archive with bytes that were changed at random."""
    draw = random.Random(number)
    kinds: list[Callable[[Path], object]] = [
        partial(_tar, lambda: [_pax(path="a/b"), _member("a", b"1"), _member("c", bytes(700))]),
        partial(_tar, TARS["sparse map of negative parts"]),
        partial(_zip, [("images/0.png", b"123" * 99), ("1", b"")]),
    ]
    kind = number % 3
    kinds[kind](path)
    data = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] = draw.choice((0, 0xFF, 0x80, draw.randrange(256)))
    path.write_bytes(data)


def trials() -> list[Trial]:
    """All of them."""
    found = [
        Trial("tar", name, partial(_unpacked, partial(_tar, parts), "a.tar.gz"), **_more(name))
        for name, parts in TARS.items()
    ]
    found += [
        Trial("tar", f"damaged at random, {number}", partial(_unpacked, write, f"a{suffix}"))
        for number in range(12)
        for write, suffix in [
            (partial(_flipped, number), ".zip" if number % 3 == 2 else ".tar"),
        ]
    ]
    found += [
        Trial("tar", name, _valid_but_slow(parts), seconds=60)
        for name, parts in {
            "chain of 20,000 links": lambda: _chain(20_000),
            "3,000 names twice, backwards": lambda: _backwards(3000),
        }.items()
    ]
    found += [
        Trial("tar", f"{name} of zeros", partial(_unpacked, write, f"a.tar{suffix}"))
        for name, suffix, write in (
            ("bz2", ".bz2", lambda path: path.write_bytes(bz2.compress(bytes(50 << 20)))),
            ("xz", ".xz", lambda path: path.write_bytes(lzma.compress(bytes(50 << 20)))),
        )
    ]
    found += [
        Trial("zip", name, partial(_unpacked, write, "a.zip")) for name, write in ZIPS.items()
    ]
    found.append(
        Trial(
            "gz",
            "bomb of 200 MB",
            partial(
                _unpacked, lambda path: path.write_bytes(gzip.compress(bytes(200 << 20))), "a.gz"
            ),
        )
    )
    found += [
        Trial("list", name, partial(_read_in_place, write, file), memory=1200 << 20)
        for name, (file, write) in IN_PLACE.items()
    ]
    return found


def _more(name: str) -> dict[str, int]:
    """Bounds of inputs that have as many members as may be."""
    if name.startswith("2"):
        return {"memory": 4 << 30, "seconds": 400}
    return {}
