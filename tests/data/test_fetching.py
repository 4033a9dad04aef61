"""Data sets with `files`: fetched, unpacked and decoded, each when it is needed and only then."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.servers import Server, refuse, serving
from helpers.standins import NAMES, use_standins, write_standins
from helpers.toy_set import archive, spec

from oodbench.data import load_split
from oodbench.data.store import download as download_module
from oodbench.data.store.fetching import fetch
from oodbench.data.store.image_cache import folders_named
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.specs import DatasetSpec


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_DATA", raising=False)
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def test_a_data_set_is_fetched_when_it_is_needed(server: Server, tmp_path: Path) -> None:
    manifest, notes = spec(server, archive()), Notes()
    first = load_split(manifest, "test", tmp_path, notes)
    assert len(first) == 4
    assert notes.warnings == []
    assert any(text.startswith("downloading toy: toy.tar.gz") for text in notes.details)
    assert load_split(manifest, "test", tmp_path).fingerprint() == first.fingerprint()
    assert len(server.requests) == 1
    record = json.loads((tmp_path / "toy/unpacked/record.json").read_text())
    assert record["archives"] == {"toy.tar.gz": manifest.files[0].md5}
    assert sorted(record["files"]) == [f"toy/toy/{index}.png" for index in range(4)]


def test_who_needs_it_at_the_same_time_waits(server: Server, tmp_path: Path) -> None:
    manifest = spec(server, archive())
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load_split, manifest, "test", tmp_path) for _ in range(4)]
    assert len({load.result().fingerprint() for load in loads}) == 1
    assert len(server.requests) == 1


def test_what_is_decoded_needs_neither_the_files_nor_a_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = spec(server, archive())
    before = load_split(manifest, "test", tmp_path).fingerprint()
    shutil.rmtree(tmp_path / "toy")
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    assert load_split(manifest, "test", tmp_path).fingerprint() == before


def test_what_is_unpacked_needs_no_archive(server: Server, tmp_path: Path) -> None:
    manifest = spec(server, archive())
    load_split(manifest, "test", tmp_path)
    (tmp_path / "toy/toy.tar.gz").unlink()
    shutil.rmtree(tmp_path / "cache")
    assert len(load_split(manifest, "test", tmp_path)) == 4
    assert len(server.requests) == 1


@pytest.mark.parametrize("place", ["toy", "."])
def test_a_file_that_was_put_there_by_hand(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    manifest = spec(server, archive())
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "toy.tar.gz").write_bytes(archive())
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    assert len(load_split(manifest, "test", tmp_path)) == 4
    assert server.requests == []


@pytest.mark.parametrize("place", ["toy", "."])
def test_a_wrong_file_that_was_put_there_by_hand(
    server: Server, tmp_path: Path, place: str
) -> None:
    manifest, notes = spec(server, archive()), Notes()
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "toy.tar.gz").write_bytes(b"something else")
    assert len(load_split(manifest, "test", tmp_path, notes)) == 4
    (warning,) = notes.warnings
    # What lies in the data root is in nobody's way.
    kept = tmp_path / ("toy/toy.tar.gz.wrong" if place == "toy" else "toy.tar.gz")
    assert warning == (
        f"data set 'toy': {tmp_path / place / 'toy.tar.gz'} is not used: it has md5 "
        f"{md5(b'something else').hexdigest()} instead of {manifest.files[0].md5}"
        + (f"; it is now {kept}" if place == "toy" else "")
    )
    assert kept.read_bytes() == b"something else"
    assert len(server.requests) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_every_wrong_file_is_kept(server: Server, tmp_path: Path, elsewhere: bool) -> None:
    """Whether the right one is downloaded, or lies in the data root and is linked."""
    manifest = spec(server, archive())
    (tmp_path / "toy").mkdir()
    if elsewhere:
        (tmp_path / "toy.tar.gz").write_bytes(archive())
    for content in (b"first", b"second", b"third"):
        shutil.rmtree(tmp_path / "toy/unpacked", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        (tmp_path / "toy/toy.tar.gz").unlink(missing_ok=True)
        (tmp_path / "toy/toy.tar.gz").write_bytes(content)
        with pytest.warns(UserWarning, match="is not used: it has md5 .* it is now .*wrong"):
            load_split(manifest, "test", tmp_path)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "toy").glob("*.wrong*")}
    assert kept == {
        "toy.tar.gz.wrong": b"first",
        "toy.tar.gz.wrong-2": b"second",
        "toy.tar.gz.wrong-3": b"third",
    }


def test_a_copy_that_was_not_made_to_its_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has no name yet, so it is not taken for a wrong one."""
    manifest, notes = spec(server, archive()), Notes()
    (tmp_path / "toy.tar.gz").write_bytes(archive())

    def no_link(path: Path, target: Path) -> None:
        raise OSError

    def half(path: Path, target: Path) -> None:
        target.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", no_link)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(KeyboardInterrupt):
            fetch(manifest, tmp_path, notes)
    fetch(manifest, tmp_path, notes)
    assert notes.warnings == []
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {".lock", "toy.tar.gz", "unpacked"}


def test_offline_names_the_file_and_the_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        load_split(spec(server, archive()), "test", tmp_path)
    assert f"put it into {tmp_path / 'toy'} as toy.tar.gz" in caught.value.hint


def test_a_refused_download_leaves_nothing_that_looks_whole(server: Server, tmp_path: Path) -> None:
    manifest = spec(server, archive())
    server.behaviors["/toy.tar.gz"] = refuse(404)
    with pytest.raises(UserError, match="cannot download"):
        load_split(manifest, "test", tmp_path)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == [".lock"]
    server.behaviors.clear()
    assert len(load_split(manifest, "test", tmp_path)) == 4


def test_an_archive_that_is_refused_leaves_nothing_that_looks_whole(
    server: Server, tmp_path: Path
) -> None:
    manifest = spec(server, archive(9), splits={"test": 9})
    limited = manifest.model_copy(
        update={"files": (manifest.files[0].model_copy(update={"unpacked_limit": 100}),)}
    )
    with pytest.raises(UserError, match="larger than 100 bytes"):
        load_split(limited, "test", tmp_path)
    names = sorted(path.name for path in (tmp_path / "toy").iterdir())
    assert names == [".lock", "toy.tar.gz"]
    assert len(load_split(manifest, "test", tmp_path)) == 9


def test_a_half_unpacked_archive_is_unpacked_again(server: Server, tmp_path: Path) -> None:
    manifest, notes = spec(server, archive()), Notes()
    load_split(manifest, "test", tmp_path)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "toy/unpacked/content/toy/toy/2.png").unlink()
    assert len(load_split(manifest, "test", tmp_path, notes)) == 4
    assert "is incomplete" in notes.warnings[0]
    # And one that was killed before it got its name.
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "toy/unpacked").rename(tmp_path / "toy/.writing-unpacked-x")
    assert len(load_split(manifest, "test", tmp_path)) == 4
    assert len(server.requests) == 1


def test_another_version_of_the_archive(server: Server, tmp_path: Path) -> None:
    before = load_split(spec(server, archive()), "test", tmp_path).fingerprint()
    notes = Notes()
    after = load_split(spec(server, archive(seed=1)), "test", tmp_path, notes).fingerprint()
    assert before != after
    assert "is not used" in notes.warnings[0]
    assert len(folders_named("toy")) == 2


def plain_spec(server: Server) -> DatasetSpec:
    """A manifest of a data set with one file that is used as it is."""
    file = io.BytesIO()
    np.savez(file, images=np.zeros((4, 6, 6, 3), np.uint8))
    content = file.getvalue()
    server.files["/data.npz"] = content
    about = {"name": "data.npz", "urls": [f"{server.url}/data.npz"], "size": len(content)}
    return spec(
        server,
        archive(),
        kind="npz",
        paths={"test": "data.npz"},
        files=[{**about, "md5": md5(content).hexdigest()}],
    )


def test_files_that_are_used_as_they_are(server: Server, tmp_path: Path) -> None:
    assert len(load_split(plain_spec(server), "test", tmp_path)) == 4
    assert not (tmp_path / "toy/unpacked").exists()


def test_whole_files_in_a_folder_that_can_only_be_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = plain_spec(server)
    (tmp_path / "toy").mkdir()
    path = tmp_path / "toy/data.npz"
    path.write_bytes(server.files["/data.npz"])
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    (tmp_path / "toy").chmod(0o555)  # root may write there all the same
    try:
        assert len(load_split(manifest, "test", tmp_path)) == 4
    finally:
        (tmp_path / "toy").chmod(0o755)
    assert list((tmp_path / "toy").iterdir()) == [path]
    shutil.rmtree(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with (
        pytest.warns(UserWarning, match="is not used: it has md5"),
        pytest.raises(UserError, match="OODBENCH_OFFLINE forbids"),
    ):
        load_split(manifest, "test", tmp_path)


def test_archives_and_other_files_lie_together(server: Server, tmp_path: Path) -> None:
    """A list of the images that is published beside the archive."""
    content = b"toy/toy/3.png\ntoy/toy/1.png\n"
    base = spec(server, archive())
    server.files["/list.txt"] = content
    listed = {"name": "list.txt", "urls": [f"{server.url}/list.txt"]}
    manifest = spec(
        server,
        archive(),
        kind="list",
        paths={"test": "list.txt"},
        splits={"test": 2},
        files=[base.files[0].model_dump(), {**listed, "md5": md5(content).hexdigest()}],
    )
    whole = load_split(base, "test", tmp_path / "a")
    chosen = load_split(manifest, "test", tmp_path / "b")
    np.testing.assert_array_equal(chosen.images, whole.images[[3, 1]])


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"kind": "builtin", "builder": "x", "paths": {}}, "takes neither split_from nor files"),
        ({"files": [{"name": "a.tar"}]}, "file 'a.tar' needs a checksum.*'unverified: REASON'"),
        (
            {"files": [{"name": "a", "md5": "0" * 32, "unverified": "old"}]},
            "file 'a' has a checksum: remove 'unverified'",
        ),
        (
            {"files": [{"name": "a", "md5": "0" * 32, "text": True, "unpacked_limit": 9}]},
            "file 'a': an archive .* is no text",
        ),
        ({"files": [{"name": "a", "md5": "0" * 32}] * 2}, "two files have the same name"),
        ({"files": [{"name": "../a", "md5": "0" * 32}]}, "should match pattern"),
        ({"files": [{"name": "a", "md5": "0" * 32, "urls": ["file:///x"]}]}, "match pattern"),
    ],
)
def test_manifests_that_are_refused(server: Server, update: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(server, archive(), **update)


def test_the_stand_ins_are_read_as_the_originals_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_standins(tmp_path / "standins", train=30, validation=20, test=20)
    use_standins(folder, monkeypatch)
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    for name in NAMES:
        manifest = Catalog().dataset(name)
        for split, count in manifest.splits.items():
            data = load_split(manifest, split)
            assert data.images.shape == (count, 3, 32, 32)
            assert (data.labels is None) == (name in ("tin_resize", "lsun_resize"))


def test_the_stand_ins_can_be_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the nearest mean color; what a network would do with the stripes comes on top."""
    folder = write_standins(tmp_path / "standins", train=60, validation=20, test=40)
    use_standins(folder, monkeypatch)
    for name in ("cifar10", "cifar100", "svhn"):
        train, test = (load_split(Catalog().dataset(name), split) for split in ("train", "test"))
        colors = [data.images.mean(axis=(2, 3)) for data in (train, test)]
        means = np.stack([colors[0][train.labels == label].mean(axis=0) for label in range(10)])
        guessed = ((colors[1][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        assert (guessed == test.labels).mean() > 0.7
