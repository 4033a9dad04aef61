"""Files without a published checksum, and text files, whose line ends may differ."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.servers import Server, send, serving
from helpers.toy_set import archive, spec

from oodbench.data import load_split
from oodbench.data.store import checksums as checksums_module
from oodbench.data.store import download as download_module
from oodbench.data.store.checksums import first_fetch, record_path
from oodbench.data.store.fetching import checksums_of, fetch
from oodbench.data.store.verification import verify
from oodbench.errors import UserError
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec
from oodbench.version import __version__

REASON = "the authors publish none"
CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = 2 << 16
LINES = b"a.png 0\nb.png 1\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)
    with serving() as running:
        running.files["/a.bin"] = CONTENT
        yield running


def unverified(server: Server, content: bytes | None = None, **update: Any) -> DatasetSpec:
    """The toy data set, without its checksum."""
    manifest = spec(server, archive() if content is None else content)
    file = manifest.files[0].model_dump() | {"md5": None, "unverified": REASON}
    return manifest.model_copy(update={"files": (manifest.files[0].__class__(**file),), **update})


def plain(server: Server, *names: str, **update: Any) -> DatasetSpec:
    """A data set with a plain file that the server has under some names."""
    file = {"name": "a.bin", "urls": [f"{server.url}/{name}" for name in names]}
    values = {"unverified": REASON} if "sha256" not in update else {}
    return spec(server, archive(), files=[{**file, **values, **update}])


def error(manifest: DatasetSpec, root: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        fetch(manifest, root, Notes())
    return caught.value


# --- no published checksum ---------------------------------------------------------------------


def test_what_is_recorded_at_the_first_fetch(server: Server, tmp_path: Path) -> None:
    manifest = unverified(server)
    images = load_split(manifest, "test", tmp_path)
    assert len(images) == 4
    path = tmp_path / "toy/toy.tar.gz"
    record = json.loads((tmp_path / "toy/toy.tar.gz.first-fetch.json").read_text())
    assert record["sha256"] == sha256(archive()).hexdigest()
    assert record["size"] == len(archive())
    assert record["source"] == f"{server.url}/toy.tar.gz"
    assert "@" in record["fetched_by"]
    assert record["fetched_at"].endswith("+00:00")
    assert record["oodbench"] == __version__
    assert checksums_of(manifest, tmp_path) == {"toy.tar.gz": record["sha256"]}
    # Nothing is fetched or unpacked again, also where only the record is left of the archive.
    path.unlink()
    again = load_split(manifest, "test", tmp_path)
    assert again.fingerprint() == images.fingerprint()
    assert len(server.requests) == 1


def test_a_file_that_has_changed(server: Server, tmp_path: Path) -> None:
    manifest = plain(server, "a.bin")
    fetch(manifest, tmp_path, Silent())
    path = tmp_path / "toy/a.bin"
    path.write_bytes(CONTENT[::-1])
    changed = error(manifest, tmp_path)
    day = first_fetch(path).day  # type: ignore[union-attr]
    assert changed.message == (
        f"data set 'toy': {path} has changed since it was first fetched (on {day}, from "
        f"{server.url}/a.bin): it has sha256 {sha256(CONTENT[::-1]).hexdigest()} instead of "
        f"{sha256(CONTENT).hexdigest()}."
    )
    assert changed.hint == (
        f"Delete it to fetch it again. If the new file is right, delete {record_path(path)} "
        "instead; results may differ then."
    )
    assert path.read_bytes() == CONTENT[::-1], "it is not touched"
    record_path(path).unlink()
    fetch(manifest, tmp_path, Silent())
    assert first_fetch(path).sha256 == sha256(CONTENT[::-1]).hexdigest()  # type: ignore[union-attr]


def test_a_file_that_its_publisher_replaced(server: Server, tmp_path: Path) -> None:
    manifest = plain(server, "a.bin")
    fetch(manifest, tmp_path, Silent())
    (tmp_path / "toy/a.bin").unlink()
    server.files["/a.bin"] = CONTENT[::-1]
    replaced = error(manifest, tmp_path)
    assert f"it sent sha256 {sha256(CONTENT[::-1]).hexdigest()} instead of" in replaced.message
    record = tmp_path / "toy/a.bin.first-fetch.json"
    assert replaced.hint.endswith(
        f"If the file was replaced by its publisher, delete {record} to accept the new one; "
        "results may differ then."
    )
    record.unlink()
    fetch(manifest, tmp_path, Silent())


def test_a_record_that_was_not_written_to_its_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no record: the next command makes it."""

    def half(path: Path, record: object) -> None:
        path.write_bytes(b'{"sha256": "')
        raise KeyboardInterrupt

    manifest = plain(server, "a.bin")
    with monkeypatch.context() as patch:
        patch.setattr(checksums_module, "write_checksummed", half)
        with pytest.raises(KeyboardInterrupt):
            fetch(manifest, tmp_path, Silent())
    fetch(manifest, tmp_path, Silent())
    assert first_fetch(tmp_path / "toy/a.bin") is not None
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {".lock", "a.bin", "a.bin.first-fetch.json"}


def test_a_file_that_the_user_placed(server: Server, tmp_path: Path) -> None:
    manifest = plain(server, "a.bin")
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fetch(manifest, tmp_path, Silent())
    assert server.requests == []
    found = first_fetch(tmp_path / "toy/a.bin")
    assert found is not None
    assert found.source == str(tmp_path / "a.bin")


def test_a_file_of_another_data_set_is_used(server: Server, tmp_path: Path) -> None:
    """Only where it is from one of the addresses of the manifest."""
    fetch(plain(server, "a.bin"), tmp_path, Silent())
    other = plain(server, "b.bin", "a.bin").model_copy(update={"name": "other"})
    fetch(other, tmp_path, Silent())
    assert len(server.requests) == 1
    found = first_fetch(tmp_path / "other/a.bin")
    assert found is not None
    assert found.source == f"{server.url}/a.bin"
    server.files["/c.bin"] = CONTENT[::-1]
    third = plain(server, "c.bin").model_copy(update={"name": "third"})
    fetch(third, tmp_path, Silent())
    assert (tmp_path / "third/a.bin").read_bytes() == CONTENT[::-1]


def test_a_damaged_record(server: Server, tmp_path: Path) -> None:
    manifest = plain(server, "a.bin")
    fetch(manifest, tmp_path, Silent())
    record = tmp_path / "toy/a.bin.first-fetch.json"
    record.write_text(record.read_text().replace(sha256(CONTENT).hexdigest(), "0" * 64))
    damaged = error(manifest, tmp_path)
    assert damaged.message == (
        f"The record of the checksum of a.bin is damaged: {record}: a.bin.first-fetch.json is not "
        "what was written."
    )
    assert damaged.hint.startswith(f"If you trust {tmp_path / 'toy/a.bin'}, delete the record")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Quota exceeded</html>", b"PK\3\4 cut"])
def test_a_file_placed_by_hand_that_cannot_be_it(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    """A browser stores the page that Drive sends; and a download may stop."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a", "x")
    server.files["/a.zip"] = packed.getvalue()
    manifest = plain(server, "a.zip", name="a.zip")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/a.zip").write_bytes(content)
    notes = Notes()
    fetch(manifest, tmp_path, notes)
    kind = "a web page" if content.startswith(b"<") else "an incomplete zip archive"
    assert notes.warnings == [
        f"data set 'toy': {tmp_path / 'toy/a.zip'} is not used: it has the content of {kind}; it "
        f"is now {tmp_path / 'toy/a.zip.wrong'}"
    ]
    assert (tmp_path / "toy/a.zip").read_bytes() == packed.getvalue()


def test_an_archive_that_cannot_be_unpacked(server: Server, tmp_path: Path) -> None:
    broken = error(unverified(server, archive()[:200]), tmp_path)
    path = tmp_path / "toy/toy.tar.gz"
    assert broken.message.startswith(f"Cannot unpack {path}: ")
    assert broken.hint.endswith(f"delete {path} and {record_path(path)} to fetch it again.")


# --- resuming ----------------------------------------------------------------------------------


def stop_once(server: Server, name: str, **headers: str) -> None:
    """The first answer for a file ends in its middle."""

    def at_first(handler: Any) -> None:
        del server.behaviors[name]
        send(handler, CONTENT, upto=HALF, **headers)  # type: ignore[arg-type]

    server.behaviors[name] = at_first


def test_a_part_is_resumed_at_the_same_address(server: Server, tmp_path: Path) -> None:
    stop_once(server, "/a.bin")
    fetch(plain(server, "a.bin"), tmp_path, Silent())
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert (tmp_path / "toy/a.bin").read_bytes() == CONTENT
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {".lock", "a.bin", "a.bin.first-fetch.json"}


@pytest.mark.parametrize("known", [True, False])
def test_a_part_of_another_mirror(server: Server, tmp_path: Path, known: bool) -> None:
    """It is resumed only where a checksum shows that both have the same file."""
    server.files["/b.bin"] = CONTENT

    def cut(handler: Any) -> None:
        if len(server.requests) == 1:
            send(handler, CONTENT, upto=HALF)
        else:
            handler.send_error(404)

    server.behaviors["/a.bin"] = cut
    checksum = {"sha256": sha256(CONTENT).hexdigest()} if known else {}
    notes = Notes()
    fetch(plain(server, "a.bin", "b.bin", **checksum), tmp_path, notes)
    rest = f"bytes={HALF}-"
    assert server.requests == [
        *(("/a.bin", None), ("/a.bin", rest)),
        ("/b.bin", rest if known else None),
    ]
    assert (tmp_path / "toy/a.bin").read_bytes() == CONTENT
    assert notes.warnings == [
        f"data set 'toy': a.bin: {server.url}/a.bin: HTTP 404 Not Found; trying {server.url}/b.bin"
    ]


def test_a_file_that_changes_between_two_parts(server: Server, tmp_path: Path) -> None:
    stop_once(server, "/a.bin")
    new = CONTENT[::-1] + b"more"
    server.files["/a.bin"] = new
    fetch(plain(server, "a.bin"), tmp_path, Silent())
    assert (tmp_path / "toy/a.bin").read_bytes() == new
    assert server.ranges() == [None, f"bytes={HALF}-", None]


def test_a_file_of_unknown_length(server: Server, tmp_path: Path) -> None:
    server.behaviors["/a.bin"] = lambda handler: send(handler, CONTENT, length=False)
    assert (
        "it does not say the length of the file" in error(plain(server, "a.bin"), tmp_path).message
    )


# --- oodbench data verify ----------------------------------------------------------------------


def test_verification_names_them(server: Server, tmp_path: Path) -> None:
    manifest = unverified(server)
    load_split(manifest, "test", tmp_path)
    result = verify(manifest, tmp_path, Silent(), wanted=True)
    assert result.findings == []
    assert result.checked[0] == (
        "as first fetched, not verified against a published checksum: toy.tar.gz"
    )
    path = tmp_path / "toy/toy.tar.gz"
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = verify(manifest, tmp_path, Silent()).findings
    assert finding.path == path
    assert finding.problem == f"has {len(archive()) - 1:,} bytes instead of {len(archive()):,}"


# --- texts -------------------------------------------------------------------------------------


def listed(server: Server, *names: str) -> DatasetSpec:
    checksum = sha256(LINES).hexdigest()
    return plain(server, *names, name="test.txt", text=True, sha256=checksum, size=len(LINES))


@pytest.mark.parametrize("sent", [LINES, LINES.replace(b"\n", b"\r\n")])
def test_line_ends_of_a_text(server: Server, tmp_path: Path, sent: bytes) -> None:
    server.files["/test.txt"] = sent
    fetch(listed(server, "test.txt"), tmp_path, Silent())
    assert (tmp_path / "toy/test.txt").read_bytes() == LINES


def test_a_text_that_the_user_placed(server: Server, tmp_path: Path) -> None:
    windows = LINES.replace(b"\n", b"\r\n")
    (tmp_path / "test.txt").write_bytes(windows)
    fetch(listed(server), tmp_path, Silent())
    assert (tmp_path / "toy/test.txt").read_bytes() == LINES
    (tmp_path / "toy/test.txt").write_bytes(windows)
    fetch(listed(server), tmp_path, Silent())
    assert (tmp_path / "toy/test.txt").read_bytes() == windows, "files of the user stay as they are"


def test_mirrors_of_a_text_with_other_line_ends(server: Server, tmp_path: Path) -> None:
    server.files["/b.txt"] = LINES.replace(b"\n", b"\r\n")
    server.behaviors["/a.txt"] = lambda handler: send(handler, LINES, upto=9)
    fetch(listed(server, "a.txt", "b.txt"), tmp_path, Notes())
    assert (tmp_path / "toy/test.txt").read_bytes() == LINES
    assert set(server.ranges()) == {None}, "parts of two mirrors do not fit together"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (LINES + b"c.png 2\n", "24 bytes instead of 16"),
        (LINES.replace(b"1", b"2"), "it sent sha256 "),
        (LINES * 9, "it has 144 bytes there, at most 32 fit"),
    ],
)
def test_another_text(server: Server, tmp_path: Path, sent: bytes, said: str) -> None:
    server.files["/test.txt"] = sent
    assert said in error(listed(server, "test.txt"), tmp_path).message
