"""Published lists and their images are fetched once, from the first source that has them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from helpers.notes import Notes
from helpers.servers import Server, refuse, serving
from PIL import Image

from oodbench.data import load_split
from oodbench.data.listed_files import is_present, used_files
from oodbench.data.missing_files import NeededFiles
from oodbench.data.store import download as download_module
from oodbench.data.store.availability import dataset_state
from oodbench.data.store.download import OfflineError
from oodbench.data.store.fetching import unverified_files
from oodbench.data.store.verification import repair, verify
from oodbench.errors import UserError
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec

LIST = b"toy/val/1.png -1\ntoy/val/0.png -1\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        running.files = {"/b/test_toy.txt": LIST, "/toy.zip": images(), "/bundle.zip": bundle()}
        yield running


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time of writing
    return file.getvalue()


def images() -> bytes:
    members = {}
    for value in range(2):
        file = io.BytesIO()
        Image.new("L", (8, 8), value).save(file, "PNG")
        members[f"val/{value}.png"] = file.getvalue()
    return zipped(members)


def bundle() -> bytes:
    return zipped({"benchmark_imglist/toy/test_toy.txt": LIST.replace(b"\n", b"\r\n")})


def manifest(server: Server, **update: Any) -> DatasetSpec:
    """A list with two mirrors, of which the first is broken, and images at two places."""
    content = server.files.get("/toy.zip", images())
    file = {"name": "toy.zip", "sha256": sha256(content).hexdigest()}
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": "list",
        "folder": ".",
        "lists": {
            "test": {
                "path": "benchmark_imglist/toy/test_toy.txt",
                "urls": [f"{server.url}/a/test_toy.txt", f"{server.url}/b/test_toy.txt"],
                "sha256": sha256(LIST).hexdigest(),
            }
        },
        "list_archive": {
            "name": "bundle.zip",
            "urls": [f"{server.url}/bundle.zip"],
            "unverified": "none is published",
        },
        "places": [
            {"folder": "images_classic"},
            {
                "folder": "first",
                "path": "toy.zip",
                "match": "tail",
                "files": [{**file, "urls": [f"{server.url}/absent/toy.zip"]}],
            },
            {
                "folder": "second",
                "path": "toy.zip",
                "match": "tail",
                "files": [{**file, "urls": [f"{server.url}/toy.zip"]}],
            },
        ],
        "shape": [3, 8, 8],
        "splits": {"test": 2},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


def values(spec: DatasetSpec, root: Path) -> list[int]:
    return load_split(spec, "test", root, Notes()).images[:, 0, 0, 0].tolist()


def asked(server: Server) -> list[str]:
    return [path for path, _ in server.requests]


def test_the_first_source_that_has_them_is_used(server: Server, tmp_path: Path) -> None:
    spec = manifest(server)
    assert dataset_state(spec, tmp_path).state == "not fetched"
    assert values(spec, tmp_path) == [1, 0]
    assert (tmp_path / "benchmark_imglist/toy/test_toy.txt").read_bytes() == LIST
    assert (tmp_path / "second/toy.zip").is_file()
    assert not (tmp_path / "first/toy.zip").exists()
    before = asked(server)
    assert before[-1] == "/toy.zip"
    assert values(manifest(server, name="other"), tmp_path) == [1, 0]
    assert asked(server) == before, "the list and the images are shared"
    assert dataset_state(spec, tmp_path).state == "present"
    assert is_present(spec, tmp_path)


def test_the_archive_of_all_lists_is_the_last_mirror(server: Server, tmp_path: Path) -> None:
    server.behaviors["/b/test_toy.txt"] = refuse(404)
    assert values(manifest(server), tmp_path) == [1, 0]
    assert "/bundle.zip" in asked(server)
    assert (tmp_path / "benchmark_imglist/toy/test_toy.txt").read_bytes() == LIST


def test_an_archive_with_another_list(server: Server, tmp_path: Path) -> None:
    server.behaviors["/b/test_toy.txt"] = refuse(404)
    server.files["/bundle.zip"] = zipped({"benchmark_imglist/toy/test_toy.txt": b"other"})
    with pytest.raises(UserError) as caught:
        values(manifest(server), tmp_path)
    assert "its list cannot be fetched: " in caught.value.message
    assert "bundle.zip has another version of toy/test_toy.txt." in caught.value.message
    assert f"Put the folder 'benchmark_imglist' into {tmp_path}" in caught.value.hint


def test_a_machine_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    spec = manifest(server)
    with pytest.raises(OfflineError, match=r"^data set 'toy', split 'test': its list cannot be"):
        values(spec, tmp_path)
    missing = NeededFiles((spec,)).missing(tmp_path)
    assert [(file.target.relative_to(tmp_path).as_posix(), file.urls) for file in missing] == [
        ("benchmark_imglist/toy/test_toy.txt", spec.lists["test"].urls),
        ("first/toy.zip", spec.places[1].files[0].urls),
    ]
    for file, content in zip(missing, (LIST, images()), strict=True):
        file.target.parent.mkdir(parents=True, exist_ok=True)
        file.target.write_bytes(content)
    assert NeededFiles((spec,)).missing(tmp_path) == []
    assert values(spec, tmp_path) == [1, 0]
    assert server.requests == []


def test_a_wrong_archive_is_not_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/toy.zip").write_bytes(zipped({"val/0.png": b"", "val/1.png": b""}))
    notes = Notes()
    data = load_split(manifest(server), "test", tmp_path, notes)
    assert data.images[:, 0, 0, 0].tolist() == [1, 0]
    assert (tmp_path / "second/toy.zip.wrong").is_file()
    assert any("toy.zip is not used" in text for text in notes.warnings)


def test_the_archive_that_is_used_is_verified(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a folder that comes first has the first images of the list, but not all."""
    monkeypatch.setattr("oodbench.data.listed_files._FIRST", 1)
    (tmp_path / "images_classic/toy/val").mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(images())) as archive:
        (tmp_path / "images_classic/toy/val/1.png").write_bytes(archive.read("val/1.png"))
    (tmp_path / "second").mkdir()
    (tmp_path / "second/toy.zip").write_bytes(zipped({"val/0.png": b"", "val/1.png": b""}))
    assert values(manifest(server), tmp_path) == [1, 0]
    assert (tmp_path / "second/toy.zip.wrong").is_file()


def test_changed_files_are_found(server: Server, tmp_path: Path) -> None:
    spec = manifest(server)
    assert verify(spec, tmp_path, Silent()).findings == []
    values(spec, tmp_path)
    assert verify(spec, tmp_path, Silent(), wanted=True).findings == []
    with (tmp_path / "second/toy.zip").open("r+b") as file:
        file.seek(40)
        file.write(b"damage")
    (finding,) = verify(spec, tmp_path, Silent(), wanted=True).findings
    assert (finding.layer, finding.path) == ("file", tmp_path / "second/toy.zip")
    repair(spec, tmp_path, Notes())
    assert verify(spec, tmp_path, Silent(), wanted=True).findings == []


def test_an_archive_that_cannot_be_read_any_more(server: Server, tmp_path: Path) -> None:
    spec = manifest(server)
    values(spec, tmp_path)
    (tmp_path / "second/toy.zip").write_bytes(b"damage")
    (finding,) = verify(spec, tmp_path, Silent(), wanted=True).findings
    assert (finding.layer, finding.path) == ("file", tmp_path / "second/toy.zip")
    assert finding.problem.startswith("has sha256 ")
    with pytest.raises(UserError, match=r"toy\.zip: File is not a zip file"):
        values(spec, tmp_path)


def test_files_without_a_checksum_are_named(server: Server, tmp_path: Path) -> None:
    spec = manifest(server)
    (last,) = (place for place in spec.places if place.folder == "second")
    file = last.files[0].model_copy(update={"sha256": None, "unverified": "none is published"})
    spec = spec.model_copy(update={"places": (last.model_copy(update={"files": (file,)}),)})
    assert values(spec, tmp_path) == [1, 0]
    assert any("toy.zip" in text for text in verify(spec, tmp_path, Silent()).checked)
    (files,) = used_files(spec, tmp_path)
    ((named, record),) = unverified_files(files, tmp_path).items()
    assert named.name == "toy.zip"
    assert record is not None
    assert record.source == f"{server.url}/toy.zip"


def test_a_folder_of_training_images_is_the_users(server: Server, tmp_path: Path) -> None:
    spec = manifest(
        server,
        num_classes=None,
        class_folders={"validation": {"folders": ["images_large/train", "train"]}},
        splits={"test": 2, "validation": 1},
    )
    with pytest.raises(UserError, match="there is no folder of the images; looked for: "):
        load_split(spec, "validation", tmp_path)
    (tmp_path / "data").mkdir()
    assert [file.what for file in NeededFiles((spec,)).missing(tmp_path)][-1] == (
        "the validation images of Toy, one sub-folder per class"
    )


def test_a_damaged_archive_is_fetched_again(server: Server, tmp_path: Path) -> None:
    spec = manifest(server)
    values(spec, tmp_path)
    path = tmp_path / "second/toy.zip"
    path.write_bytes(path.read_bytes()[:-30])
    (finding,) = verify(spec, tmp_path, Silent(), wanted=True).findings
    assert finding.path == path
    assert finding.problem.startswith("has sha256 ")
    repair(spec, tmp_path, Notes())
    assert verify(spec, tmp_path, Silent(), wanted=True).findings == []
    assert values(spec, tmp_path) == [1, 0]


def test_an_archive_without_a_published_checksum(server: Server, tmp_path: Path) -> None:
    file = {"name": "toy.zip", "urls": [f"{server.url}/toy.zip"], "unverified": "none is known"}
    place = {"folder": "second", "path": "toy.zip", "match": "tail", "files": [file]}
    spec = manifest(server, places=[place])
    values(spec, tmp_path)
    checked = verify(spec, tmp_path, Silent(), wanted=True).checked
    assert "as first fetched, not verified against a published checksum: toy.zip" in checked
    (used,) = used_files(spec, tmp_path)
    assert used.folder == "second"
    path = tmp_path / "second/toy.zip"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"toy\.zip has changed since it was first fetched"):
        repair(spec, tmp_path, Notes())
