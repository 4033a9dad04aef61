"""Unpacking: what is refused before anything is written, and what is found while it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from oodbench.data.readers import tar_members
from oodbench.data.store.archives import Unpacked, unpack
from oodbench.errors import UserError

LIMIT = 10_000


def member(name: str, content: bytes = b"", **about: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in about.items():
        setattr(info, key, value)
    return info, content


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=to)


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def unpacked(path: Path, limit: int = LIMIT) -> tuple[Unpacked, dict[str, bytes]]:
    folder = path.parent / "into"
    folder.mkdir()
    record = unpack(path, path.name, folder, limit)
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert record == {name: (len(data), sha256(data).hexdigest()) for name, data in files.items()}
    return record, files


def refusal(path: Path, limit: int = LIMIT, *, wrote_nothing: bool = True) -> str:
    folder = path.parent / "into"
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        unpack(path, path.name, folder, limit)
    assert str(path) in caught.value.message
    assert caught.value.hint
    if wrote_nothing:
        assert list(folder.iterdir()) == []
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted([path.name, "into"])
    return caught.value.message


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_tar(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    mode = {".tar": "w", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}.get(suffix, "w:gz")
    with tarfile.open(path, mode) as tar:
        for info, content in (member("./x/1", b"one"), member("x", type=tarfile.DIRTYPE)):
            tar.addfile(info, io.BytesIO(content))
    assert unpacked(path)[1] == {"x/1": b"one"}


def test_links_become_copies(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar.gz",
        link("x/late", "../y/soft"),
        member("x/1", b"one"),
        link("y/soft", "../x/1"),
        link("hard", "x/1", tarfile.LNKTYPE),
    )
    files = unpacked(path)[1]
    assert files == {"x/1": b"one", "y/soft": b"one", "x/late": b"one", "hard": b"one"}
    assert not any(file.is_symlink() for file in (tmp_path / "into").rglob("*"))


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar.gz",
        member("1", b"first"),
        link("2", "1"),
        member("1", b"last"),
        member("2", b"no link any more"),
    )
    assert unpacked(path)[1] == {"1": b"last", "2": b"no link any more"}


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "x/../../outside",
        "/absolute",
        "C:/drive",
        "C:drive",
        "\\\\host\\share\\x",
        "a\\b",
    ],
)
def test_members_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", member("fine", b"1"), member(name, b"2"))
    assert f"its member '{name}' lies outside of the folder" in refusal(tar)


@pytest.mark.parametrize("name", ["../outside", "/absolute", "x/../../outside"])
def test_members_outside_of_the_folder_in_a_zip(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine", b"1")
        archive.writestr(name, b"2")
    assert f"its member '{name}' lies outside of the folder" in refusal(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("to", ["../outside", "/etc/passwd", "../../x/y", ".."])
def test_links_that_lead_out(tmp_path: Path, to: str, kind: bytes) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", member("fine", b"1"), link("x", to, kind))
    assert "its link 'x' leads out of the folder" in refusal(tar)


def test_writing_through_a_link(tmp_path: Path) -> None:
    """A link to a folder outside, and a member "in" it."""
    tar = make_tar(tmp_path / "a.tar.gz", link("x", "/tmp"), member("x/evil", b"1"))
    assert "leads out" in refusal(tar)


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ([link("x", "none")], "its link 'x' leads to no file of the archive"),
        ([link("x", "y"), link("y", "x")], "leads to itself"),
    ],
)
def test_links_that_lead_nowhere(
    tmp_path: Path, links: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    assert reason in refusal(make_tar(tmp_path / "a.tar.gz", *links))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", member("fine", b"1"), member("null", type=kind))
    assert "its member 'null' is a device or a pipe" in refusal(tar)


def test_links_and_encrypted_members_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("x")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "its member 'x' is a link or a device" in refusal(path)
    (path.parent / "into").rmdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "secret")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "its member 'x' is encrypted" in refusal(path)


def test_a_bomb_that_tells_its_size(tmp_path: Path) -> None:
    bomb = bytes(LIMIT)
    tar = make_tar(tmp_path / "a.tar.gz", member("1", bomb), member("2", b"!"))
    assert "its content is larger than 10,000 bytes" in refusal(tar)


def test_a_bomb_of_links(tmp_path: Path) -> None:
    links = [link(f"copy{n}", "1") for n in range(9)]
    tar = make_tar(tmp_path / "a.tar.gz", member("1", bytes(LIMIT // 5)), *links)
    assert "its content is larger than 10,000 bytes" in refusal(tar)


def long_header(kind: bytes, size: int) -> tuple[tarfile.TarInfo, bytes]:
    """A pax header with a comment, or a long name, of so many bytes."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return member("long", b"x" * size, type=kind)
    length = size + len(" comment=\n")
    length += len(str(length + len(str(length))))  # a record's length counts its own digits
    return member("long", b"%d comment=%s\n" % (length, b"x" * size), type=kind)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_fills_the_memory(tmp_path: Path, kind: bytes, suffix: str) -> None:
    size = 20_000_000
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in (member("0", b"fine"), long_header(kind, size), member("1", b"1")):
            tar.addfile(info, io.BytesIO(content))
    pack = {".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack.get(suffix, bytes)(plain.getvalue()))
    del plain, content
    tracemalloc.start()
    try:
        message = refusal(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "the headers of its members are longer than names and links need" in message
    assert most < size / 2


def test_many_headers_that_fill_the_memory_together(tmp_path: Path) -> None:
    pairs = [long_header(tarfile.XHDTYPE, 100_000), member("1", b"1")] * 20
    assert "the headers of its members are longer" in refusal(make_tar(tmp_path / "a.tgz", *pairs))


def test_headers_of_headers(tmp_path: Path) -> None:
    nested = [long_header(tarfile.GNUTYPE_LONGNAME, 9)] * 800
    path = make_tar(tmp_path / "a.tar.gz", *nested, member("1", b"1"))
    assert f"Cannot unpack {path}: " in refusal(path)


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MOST_MEMBERS", 5)
    path = make_tar(tmp_path / "a.tar.gz", *(member(str(index)) for index in range(6)))
    assert "it has more than 5 members" in refusal(path)


def test_too_many_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "_NAMES", 1000)
    path = make_tar(tmp_path / "a.tar.gz", *(member(f"{index:0200}") for index in range(6)))
    assert "the headers of its members are longer" in refusal(path)


@pytest.mark.parametrize("size", [b"-0000001000\0", b"\xff" * 11 + b"\0"], ids=["octal", "binary"])
def test_a_negative_size(tmp_path: Path, size: bytes) -> None:
    """tarfile goes back by it and reads the same headers again, without end."""
    header = bytearray(member("1")[0].tobuf())
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    path = tmp_path / "a.tar"
    path.write_bytes(member("0")[0].tobuf() + bytes(header) + bytes(1024))
    assert "the size of its member '1' is negative" in refusal(path)


def test_a_chain_of_links_is_followed_once(tmp_path: Path) -> None:
    """Followed from each of its links, it takes 200 million steps."""
    count = 20_000
    links = [link(f"{index}", f"{index + 1}") for index in range(count)]
    path = make_tar(tmp_path / "a.tar.gz", *links)
    assert "its link '0' leads to no file of the archive" in refusal(path)
    (path.parent / "into").rmdir()
    path = make_tar(tmp_path / "a.tar.gz", *links, member(f"{count}", b"x" * 10))
    assert "its content is larger than 10,000 bytes" in refusal(path)


def test_contents_are_read_in_the_order_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going back, a compressed archive is read from its start."""
    names = [str(index) for index in range(9)]
    first, last = ([member(name, b"x" * 9) for name in each] for each in (names, names[::-1]))
    read: list[str] = []
    extract = tarfile.TarFile.extractfile

    def noted(self: tarfile.TarFile, info: tarfile.TarInfo) -> object:
        read.append(info.name)
        return extract(self, info)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", noted)
    assert len(unpacked(make_tar(tmp_path / "a.tar.gz", *first, *last))[1]) == 9
    assert read == names[::-1]


def test_long_names_and_large_members(tmp_path: Path) -> None:
    """What honest archives have: a long name for every member, contents beyond any header."""
    folder = "/".join(["x" * 200] * 3)
    files = {f"{folder}/{index}": b"%d" % index for index in range(1200)}
    files["large"] = np.random.default_rng(0).bytes(3_000_000)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / str(form) / "a.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz", format=form, compresslevel=1) as tar:
            for info, content in (member(name, content) for name, content in files.items()):
                tar.addfile(info, io.BytesIO(content))
        assert unpacked(path, 4_000_000)[1] == files


def test_the_content_tells_how_a_tar_is_compressed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", member("1", b"one"))
    assert unpacked(path)[1] == {"1": b"one"}


def test_a_zip_bomb_that_tells_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1", bytes(LIMIT + 1))
    assert "its content is larger than 10,000 bytes" in refusal(path)


def test_a_zip_bomb_that_lies(tmp_path: Path) -> None:
    """Its headers say ten bytes; the data are a million."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1", bytes(1_000_000))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + offset, 10)
    path.write_bytes(data)
    refusal(path, wrote_nothing=False)
    assert sum(file.stat().st_size for file in (tmp_path / "into").rglob("*")) <= LIMIT


def test_a_gz_bomb_that_lies(tmp_path: Path) -> None:
    """The length in the last bytes is not believed."""
    data = bytearray(gzip.compress(bytes(5_000_000)))
    data[-4:] = struct.pack("<I", 10)
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    message = refusal(path, wrote_nothing=False)
    assert "its content is larger than 10,000 bytes" in message
    assert sum(file.stat().st_size for file in (tmp_path / "into").rglob("*")) <= LIMIT


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(LIMIT)))
    assert unpacked(path)[1] == {"a": bytes(LIMIT)}


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.gz", "b.tar", "c.tar.xz"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = {
        "a.tar.gz": lambda: make_tar(path, member("1", bytes(range(256)) * 30)).read_bytes(),
        "a.gz": lambda: gzip.compress(bytes(range(256)) * 30),
    }.get(name, lambda: b"no archive at all")()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"Cannot unpack {path}: " in refusal(path, wrote_nothing=False)


def test_a_member_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1", b"some content")
    data = bytearray(path.read_bytes())
    data[data.index(b"some")] ^= 1
    path.write_bytes(data)
    assert "Bad CRC-32" in refusal(path, wrote_nothing=False)


def test_an_unknown_ending(tmp_path: Path) -> None:
    path = tmp_path / "a.rar"
    path.write_bytes(b"Rar!")
    assert "cannot tell from the name 'a.rar' how to unpack it" in refusal(path)


def test_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    path = make_tar(tmp_path / "a.tar.gz", member("1", bytes(5000)))
    (tmp_path / "into").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(UserError, match=r"No space left on the disk .*into/1"):
            unpack(path, path.name, tmp_path / "into", LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
